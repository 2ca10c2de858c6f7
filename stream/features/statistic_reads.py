"""How rows (n, s, t) of the statistics are read: faded to now, then measured by kind. See `statistics.py`."""

from typing import Any, Final, NamedTuple

import numpy as np

from stream.features.window_sums import read_window
from stream.spec.statistic_kinds import READ_COUNT, READ_MEAN, READ_RATE, READ_RATIO, READ_SINCE, READ_STRONGEST
from stream.tables.dtypes import F64, I64, U64
from stream.tables.hash_kernels import find
from stream.tables.jit import kernel

BASE_MIN: Final = 1e-9  # retractions of labels that were never counted may take a base rate below 0
GONE_MS: Final = -1.0  # time of a missing row: its key isn't in the table, or a delta has removed it


class StatisticRules(NamedTuple):
    """How each of a spec's statistics reads its rows; arrays [S]."""

    reads: I64  # READ_… of statistic_kinds.py
    priors: F64
    fades: F64  # `Statistic.fade_ms`
    neighbours: I64


class Reading(NamedTuple):
    """How one statistic is read. Numbers only: a kernel that is called for each item counts references to arrays."""

    read: int
    prior: float
    neighbours: int
    now: float  # ms
    base: float  # base rate


class StatisticRows(NamedTuple):
    """Rows that were read, faded to one time."""

    n: F64
    s: F64
    t: F64  # ms; GONE_MS: missing


@kernel
def read_row(slots: U64, overlay: U64, key: np.uint64, now: float, fade: float) -> Any:
    """(n, s, t) of a key, faded to now; zeros and GONE_MS when it is in neither table. `overlay` hides `slots`."""
    found = overlay
    row = find(overlay, key)
    if row < 0:
        found = slots
        row = find(slots, key)
        if row < 0:
            return 0.0, 0.0, GONE_MS
    values = found.view(np.float64)
    n, s, t = abs(values[row, 1]), values[row, 2], values[row, 3]  # n's sign bit is the table's CHANGED
    return faded(n, s, t, now, fade)


@kernel
def faded(n: float, s: float, t: float, now: float, fade: float) -> Any:
    """(n, s, t) of a row's columns as of now. `fade`: see `Statistic.fade_ms`."""
    if fade < 0.0:
        n, s = read_window(n, s, t, now, -fade)
    elif fade > 0.0 and now > t:
        decay = 2.0 ** ((t - now) / fade)
        n, s = n * decay, s * decay
    return n, s, t


@kernel
def _strongest(values: F64, count: int, most: int) -> Any:
    """Sum / √count of the `most` values of greatest size."""
    if count == 0:
        return 0.0
    if count > most:
        order = np.argsort(-np.abs(values[:count]), kind="mergesort")  # among equals the first
        total = 0.0
        for i in range(most):
            total += values[order[i]]
        return total / np.sqrt(np.float64(most))
    total = 0.0
    for i in range(count):
        total += values[i]
    return total / np.sqrt(np.float64(count))


@kernel
def base_rate(n: float, s: float) -> float:
    """The label rate over everything, from its row."""
    return (s + 1.0) / (n + 2.0)


@kernel
def reading_of(rules: StatisticRules, k: int, now: float, base: float) -> Reading:
    """How statistic k is read at a time."""
    return Reading(rules.reads[k], rules.priors[k], rules.neighbours[k], now, base)


@kernel
def measure(reading: Reading, n: F64, s: F64, t: F64, first: int, last: int, ratios: F64) -> Any:
    """A statistic of rows first:last (n, s, t); NaN without one. `ratios`: scratch f64[≥ last − first].

    Raises ValueError for an unknown READ_…: nothing is read by default.
    """
    read, prior, neighbours, now, base = reading
    total = 0.0
    known = 0
    for i in range(first, last):
        if read == READ_RATE:
            total += (s[i] + prior * base) / (n[i] + prior)
        elif read == READ_RATIO:
            usual = prior * max(BASE_MIN, base)
            total += (s[i] + usual) / (n[i] + usual)
        elif read == READ_COUNT:
            total += np.log1p(n[i])
        elif read == READ_SINCE:
            if t[i] < 0:
                continue
            total += np.log1p(max(0.0, now - t[i]) / 1000.0)
        elif read in (READ_MEAN, READ_STRONGEST):
            ratios[known] = s[i] / (n[i] + prior)
            total += ratios[known]
        else:
            raise ValueError("a statistic is read by an unknown branch: see statistic_kinds.py")
        known += 1
    if known == 0:
        return np.nan
    return _strongest(ratios, known, neighbours) if read == READ_STRONGEST else total / known
