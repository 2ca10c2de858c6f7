"""Retrieval for requests without candidates: items popular in the live version, without those the user has."""

import threading
import time
from collections.abc import Collection, Iterable
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np

from ranker.kernels.plan import Plan
from ranker.kernels.table_reads import read_rows
from ranker.ranking.item_columns import ItemColumns, ItemSlice
from ranker.versions.model import Version
from stream.features.statistic_reads import StatisticRows
from stream.history.histories import MEMBERS_MAX
from stream.spec.columns import ALL_INSTALLS, ORGANIC_INSTALLS
from stream.spec.statistic_kinds import LEARN_LABELS, kind_of
from stream.tables.dtypes import F64, I64, U64
from stream.tables.hash_kernels import mix
from stream.tables.jit import kernel

CANDIDATES: Final = 100
POPULAR_MAX: Final = CANDIDATES + MEMBERS_MAX  # so that enough are left when a long history is filtered out
SLICE: Final = 32_768  # items ordered at once
REST_S_MIN: Final = 0.5  # between two orders
DUTY_CYCLE_MAX: Final = 0.02  # share of its time that a thread may spend on ordering items


class InstallStatistic(NamedTuple):
    """A statistic by item alone: salt of its keys, and its `fade_ms`."""

    salt: np.uint64
    fade_ms: float


def retrieve(popular: Iterable[str], history: Collection[str]) -> list[str]:
    """The first CANDIDATES items of an order that aren't in the user's history."""
    owned = set(history)
    return list(islice((item for item in popular if item not in owned), CANDIDATES))


class PopularItems:
    """`items`: the most popular by their installs in a version's statistics, then by static popularity; described ones
    before those only shown.

    Ordering goes slice by slice of the catalogue, without the interpreter's lock: whatever its size, `refresh` takes a
    few milliseconds. Threads may share it.
    """

    def __init__(self) -> None:
        self.items: list[str] = []
        self._lock = threading.Lock()
        self._sweep: _Sweep | None = None
        self._not_before_s = 0.0

    def refresh(self, version: Version | None, columns: ItemColumns) -> None:
        """Order the next slice; after the last one `items` are replaced, then comes a pause."""
        with self._lock:
            if self._sweep is None:
                if self.items and time.monotonic() < self._not_before_s:
                    return
                self._sweep = _Sweep(version, columns)
            if self._sweep.step():
                self._finish(self._sweep)

    def reorder(self, version: Version | None, columns: ItemColumns) -> list[str]:
        """Order all items now, which takes the time of the whole catalogue; returns `items`."""
        with self._lock:
            sweep = _Sweep(version, columns)
            while not sweep.step():
                pass
            self._finish(sweep)
            return self.items

    def _finish(self, sweep: "_Sweep") -> None:
        self.items, self._sweep = sweep.names(), None
        self._not_before_s = time.monotonic() + max(REST_S_MIN, sweep.spent_s / DUTY_CYCLE_MAX)


class _Sweep:
    """Orders all items by one version, a slice at a time."""

    def __init__(self, version: Version | None, columns: ItemColumns) -> None:
        self.spent_s = 0.0
        self._version, self._columns = version, columns
        self._next = 0
        self._best = _Best(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))

    def step(self) -> bool:
        """Merge the next slice into the best so far; whether it was the last one."""
        begun_s = time.monotonic()
        items = self._columns.slice(self._next, SLICE)
        installs = installs_of(self._version, items.ids) if self._version else None
        if installs is None:
            installs = np.zeros(len(items.ids))
        self._best = _merged(self._best, items, installs)
        self._next += SLICE
        self.spent_s += time.monotonic() - begun_s
        return self._next >= len(self._columns.names)

    def names(self) -> list[str]:
        """The best in order. An item that was removed meanwhile is left out."""
        return [name for slot in self._best.slots.tolist() if (name := self._columns.names[slot])]


class _Best(NamedTuple):
    """At most POPULAR_MAX items, best first."""

    slots: I64
    installs: F64
    popularity: F64


def _merged(best: _Best, items: ItemSlice, installs: F64) -> _Best:
    popularity = items.popularity.copy()  # it may change meanwhile
    candidates = ~np.isnan(popularity)
    if len(best.slots) == POPULAR_MAX:
        least = best.installs[-1]
        candidates &= (installs > least) | ((installs == least) & (popularity > best.popularity[-1]))
    found = np.flatnonzero(candidates)
    slots = np.concatenate([best.slots, items.first + found])
    keys = (np.concatenate([best.popularity, popularity[found]]), np.concatenate([best.installs, installs[found]]))
    order = np.lexsort([slots, *(-key for key in keys)])[:POPULAR_MAX]
    return _Best(slots[order], keys[1][order], keys[0][order])


def installs_of(version: Version, ids: U64) -> F64 | None:
    """Installs per item id in a version's statistics, faded if they are, float64 [n]; None without such a statistic."""
    statistic = install_statistic(version.plan)
    if statistic is None:
        return None
    installs: F64 = _installs(ids, *statistic, float(version.manifest.watermark_ms), version.statistics.view)
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
def _installs(ids: U64, salt: Any, fade_ms: Any, now_ms: Any, table: Any) -> Any:
    n = ids.shape[0]
    keys = np.empty(n, np.uint64)
    for i in range(n):
        keys[i] = mix(salt, ids[i])  # as `fill_product` does for one column of one id
    sums, out, times = np.empty(n), np.empty(n), np.empty(n)
    read_rows(keys, np.empty_like(keys), n, table, now_ms, fade_ms, StatisticRows(sums, out, times))
    return out
