"""What one item of a page scores by, in names: the terms of an explanation."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from ranker.explain.deep_part import DeepPart
from ranker.explain.wide_part import name_of, wide_parts
from ranker.versions.model import Version
from stream.events.named_explanations import DeepTerm, WideTerm
from stream.features.encoder import Batch
from stream.features.value_names import ValueNames
from stream.tables.dtypes import F64, I64, U64

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
    parts: F64 = np.zeros(len(at))
    contributions: F64 = np.zeros((len(at), 0))
    if deep:
        parts, contributions = deep.contributions(deep.inputs(words, at))
    largest = np.argsort(-np.abs(contributions), axis=1, kind="stable")[:, :terms_max]
    columns = [[deep.names[c] for c in row] for row in largest.tolist()] if deep else [[]] * len(at)
    values = _values_of(version, words, at, columns, names) if deep else [[]] * len(at)
    found = []
    for i, wide in enumerate(wide_parts(version, words, at)):
        added = contributions[i, largest[i]].tolist()
        found.append(ItemTerms(
            float(logits[positions[i]]), wide.bias, wide.total, float(parts[i]),
            [WideTerm(name_of(version, one, names), one.weight) for one in wide.weights[:terms_max]], len(wide.weights),
            [DeepTerm(*term) for term in zip(columns[i], values[i], added, strict=True)], contributions.shape[1],
        ))  # fmt: skip
    return found


def _values_of(
    version: Version, words: U64, positions: I64, columns: Sequence[Sequence[str]], names: ValueNames
) -> list[list[str]]:
    """Of each item: these columns of the deep part, as texts."""
    encoder, n = version.plan.encoder, len(positions)
    batch = Batch(words, np.zeros(1, np.int64), np.zeros(n, np.int64), positions)
    ids, offsets, numbers = encoder.deep_input(batch, serving=True)
    lists = {name: f for f, name in enumerate(encoder.deep_lists)}
    numbered = {name: c for c, name in enumerate(encoder.deep_numbers)}
    found = []
    for i, chosen in enumerate(columns):
        ends = offsets[i * len(lists) :]
        found.append([
            _list_text(name, ids[ends[lists[name]] : ends[lists[name] + 1]].tolist(), names)
            if name in lists
            else _number_text(float(numbers[i, numbered[name]]))
            for name in chosen
        ])  # fmt: skip
    return found


def _list_text(name: str, ids: list[int], names: ValueNames) -> str:
    """The last values of a list: a history has its newest there."""
    more = f"{len(ids) - LISTED_MAX} more, " if len(ids) > LISTED_MAX else ""
    return more + ", ".join(names.text(name, one) for one in ids[-LISTED_MAX:]) if ids else "none"


def _number_text(number: float) -> str:
    return "missing" if np.isnan(number) else f"{number:.4g}"
