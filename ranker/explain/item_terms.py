"""What one item of a page scores by, in names: the terms of an explanation."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from ranker.explain.deep_part import DeepPart
from ranker.explain.wide_part import name_of, wide_part
from ranker.versions.model import Version
from stream.events.named_explanations import DeepTerm, WideTerm
from stream.features.encoder import Batch
from stream.features.value_names import ValueNames
from stream.tables.dtypes import F64, U64

LISTED_MAX: Final = 3  # values of a list that are named


class ItemTerms(NamedTuple):
    """See ItemExplanation."""

    logit: float
    bias: float
    wide: float
    deep: float
    wide_terms: list[WideTerm]
    wide_fired: int
    deep_terms: list[DeepTerm]
    deep_columns: int


def explain_items(
    version: Version, deep: DeepPart | None, words: U64, positions: Sequence[int], names: ValueNames, terms_max: int
) -> list[ItemTerms]:
    """Explain some items of a page, which is as it's served and has its statistics. `deep`: the version's, if any."""
    logits, at = version.logits(words), np.array(positions, np.int64)
    n, columns = len(at), len(deep.names) if deep else 0
    parts: F64 = np.zeros(n)
    losses: F64 = np.zeros((2, n, columns))
    if deep:
        parts, losses = deep.losses(deep.inputs(words, at), deep.usual, deep.missing)
    found = []
    for i, position in enumerate(positions):
        wide = wide_part(version, words, position)
        largest = np.argsort(-np.abs(losses[0, i]), kind="stable")[:terms_max]
        values = _values_of(version, words, position, names) if deep else {}
        named = deep.names if deep else []
        found.append(ItemTerms(
            float(logits[position]), wide.bias, wide.total, float(parts[i]),
            [WideTerm(name_of(version, one, names), one.weight) for one in wide.weights[:terms_max]], len(wide.weights),
            [DeepTerm(named[c], values[named[c]], *losses[:, i, c].tolist()) for c in largest], columns,
        ))  # fmt: skip
    return found


def _values_of(version: Version, words: U64, position: int, names: ValueNames) -> dict[str, str]:
    """The deep part's columns of an item, as texts."""
    encoder, first = version.plan.encoder, np.zeros(1, np.int64)
    ids, offsets, numbers = encoder.deep_input(Batch(words, first, first, np.array([position])), serving=True)
    lists = zip(encoder.deep_lists, offsets[:-1], offsets[1:], strict=True)
    found = {name: _list_text(name, ids[a:z].tolist(), names) for name, a, z in lists}
    return found | {name: _number_text(x) for name, x in zip(encoder.deep_numbers, numbers[0].tolist(), strict=True)}


def _list_text(name: str, ids: list[int], names: ValueNames) -> str:
    """The last values of a list: a history has its newest there."""
    more = f"{len(ids) - LISTED_MAX} more, " if len(ids) > LISTED_MAX else ""
    return more + ", ".join(names.text(name, one) for one in ids[-LISTED_MAX:]) if ids else "none"


def _number_text(number: float) -> str:
    return "missing" if np.isnan(number) else f"{number:.4g}"
