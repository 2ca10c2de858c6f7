"""What one example costs a learner, and one request a ranker, by the spec: CPU time, as measured.

Constants are of `python -m benchmarks size` and of the benchmarks that are named; docs/sizing.md says on which machine.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from stream.spec.spec import Spec
from stream.spec.statistic_kinds import kind_of
from thalweg.sizing.load import Load


class Work(NamedTuple):
    """An example's: 1, wide keys, rows of statistics, numbers of embedding rows, weights of the tower."""

    example: float
    wide_keys: float
    statistics_rows: float
    embedding_values: float
    weights: float


def work_of(spec: Spec, load: Load) -> Work:
    """The work that one example is."""
    deep = "deep" in spec.parts
    keys = sum(product(spec, load, cross.of) for cross in spec.crosses()) + 1 if "wide" in spec.parts else 0.0
    ids = sum(load.length(spec, name) for name in deep_lists(spec)) if deep else 0.0
    return Work(1.0, keys, _statistics_rows(spec, load), ids * spec.deep.embedding_dim, sum(layers(spec)))


def deep_lists(spec: Spec) -> list[str]:
    """The deep part's columns that have embeddings."""
    columns = spec.columns()
    return [
        n
        for n in spec.deep_features()
        if n in columns and (columns[n].of or columns[n].type in ("category", "categories"))
    ]


def layers(spec: Spec) -> list[int]:
    """Weights of each layer of the tower; a number is two inputs: itself, and whether it's missing."""
    if "deep" not in spec.parts:
        return []
    lists, numbers = len(deep_lists(spec)), len(spec.deep_features()) - len(deep_lists(spec))
    widths = [lists * spec.deep.embedding_dim + 2 * numbers, *spec.deep.hidden_units, 1]
    return [a * b for a, b in pairwise(widths)]


def product(spec: Spec, load: Load, names: Sequence[str]) -> float:
    """Combinations of these columns on one page and item."""
    product = 1.0
    for name in names:
        product *= load.length(spec, name)
    return product


def _statistics_rows(spec: Spec, load: Load) -> float:
    """Rows that one label moves. Lifts move with installs alone, which are rare."""
    rows = 0.0
    for one in spec.statistics.values():
        goes_by = kind_of(one.kind).goes_by
        rows += one.neighbours if goes_by == "memory" else 0
        rows += product(spec, load, one.by or [one.to, one.of]) if goes_by in ("fields", "history") else 0
    return rows
