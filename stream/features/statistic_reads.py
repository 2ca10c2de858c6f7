"""How rows (n, s, t) of the statistics are read: decayed to now, then as their kind says. See `statistics.py`."""

from typing import Any, Final

import numpy as np

from stream.spec.statistic_kinds import READ_COUNT, READ_MEAN, READ_RATE, READ_SINCE, READ_STRONGEST
from stream.tables.hash_kernels import find
from stream.tables.jit import kernel

GONE_MS: Final = -1.0  # time of a row that reads as none: where there is no key, and in a delta where there was one


@kernel
def read_row(slots: Any, overlay: Any, key: Any, now: Any, half_life: Any) -> Any:
    """(n, s, t) of a key, decayed to now; zeros and GONE_MS when it isn't there."""
    held = overlay
    row = find(overlay, key)
    if row < 0:
        held = slots
        row = find(slots, key)
        if row < 0:
            return 0.0, 0.0, GONE_MS
    values = held.view(np.float64)
    n, s, t = abs(values[row, 1]), values[row, 2], values[row, 3]  # n's sign is the table's mark
    return faded(n, s, t, now, half_life)


@kernel
def faded(n: Any, s: Any, t: Any, now: Any, half_life: Any) -> Any:
    """(n, s, t) decayed to now."""
    if half_life > 0.0 and now > t:
        fade = 2.0 ** ((t - now) / half_life)
        n, s = n * fade, s * fade
    return n, s, t


@kernel
def _strongest(values: Any, count: Any, most: Any) -> Any:
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
def base_rate(n: Any, s: Any) -> Any:
    """The label rate over everything, from its row."""
    return (s + 1.0) / (n + 2.0)


@kernel
def measure(read: Any, n: Any, s: Any, t: Any, first: Any, last: Any, now: Any, base: Any, prior: Any, most: Any,
            near: Any) -> Any:  # fmt: skip
    """What a statistic says of its rows first:last, decayed to now; NaN without one. `near` is scratch.

    `read`: which branch. Raises ValueError for one that has none: nothing is read by default.
    """
    total = 0.0
    known = 0
    for i in range(first, last):
        if read == READ_RATE:
            total += (s[i] + prior * base) / (n[i] + prior)
        elif read == READ_COUNT:
            total += np.log1p(n[i])
        elif read == READ_SINCE:
            if t[i] < 0:
                continue
            total += np.log1p(max(0.0, now - t[i]) / 1000.0)
        elif read in (READ_MEAN, READ_STRONGEST):
            near[known] = s[i] / (n[i] + prior)
            total += near[known]
        else:
            raise ValueError("a statistic is read by an unknown branch: see statistic_kinds.py")
        known += 1
    if known == 0:
        return np.nan
    return _strongest(near, known, most) if read == READ_STRONGEST else total / known
