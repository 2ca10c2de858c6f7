"""Asking for memory before it is read: what is far away is then on its way while other keys are looked up."""

from typing import Any, Final

import numpy as np

from stream.runtime.prefetch import prefetch_to_read
from stream.tables.hash_kernels import home_of
from stream.tables.jit import kernel

AHEAD: Final = 12  # keys between asking for a row and reading it: more wait for a free line of the core's
BEYOND: Final = 32  # bytes from a row to where a search that doesn't end at once goes on


@kernel
def ask(slots: Any, hashed: Any) -> None:
    """Ask for the rows where a key of this `hash32` is looked for first; they may lie in two cache lines."""
    row = np.uintp(slots.ctypes.data) + np.uintp(home_of(slots, hashed)) * np.uintp(slots.shape[1] * 8)
    prefetch_to_read(row)
    prefetch_to_read(row + np.uintp(BEYOND))
