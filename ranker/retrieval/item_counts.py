"""Installs and impressions of items in a version's statistics."""

from typing import Any, NamedTuple

import numpy as np

from ranker.kernels.plan import Plan
from ranker.kernels.table_reads import read_rows
from ranker.versions.model import Version
from stream.features.statistic_reads import StatisticRows
from stream.spec.columns import ALL_INSTALLS, ORGANIC_INSTALLS
from stream.spec.statistic_kinds import LEARN_LABELS, kind_of
from stream.tables.dtypes import F64, U64
from stream.tables.hash_kernels import mix
from stream.tables.jit import kernel


class ItemStatistic(NamedTuple):
    """A statistic by item alone: salt of its keys, and its `fade_ms`."""

    salt: np.uint64
    fade_ms: float


def installs_of(version: Version, ids: U64) -> F64 | None:
    """Installs per item id in a version's statistics, faded if they are, float64 [n]; None without such a statistic."""
    statistic = install_statistic(version.plan)
    return None if statistic is None else _read(version, statistic, ids)[1]


def impressions_of(version: Version, ids: U64) -> F64 | None:
    """Labels per item id, whatever they say, float64 [n]: impressions that were learned. None as in `installs_of`."""
    statistic = _item_statistics(version.plan).get("")
    return None if statistic is None else _read(version, statistic, ids)[0]


def install_statistic(plan: Plan) -> ItemStatistic | None:
    """The first statistic by the item alone of all installs; without one, of labels; else of organic installs."""
    found = _item_statistics(plan)
    return next((found[of] for of in (ALL_INSTALLS, "", ORGANIC_INSTALLS) if of in found), None)


def _item_statistics(plan: Plan) -> dict[str, ItemStatistic]:
    """The first statistic by the item alone of each kind of installs ("": of labels)."""
    found: dict[str, ItemStatistic] = {}
    for index, statistic in enumerate(plan.spec.statistics.values()):
        if kind_of(statistic.kind).learn == LEARN_LABELS and statistic.by == ["item.id"]:
            salt = plan.program.crosses.salts[index]
            found.setdefault(statistic.of, ItemStatistic(salt, float(statistic.fade_ms())))
    return found


def _read(version: Version, statistic: ItemStatistic, ids: U64) -> tuple[F64, F64]:
    now_ms = float(version.manifest.watermark_ms)
    return _labels_and_installs(ids, *statistic, now_ms, version.statistics.view)  # type: ignore[no-any-return]  # a kernel


@kernel
def _labels_and_installs(ids: U64, salt: Any, fade_ms: Any, now_ms: Any, table: Any) -> Any:
    n = ids.shape[0]
    keys = np.empty(n, np.uint64)
    for i in range(n):
        keys[i] = mix(salt, ids[i])  # as `fill_product` does for one column of one id
    labels, installs, times = np.empty(n), np.empty(n), np.empty(n)
    read_rows(keys, np.empty_like(keys), n, table, now_ms, fade_ms, StatisticRows(labels, installs, times))
    return labels, installs
