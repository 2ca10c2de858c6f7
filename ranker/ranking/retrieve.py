"""Retrieval for requests without candidates: items popular in the live version, without those the user has."""

import threading
import time
from collections.abc import Collection, Iterable
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ranker.kernels.plan import Plan
from ranker.kernels.table_reads import read_rows
from ranker.ranking.entity_cache import EntityCache
from ranker.versions.model import Version
from stream.features.page_features import Catalogue
from stream.features.statistic_reads import StatisticRows
from stream.history.histories import MEMBERS_MAX
from stream.spec.columns import ALL_INSTALLS, ORGANIC_INSTALLS
from stream.spec.statistic_kinds import LEARN_LABELS, kind_of
from stream.tables.dtypes import I64, U64
from stream.tables.hash_kernels import mix
from stream.tables.jit import kernel

CANDIDATES: Final = 100
POPULAR_MAX: Final = CANDIDATES + MEMBERS_MAX  # so that enough are left when a long history is filtered out
DUTY_CYCLE_MAX: Final = 0.02  # share of its time that a thread may spend on reordering items


class InstallStatistic(NamedTuple):
    """A statistic by item alone: salt of its keys, and its `fade_ms`."""

    salt: np.uint64
    fade_ms: float


class ItemIds(NamedTuple):
    """Items' ids in a catalogue: list `column` of the `width` lists of each row has one id."""

    ids: U64
    offsets: I64
    width: int
    column: int


def retrieve(popular: Iterable[str], history: Collection[str]) -> list[str]:
    """The first CANDIDATES items of an order that aren't in the user's history."""
    owned = set(history)
    return list(islice((item for item in popular if item not in owned), CANDIDATES))


class PopularItems:
    """`items` in the order of their installs in a version's statistics. Threads may share it."""

    def __init__(self) -> None:
        self.items: list[str] = []
        self._lock = threading.Lock()
        self._not_before_s = 0.0

    def refresh(self, version: Version, cache: EntityCache, catalogue: Catalogue) -> None:
        """Reorder, unless that was just done: many items take a while, and their order changes slowly."""
        with self._lock:
            if not self.items or time.monotonic() >= self._not_before_s:
                self._reorder(version, cache, catalogue, cache.by_popularity())

    def reorder(self, version: Version, cache: EntityCache, catalogue: Catalogue) -> None:
        """Reorder all that is cached now, however lately that was done."""
        with self._lock:
            self._reorder(version, cache, catalogue, cache.by_popularity(max_age_s=0.0))

    def _reorder(self, version: Version, cache: EntityCache, catalogue: Catalogue, known: list[str]) -> None:
        started_s = time.monotonic()
        installs = installs_of(version, catalogue, cache.rows(catalogue, known))
        if installs is None:
            self.items = known[:POPULAR_MAX]
        else:  # ties keep the static order
            self.items = [known[i] for i in np.argsort(-installs, kind="stable")[:POPULAR_MAX]]
        now_s = time.monotonic()
        self._not_before_s = now_s + (now_s - started_s) / DUTY_CYCLE_MAX


def installs_of(
    version: Version, catalogue: Catalogue, rows: npt.NDArray[np.int64]
) -> "npt.NDArray[np.float64] | None":
    """Installs per item in a version's statistics, faded if they are, float64 [n]; None without such a statistic."""
    statistic = install_statistic(version.plan)
    if statistic is None:
        return None
    plan = version.plan
    items = ItemIds(catalogue.ids, catalogue.offsets, len(plan.layout.item_lists), plan.item_id)
    installs: npt.NDArray[np.float64] = _installs(
        items, rows, *statistic, float(version.manifest.watermark_ms), version.statistics.view
    )
    return installs


def install_statistic(plan: Plan) -> InstallStatistic | None:
    """The first statistic by the item alone of all installs; without one, of labels; else of organic installs."""
    found: dict[str, InstallStatistic] = {}
    for index, statistic in enumerate(plan.spec.statistics.values()):
        if kind_of(statistic.kind).learn == LEARN_LABELS and statistic.by == ["item.id"]:
            salt = plan.program.crosses.salts[index]
            found.setdefault(statistic.of, InstallStatistic(salt, float(statistic.fade_ms())))
    return next((found[of] for of in (ALL_INSTALLS, "", ORGANIC_INSTALLS) if of in found), None)


@kernel
def _installs(items: Any, rows: Any, salt: Any, fade_ms: Any, now_ms: Any, table: Any) -> Any:
    ids, offsets, width, column = items
    n = rows.shape[0]
    keys = np.empty(n, np.uint64)
    for r in range(n):
        # as `fill_product` does for one column of one id
        keys[r] = mix(salt, ids[offsets[rows[r] * width + column]])
    sums, out, times = np.empty(n), np.empty(n), np.empty(n)
    read_rows(keys, np.empty_like(keys), n, table, now_ms, fade_ms, StatisticRows(sums, out, times))
    return out
