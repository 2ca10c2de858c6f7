"""A spec, compiled for ranking: what all versions of one spec share.

A page has one user: whatever depends on the user alone is taken once a request. So crosses know how many of their
first columns are the user's, and the deep part's inputs stand in three groups: the user's, the items', the pairs'.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ranker.kernels.pair_cache import NOWHERE
from stream.features.encoder import I64, Encoder, Product, place_of
from stream.features.page_features import Layout
from stream.features.statistics import F64, StatisticsProgram
from stream.spec.spec import POSITION, Spec
from stream.tables.hash_table import U64

USER, ITEM = 0, 1  # sides of lists
OF_USER, OF_ITEM, STATISTIC, HELD = range(4)  # where a number stands; HELD: the same for all items


class Crosses(NamedTuple):
    """Cross-products of lists, as `encoder.Product`; the first `fixed` columns of each are the user's."""

    offsets: I64
    sides: I64
    places: I64
    salts: U64
    fixed: I64


class Measures(NamedTuple):
    """How statistics read their rows, as `StatisticsProgram` has it."""

    reads: I64
    priors: F64
    half_lives: F64
    neighbours: I64


class Group(NamedTuple):
    """Inputs of the deep part: lists (side, index) to pool, then numbers: kind, index, and column of boundaries.

    A group's inputs are its lists' pooled vectors, its numbers' values, then flags of which numbers are missing.
    """

    sides: I64
    places: I64
    kinds: I64
    number_places: I64
    columns: I64
    held: float


class Plan:
    """A spec, compiled."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.layout = Layout(spec)
        self.encoder = Encoder(spec, self.layout)
        self.program = program = StatisticsProgram(spec, self.layout)
        self.sizes = np.array(self.layout.sizes, np.int64)
        self.wide = _crosses(self.encoder.wide)
        self.statistics = _crosses(program.product)
        self.measures = Measures(program.reads, program.priors, program.half_lives, program.neighbours)
        layout = self.layout
        self.history = layout.user_lists.index(layout.history) if layout.history else -1
        self.item_id = layout.item_lists.index("item.id")
        self.squares = self._squares()
        self.likenesses = len(program.likenesses)
        names = {name: self._group_of(name) for name in (*self.encoder.deep_lists, *self.encoder.deep_numbers)}
        self.user, self.item, self.pair = (
            self._group([name for name, group in names.items() if group == wanted]) for wanted in GROUPS
        )

    def _squares(self) -> I64:
        """The square of each wide cross that is one of pairs of items, what the user has and what is shown; or −1."""
        history = self.layout.history
        pair = [history, self.spec.columns()[history].of] if history else None
        crosses = self.spec.crosses() if "wide" in self.spec.parts else []
        paired = np.array([*(list(cross.of) == pair for cross in crosses), False])
        return np.where(paired, np.cumsum(paired) - 1, NOWHERE)

    def rows_of(self, group: Group) -> I64:
        """Which inputs of the first layer are a group's, in the group's order. int64."""
        dim, lists = self.spec.deep.embedding_dim, self.encoder.deep_lists
        names = {place_of(self.layout, name): i for i, name in enumerate(lists)}
        mine = [names[int(s), int(p)] for s, p in zip(group.sides, group.places, strict=True)]
        pooled = [i * dim + c for i in mine for c in range(dim)]
        first, numbers = len(lists) * dim, len(self.encoder.deep_numbers)
        values = [first + int(c) for c in group.columns]
        return np.array([*pooled, *values, *(numbers + v for v in values)], np.int64)

    def _group_of(self, name: str) -> str:
        """Whether an input is the same for all items of a page ("user"), all users ("item"), or neither."""
        if name in self.layout.user_lists or name in self.layout.user_numbers:
            return "user"
        if name in self.layout.item_lists or name in self.layout.item_numbers:
            return "item"
        if name == POSITION:
            return "user" if self.encoder.serve_position is not None else "pair"
        k = self.layout.statistics.index(name.removeprefix("statistics."))
        first, last = self.statistics.offsets[k : k + 2]
        return "user" if self.statistics.fixed[k] == last - first else "pair"

    def _group(self, names: list[str]) -> Group:
        encoder = self.encoder
        lists = [place_of(self.layout, name) for name in names if name in encoder.deep_lists]
        columns = [encoder.deep_numbers.index(name) for name in names if name not in encoder.deep_lists]
        kinds, places = encoder.number_kinds[columns], encoder.number_places[columns]
        held = encoder.serve_position
        return Group(
            np.array([side for side, _ in lists], np.int64), np.array([place for _, place in lists], np.int64),
            kinds, places, np.array(columns, np.int64), np.nan if held is None else held,
        )  # fmt: skip


GROUPS: Final = ("user", "item", "pair")


def _crosses(product: Product) -> Crosses:
    fixed = [_leading(product.sides[a:b]) for a, b in zip(product.offsets[:-1], product.offsets[1:], strict=True)]
    return Crosses(product.offsets, product.sides, product.places, product.salts, np.array(fixed, np.int64))


def _leading(sides: "npt.NDArray[np.int64]") -> int:
    """How many columns, from the first on, are the user's."""
    items = np.flatnonzero(sides != USER)
    return int(items[0]) if len(items) else len(sides)
