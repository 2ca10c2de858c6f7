"""Sums over a sliding window of event time, in one row of constant size: the sliding window counter of rate limiters.

Time is cut into panes as long as the window. A row has the sums of the pane of its newest time t and of the pane
before: n and s are each two float32, the current pane's in the upper half of the column. When a share x of a pane has
passed, the window is

    current + (1 − x) · before

So the labels of the pane before count as if they had been spread over it evenly: that is exact at the end of a pane and
for a steady stream; at worst, when they all came in one moment, they count by 1 − x though all or none of them belong
to the window. What is older than the pane before is gone; a label that comes so late is dropped. So the sums don't
depend on the order of labels, as long as they are whole numbers below 2^24: float32 has no more digits. Retracted
installs take n down to 0 at most: its sign is the table's.
"""

from typing import Any, Final

import numpy as np

from stream.tables.jit import kernel

LOW: Final = np.uint64(0xFFFFFFFF)
HALF: Final = np.uint64(32)


@kernel
def halves(column: float) -> Any:
    """A column's two numbers: of the pane before, of the current one."""
    bits = np.float64(column).view(np.uint64)
    before, current = np.uint32(bits & LOW).view(np.float32), np.uint32(bits >> HALF).view(np.float32)
    return np.float64(before), np.float64(current)


@kernel
def joined(before: float, current: float) -> Any:
    """The column of two numbers. It is finite, and its sign is that of `current`."""
    low, high = np.float32(before).view(np.uint32), np.float32(current).view(np.uint32)
    return np.uint64((np.uint64(high) << HALF) | np.uint64(low)).view(np.float64)


@kernel
def add_to_window(row: Any, added: Any, window: float) -> Any:
    """Columns n and s of a row (n, s, t) when (n, s) is added as of t: `added`."""
    n_before, n_current = halves(row[0])
    s_before, s_current = halves(row[1])
    n, s, t = added
    panes = np.floor(t / window) - np.floor(row[2] / window)
    if panes > 0.0:
        n_before, s_before = (n_current, s_current) if panes == 1.0 else (0.0, 0.0)
        n_current, s_current = max(0.0, n), s
    elif panes == 0.0:
        n_current, s_current = max(0.0, n_current + n), s_current + s
    elif panes == -1.0:
        n_before, s_before = max(0.0, n_before + n), s_before + s
    return joined(n_before, n_current), joined(s_before, s_current)


@kernel
def read_window(n: float, s: float, t: float, now: float, window: float) -> Any:
    """(n, s) of the window that ends now, by the columns of a row of time t."""
    n_before, n_current = halves(n)
    s_before, s_current = halves(s)
    place = max(now, t) / window
    left = 1.0 - (place - np.floor(place))
    panes = np.floor(place) - np.floor(t / window)
    if panes == 0.0:
        return n_current + left * n_before, s_current + left * s_before
    if panes == 1.0:
        return left * n_current, left * s_current
    return 0.0, 0.0
