"""A spec, compiled for ranking: what all versions of one spec share.

A page has one user: whatever depends on the user alone is computed once a request. So crosses know how many of their
first columns are the user's, and the deep part's inputs are in three groups: the user's, the items', the pairs'.
"""

from typing import Final, NamedTuple

import numpy as np

from ranker.kernels.pair_cache import NO_SLOT
from stream.features.cross_products import CrossProducts, column_of
from stream.features.encoder import DeepColumns, Encoder
from stream.features.page_features import Layout
from stream.features.statistic_reads import StatisticRules
from stream.features.statistics import StatisticsProgram
from stream.spec.columns import POSITION
from stream.spec.spec import Spec
from stream.tables.dtypes import I64

GROUPS: Final = ("user", "item", "pair")


class PlanArrays(NamedTuple):
    """A plan's crosses and statistics as kernels read them."""

    sizes: I64  # i64[5], as `PageSizes`
    wide: CrossProducts
    matrices: I64  # i64[wide crosses]: which matrix of weights is the cross's, or NO_SLOT
    statistics: CrossProducts
    rules: StatisticRules
    history: int  # the user's list of items, or −1
    item_id: int  # the item's list of its id


class Group(NamedTuple):
    """Inputs of the deep part: its lists' pooled vectors, its numbers' values, then flags of which are missing."""

    deep: DeepColumns
    columns: I64  # i64[D]: each number's row in the boundaries of quantiles


class Plan:
    """A spec, compiled."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.layout = layout = Layout(spec)
        self.encoder = encoder = Encoder(spec, layout)
        self.program = program = StatisticsProgram(spec, layout)
        history = layout.user_lists.index(layout.history) if layout.history else -1
        self.item_id = layout.item_id
        self.memories = len(program.memories)
        self.explored: I64 = np.array(spec.explored_crosses() if spec.explore.needs_uncertainty else [], np.int64)
        self.arrays = PlanArrays(
            layout.size_array, encoder.wide, self._matrices(), program.crosses, program.rules, history, self.item_id
        )
        names = {name: self.group_of(name) for name in (*encoder.deep_lists, *encoder.deep_numbers)}
        self.user, self.item, self.pair = (
            self._group([name for name, group in names.items() if group == wanted]) for wanted in GROUPS
        )

    def _matrices(self) -> I64:
        """The matrix of each wide cross that is one of pairs of items, what the user has and what is shown; or −1."""
        history = self.layout.history
        pair = [history, self.spec.columns()[history].of] if history else None
        crosses = self.spec.crosses() if "wide" in self.spec.parts else []
        paired = np.array([*(list(cross.of) == pair for cross in crosses), False])
        return np.where(paired, np.cumsum(paired) - 1, NO_SLOT)

    def rows_of(self, group: Group) -> I64:
        """Which inputs of the first layer are a group's, in the group's order. int64."""
        dim, lists = self.spec.deep.embedding_dim, self.encoder.deep_lists
        names = {column_of(self.layout, name): i for i, name in enumerate(lists)}
        mine = [names[int(s), int(i)] for s, i in zip(group.deep.sides, group.deep.indices, strict=True)]
        pooled = [i * dim + c for i in mine for c in range(dim)]
        first, numbers = len(lists) * dim, len(self.encoder.deep_numbers)
        values = [first + int(c) for c in group.columns]
        return np.array([*pooled, *values, *(numbers + v for v in values)], np.int64)

    def group_of(self, name: str) -> str:
        """Whether an input is the same for all items of a page ("user"), all users ("item"), or neither."""
        if name in self.layout.user_lists or name in self.layout.user_numbers:
            return "user"
        if name in self.layout.item_lists or name in self.layout.item_numbers:
            return "pair" if name in self.layout.built_in.of_pages else "item"
        if name == POSITION:
            return "user" if self.encoder.serve_position is not None else "pair"
        k = self.layout.statistics.index(name.removeprefix("statistics."))
        crosses = self.program.crosses
        first, last = crosses.offsets[k : k + 2]
        return "user" if crosses.user_columns[k] == last - first else "pair"

    def _group(self, names: list[str]) -> Group:
        numbers = self.encoder.deep_numbers
        columns = np.array([numbers.index(name) for name in names if name in numbers], np.int64)
        position = self.encoder.serve_position
        deep = self.encoder.deep_columns(names)._replace(rank=np.nan if position is None else position)
        return Group(deep, columns)
