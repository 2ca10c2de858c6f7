"""Memory is prefetched before it is read: far rows are on their way while other keys are looked up."""

from typing import Final

import numpy as np

from stream.runtime.prefetch import prefetch_to_read
from stream.tables.dtypes import U64
from stream.tables.hash_kernels import home_of
from stream.tables.jit import kernel

AHEAD: Final = 12  # keys between prefetching a row and reading it: more would wait for a free line of the core's
BEYOND: Final = 32  # bytes from a row to where a search that doesn't end at once continues


@kernel
def prefetch_slot(slots: U64, hashed: np.uint64) -> None:
    """Prefetch the rows where a key of this `hash32` is looked for first; they may be in two cache lines."""
    row = np.uintp(slots.ctypes.data) + np.uintp(home_of(slots, hashed)) * np.uintp(slots.shape[1] * 8)
    prefetch_to_read(row)
    prefetch_to_read(row + np.uintp(BEYOND))
