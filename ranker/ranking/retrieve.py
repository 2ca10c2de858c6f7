"""Candidates when a request names none: what is popular in the live snapshot, less what the user has."""

import threading
import time
from collections.abc import Collection, Iterable
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ranker.kernels.crossing import read_rows
from ranker.kernels.plan import Plan
from ranker.ranking.entity_cache import Shelf
from ranker.versions.model import Version
from stream.features.page_features import Catalogue
from stream.features.page_kernels import LIST_MAX
from stream.spec.spec import ORGANIC_INSTALLS, duration_ms
from stream.spec.statistic_kinds import LEARN_LABELS, kind_of
from stream.tables.hash_kernels import mix
from stream.tables.jit import kernel

CANDIDATES: Final = 100
KEPT: Final = CANDIDATES + LIST_MAX  # so that enough are left when a long history is taken out
EFFORT_MAX: Final = 0.02  # share of its time that a thread may spend on ordering items anew


def retrieve(popular: Iterable[str], had: Collection[str], count: int = CANDIDATES) -> list[str]:
    """The first `count` items of an order that the user doesn't have yet."""
    owned = set(had)
    return list(islice((item for item in popular if item not in owned), count))


class Popular:
    """The order of items by their installs in a version's statistics. Threads may share it."""

    def __init__(self) -> None:
        self.items: list[str] = []
        self._lock = threading.Lock()
        self._not_before_s = 0.0

    def refresh(self, version: Version, shelf: Shelf, catalogue: Catalogue) -> None:
        """Order anew, unless that was just done: on many items it takes a while, and it changes slowly."""
        with self._lock:
            if not self.items or time.monotonic() >= self._not_before_s:
                self._order(version, shelf, catalogue, shelf.by_popularity())

    def complete(self, version: Version, shelf: Shelf, catalogue: Catalogue) -> None:
        """Order all that is on the shelf now, however lately that was done."""
        with self._lock:
            self._order(version, shelf, catalogue, shelf.by_popularity(max_age_s=0.0))

    def _order(self, version: Version, shelf: Shelf, catalogue: Catalogue, known: list[str]) -> None:
        started_s = time.monotonic()
        installs = installs_of(version, catalogue, shelf.rows(catalogue, known))
        if installs is None:
            self.items = known[:KEPT]
        else:  # ties stay in static order
            self.items = [known[i] for i in np.argsort(-installs, kind="stable")[:KEPT]]
        now_s = time.monotonic()
        self._not_before_s = now_s + (now_s - started_s) / EFFORT_MAX


def installs_of(
    version: Version, catalogue: Catalogue, rows: npt.NDArray[np.int64]
) -> "npt.NDArray[np.float64] | None":
    """Installs per item in a version's statistics, decayed where they are; None when none is kept by item alone."""
    found = by_item(version.plan)
    if found is None:
        return None
    salt, half_life_ms = found
    layout, statistics = version.plan.layout, version.statistics
    installs: npt.NDArray[np.float64] = _installs(
        catalogue.ids, catalogue.offsets, rows, len(layout.item_lists), version.plan.item_id,
        salt, half_life_ms, float(version.manifest.watermark_ms), statistics.rows,
    )  # fmt: skip
    return installs


def by_item(plan: Plan) -> tuple[np.uint64, float] | None:
    """Salt and half-life of the first statistic that sums labels by the item alone; without one, organic installs."""
    found: dict[bool, tuple[np.uint64, float]] = {}
    for index, statistic in enumerate(plan.spec.statistics.values()):
        if kind_of(statistic.kind).learn == LEARN_LABELS and statistic.by == ["item.id"]:
            half_life_ms = duration_ms(statistic.half_life) if statistic.half_life else 0
            salt = plan.program.product.salts[index]
            found.setdefault(statistic.of == ORGANIC_INSTALLS, (salt, float(half_life_ms)))
    return found.get(False, found.get(True))


@kernel
def _installs(
    ids: Any,
    offsets: Any,
    rows: Any,
    width: Any,
    index: Any,
    salt: Any,
    half_life: Any,
    now: Any,
    table: Any,
) -> Any:
    keys = np.empty(rows.shape[0], np.uint64)
    for r in range(rows.shape[0]):
        keys[r] = mix(
            salt, ids[offsets[rows[r] * width + index]]
        )  # as `encoder.fill_product` does for one column of one id
    n, out, t = np.empty(keys.shape[0]), np.empty(keys.shape[0]), np.empty(keys.shape[0])
    read_rows(keys, np.empty_like(keys), keys.shape[0], table, now, half_life, n, out, t)
    return out
