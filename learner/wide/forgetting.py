"""Forgetting: sums of squares halve with every half-life of event time, so that a long past doesn't freeze the rate.

No sum is touched to fade it. What is added is inflated instead: a square g² adds g² · I, where the inflation
I = 2^(age / half-life) grows with event time, and a sum S stands for S / I. A sum that isn't touched costs nothing, and
needs no time of its own. Before I is more than float32 bears, all sums are scaled down by a power of two, exactly.

Event time is the newest that was learned: a page that comes late turns nothing back. A gap counts as one half-life at
most: neither a pause nor a wrong clock forgets everything at once.
"""

from typing import Final

import numpy as np

from stream.tables.dtypes import I64
from stream.tables.jit import kernel

RESCALE: Final = 48  # half-lives of age from which on sums are scaled down before the next record
LIMIT: Final = 64  # half-lives of age that float32 bears: 2^64 times a sum of squares below 2^40
NEWEST_MS, AGE_MS = 0, 1  # indices of `clock`


class Forgetting:
    """The clock of one part's sums. `half_life_ms` 0: nothing fades. Kernels write `clock` int64 [2]."""

    def __init__(self, half_life_ms: int = 0) -> None:
        self.half_life_ms = half_life_ms
        self.clock: I64 = np.zeros(2, np.int64)

    def is_quiet(self, newest_ms: int) -> bool:
        """Whether records up to this event time can be learned in one step: no sum is scaled down between them."""
        ahead_ms = max(0, newest_ms - int(self.clock[NEWEST_MS]))
        return not self.half_life_ms or int(self.clock[AGE_MS]) + ahead_ms <= RESCALE * self.half_life_ms

    def rescale(self) -> float:
        """Before a record: the power of two, 1 at most, by which the caller has to multiply all sums now."""
        if int(self.clock[AGE_MS]) <= RESCALE * self.half_life_ms:
            return 1.0
        halvings = int(self.clock[AGE_MS]) // self.half_life_ms
        self.clock[AGE_MS] -= halvings * self.half_life_ms
        return 2.0**-halvings

    def inflation(self) -> float:
        """The I of sums as they are."""
        return float(inflation(self.clock, self.half_life_ms))

    def state(self) -> I64:
        """For a checkpoint: the clock, and the half-life by which sums are inflated. int64 [3]."""
        return np.append(self.clock, self.half_life_ms)

    def restore(self, state: I64) -> float:
        """Go on from there. Returns by how much the caller has to multiply all sums: 1, unless the half-life is another
        one now. Raises ValueError.
        """
        if state.shape != (3,):
            raise ValueError(f"a clock of shape {state.shape}, wanted (3,)")
        self.clock[:] = state[:2]
        half_life_ms = int(state[2])
        if half_life_ms == self.half_life_ms:
            return 1.0
        self.clock[AGE_MS] = 0
        return 1.0 / float(inflation(state[:2], half_life_ms))


@kernel
def advance(clock: I64, half_life_ms: int, time_ms: float) -> None:
    """Event time goes on to that of an example that is learned."""
    gap_ms = np.int64(time_ms) - clock[NEWEST_MS]
    if gap_ms > 0:
        clock[NEWEST_MS] += gap_ms
        clock[AGE_MS] = min(clock[AGE_MS] + min(gap_ms, half_life_ms), LIMIT * half_life_ms)


@kernel
def inflation(clock: I64, half_life_ms: int) -> float:
    """How much more what is added now counts than what was added at age 0."""
    return 2.0 ** (clock[AGE_MS] / half_life_ms) if half_life_ms else 1.0


@kernel
def faded(clock: I64, half_life_ms: int, time_ms: float) -> float:
    """What is left of a square that was added at an event time, 0 to 1."""
    return 2.0 ** (min(0.0, time_ms - clock[NEWEST_MS]) / half_life_ms) if half_life_ms else 1.0
