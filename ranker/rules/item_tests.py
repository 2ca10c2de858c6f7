"""Which items a rule is about: one of kind require, forbid or boost, compiled."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from ranker.kernels.rule_matching import has_any
from ranker.rules.item_attributes import ItemAttributes, ids_of, number_of
from ranker.rules.request_values import RequestValues
from stream.spec.rules import ItemRule
from stream.tables.dtypes import F64, I64, U64, Bools

COMPARED: Final[Mapping[str, Callable[[F64, float], Any]]] = {
    "at_least": np.greater_equal,
    "at_most": np.less_equal,
    "above": np.greater,
    "below": np.less,
}


class ItemRows(NamedTuple):
    """Items by name [n], and their rows in the catalogue [n]; 0: unknown."""

    names: Sequence[str]
    rows: I64


def item_rows(names: Sequence[str], rows: I64) -> ItemRows:
    """`rows` as `Catalogue.lookup` returns them."""
    return ItemRows(names, np.maximum(rows, 0))


class ItemTest:
    """Says which candidates match; see ItemRule."""

    def __init__(self, rule: ItemRule) -> None:
        self._rule, self._items = rule, frozenset(rule.items)
        self._wanted = _id_array(rule.of, [*rule.values]) if rule.values else None
        self._bounds = rule.bounds()

    def matches(self, candidates: ItemRows, values: RequestValues, attributes: ItemAttributes) -> Bools:
        """bool [n]."""
        if self._items:
            return np.array([name in self._items for name in candidates.names], bool)
        found = np.ones(len(candidates.rows), bool)
        if self._wanted is not None:
            found &= self._has_any(candidates, attributes, self._wanted)
        if self._rule.equals:
            value = self._given(self._rule.equals, values)
            found &= self._has_any(candidates, attributes, np.array(ids_of(self._rule.of, value), np.uint64))
        if self._bounds:
            arrays = attributes.of(candidates.rows)
            numbers = arrays.numbers[candidates.rows, attributes.numbers.index(self._rule.of)]
            for name, bound in self._bounds.items():
                limit = number_of(self._given(bound, values)) if isinstance(bound, str) else bound
                found &= COMPARED[name](numbers, limit)
        return found

    def _given(self, column: str, values: RequestValues) -> Any:
        value = values.value(column)
        return self._rule.default if value is None else value

    def _has_any(self, candidates: ItemRows, attributes: ItemAttributes, wanted: U64) -> Bools:
        arrays, slot = attributes.of(candidates.rows), attributes.texts.index(self._rule.of)
        found: Bools = has_any(arrays.starts, arrays.counts, arrays.ids, candidates.rows, slot, wanted)
        return found


def _id_array(column: str, values: Sequence[str | float]) -> U64:
    return np.array([one for value in values for one in ids_of(column, value)], np.uint64)
