"""What sources retrieve from, and for whom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from ranker.kernels.retrieval import LAST, AttributeLists
from ranker.retrieval.attribute_lists import NO_LISTS
from ranker.retrieval.item_columns import ItemColumns, ids_of
from ranker.retrieval.vector_search import VectorSearch
from ranker.versions.learned_items import LearnedRows
from stream.features.page_features import Catalogue
from stream.spec.retrieval import Retrieval
from stream.tables.dtypes import F64, I64, U64

Keys = tuple[F64, ...]  # by which a source orders items, most important first, each [n]; the first is -inf: not there


class SweptItems(NamedTuple):
    """What a version says of some items, arrays [n]. `popularity` is static, NaN where there's no item.

    `installs` are faded by `popular_half_life`, `lately` by `trending_half_life`; `lately_share`: all items' `lately`
    over all items' `installs`. `impressions`: labels that were learned. `added`: the number of the item's arrival.
    """

    popularity: F64
    installs: F64
    lately: F64
    lately_share: float
    impressions: F64
    added: I64
    settings: Retrieval


@dataclass(frozen=True)
class Pools:
    """What a sweep over all items found: by source the best of them, in order, and by attribute value the most popular.

    Later than the first `added` items none is in here for sure.
    """

    orders: Mapping[str, Sequence[str]] = field(default_factory=dict)
    by_value: AttributeLists = NO_LISTS
    added: int = 0


@dataclass(frozen=True)
class Query:
    """Whom to retrieve for. `history`: all that the user installed, newest last; `catalogue`, `learned`: None without a
    model, or where it has none. `nearest` searches the vectors of `learned`; None: all, exactly."""

    request_id: str
    history: Sequence[str]
    settings: Retrieval
    pools: Pools
    columns: ItemColumns
    catalogue: Catalogue | None = None
    learned: LearnedRows | None = None
    nearest: VectorSearch | None = None

    @cached_property
    def last_ids(self) -> U64:
        """Ids of the user's last items, newest first."""
        return ids_of(self.history[: -LAST - 1 : -1])

    @property
    def depth(self) -> int:
        """How many items a source that orders them by request should name: enough when the user has many of them."""
        return 2 * self.settings.count + len(self.history)
