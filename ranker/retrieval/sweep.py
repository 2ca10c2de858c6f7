"""Sweeps over all items, slice by slice, off the request path: what sources retrieve from."""

import threading
import time
from typing import Final, NamedTuple

import numpy as np

from ranker.retrieval.attribute_lists import AttributePairs, ListBuilder, key_of, rows_of, values_of
from ranker.retrieval.install_counters import InstallCounter
from ranker.retrieval.item_columns import ItemColumns, ItemSlice
from ranker.retrieval.item_counts import impressions_of, install_statistic, installs_of
from ranker.retrieval.pools import Keys, Pools, SweptItems
from ranker.retrieval.sources import ORDERS
from ranker.versions.model import Version
from stream.features.page_features import Catalogue
from stream.history.histories import MEMBERS_MAX
from stream.spec.retrieval import Retrieval
from stream.spec.values import duration_ms
from stream.tables.dtypes import F64, I64

SLICE: Final = 32_768  # items swept at once
REST_S_MIN: Final = 0.5  # between two sweeps
DUTY_CYCLE_MAX: Final = 0.02  # share of its time that a thread may spend on sweeps
EXTRA: Final = MEMBERS_MAX  # so that enough are left of an order when a long history is filtered out


class PoolBuilder:
    """`pools`: what the last whole sweep found in all items by a version's statistics.

    A sweep goes slice by slice, without the interpreter's lock: whatever the catalogue's size, `refresh` takes a few
    milliseconds. Threads may share it.
    """

    def __init__(self) -> None:
        self.pools = Pools()
        self._counters = _Counters()
        self._lock = threading.Lock()
        self._sweep: _Sweep | None = None
        self._not_before_s = 0.0

    def refresh(self, version: Version | None, columns: ItemColumns, catalogue: Catalogue | None = None) -> None:
        """Sweep the next slice; after the last one `pools` are replaced, then comes a pause.

        `catalogue`: of the version; without one no item has attributes.
        """
        with self._lock:
            if self._sweep is None:
                if self.pools.added and time.monotonic() < self._not_before_s:
                    return
                self._sweep = _Sweep(version, columns, catalogue, self._counters)
            if self._sweep.step():
                self._finish(self._sweep)

    def rebuild(self, version: Version | None, columns: ItemColumns, catalogue: Catalogue | None = None) -> Pools:
        """Sweep all items now, which takes the time of the whole catalogue; returns `pools`."""
        with self._lock:
            sweep = _Sweep(version, columns, catalogue, self._counters)
            while not sweep.step():
                pass
            self._finish(sweep)
            return self.pools

    def _finish(self, sweep: "_Sweep") -> None:
        self.pools, self._sweep = sweep.pools(), None
        self._not_before_s = time.monotonic() + max(REST_S_MIN, sweep.spent_s / DUTY_CYCLE_MAX)


class _Counters:
    """Faded installs, kept from sweep to sweep. `lately_share`: see SweptItems."""

    def __init__(self) -> None:
        self.lately_share = 1.0  # at first all installs are recent
        self._by_half_life: dict[str, InstallCounter] = {}

    def faded(self, half_life: str, items: ItemSlice, installs: F64, version: Version) -> F64:
        """Installs of these items, faded by this half-life."""
        counter = self._by_half_life.setdefault(half_life, InstallCounter(float(duration_ms(half_life))))
        statistic = install_statistic(version.plan)
        assert statistic is not None, "there are installs"
        return counter.update(items.first, items.ids, installs, statistic.fade_ms, float(version.manifest.watermark_ms))


class _Sweep:
    """Finds the best of all items by one version, a slice at a time."""

    def __init__(
        self, version: Version | None, columns: ItemColumns, catalogue: Catalogue | None, counters: _Counters
    ) -> None:
        self.spent_s = 0.0
        self._version, self._columns, self._catalogue, self._counters = version, columns, catalogue, counters
        self._settings = version.plan.spec.retrieval if version else Retrieval()
        self._added, self._next = columns.added, 0
        quotas = self._settings.quotas()
        self._best = {
            source: _Best(np.zeros(0, np.int64), ())
            for source in ORDERS
            if source == "popular" or quotas[source]  # type: ignore[index]  # all are sources
        }
        self._lists = ListBuilder()
        self._sums = np.zeros(2)  # of lately, installs

    def step(self) -> bool:
        """Sweep the next slice, or after the last one a part of what was collected; whether all is done."""
        begun_s = time.monotonic()
        if self._next < len(self._columns.names) or not self._next:
            self._sweep_slice()
        is_done = self._next >= len(self._columns.names) and self._lists.finish()
        self.spent_s += time.monotonic() - begun_s
        return is_done

    def _sweep_slice(self) -> None:
        items = self._columns.slice(self._next, SLICE)
        swept = self._swept(items)
        self._sums += swept.lately.sum(), swept.installs.sum()
        for source, best in self._best.items():
            self._best[source] = _merged(best, items.first, ORDERS[source](swept), self._settings.count + EXTRA)
        if self._settings.same and self._catalogue is not None:
            self._lists.add(self._pairs(items, swept, self._catalogue))
        self._next += SLICE

    def pools(self) -> Pools:
        """What was found. An item that was removed meanwhile is left out."""
        if self._sums.all():
            self._counters.lately_share = self._sums[0] / self._sums[1]
        names = self._columns.names
        orders = {
            source: [name for slot in best.slots.tolist() if (name := names[slot])]
            for source, best in self._best.items()
        }
        return Pools(orders, self._lists.lists(), self._added)

    def _swept(self, items: ItemSlice) -> SweptItems:
        nothing, version, settings = np.zeros(len(items.ids)), self._version, self._settings
        installs = lately = impressions = None
        if version is not None:
            installs = installs_of(version, items.ids)
            impressions = impressions_of(version, items.ids) if settings.new else None
        if version is not None and installs is not None:
            total, faded = installs, self._counters.faded
            if settings.popular_half_life is not None:
                installs = faded(settings.popular_half_life, items, total, version)
            lately = faded(settings.trending_half_life, items, total, version) if settings.trending else None
        return SweptItems(
            items.popularity.copy(),  # it may change meanwhile
            nothing if installs is None else installs,
            nothing if lately is None else lately,
            self._counters.lately_share,
            nothing if impressions is None else impressions,
            items.added.copy(),
            settings,
        )

    def _pairs(self, items: ItemSlice, swept: SweptItems, catalogue: Catalogue) -> AttributePairs:
        rows = rows_of(catalogue, self._columns.names[items.first : items.first + len(items.ids)])
        values, of = values_of(catalogue, rows, self._settings.same_by)
        is_there = ~np.isnan(swept.popularity[of])
        values, of = values[is_there], of[is_there]
        return AttributePairs(values, items.first + of, key_of(swept.installs, swept.popularity)[of])


class _Best(NamedTuple):
    """The best items so far, best first, and their keys."""

    slots: I64
    keys: Keys


def _merged(best: _Best, first: int, keys: Keys, count: int) -> _Best:
    """The `count` best of these and of the slots that begin with `first`, whose keys are `keys`."""
    candidates = keys[0] > -np.inf
    if len(best.slots) >= count:
        candidates &= _is_better(keys, best.keys)
    found = np.flatnonzero(candidates)
    slots = np.concatenate([best.slots, first + found])
    kept = best.keys or tuple(np.zeros(0) for _ in keys)
    merged = [np.concatenate([before, key[found]]) for before, key in zip(kept, keys, strict=True)]
    order = np.lexsort([slots, *(-key for key in reversed(merged))])[:count]
    return _Best(slots[order], tuple(key[order] for key in merged))


def _is_better(keys: Keys, best: Keys) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Which items come before the last of the best."""
    better, equal = np.zeros(len(keys[0]), bool), np.ones(len(keys[0]), bool)
    for key, others in zip(keys, best, strict=True):
        better |= equal & (key > others[-1])
        equal &= key == others[-1]
    return better
