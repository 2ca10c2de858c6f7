"""Asking for memory before it is read: what is far away is then on its way while other keys are looked up."""

from typing import Any, Final

import numpy as np

from stream.prefetch import prefetch_to_read
from stream.table import home_of, kernel

AHEAD: Final = 24  # keys between asking for a row and reading it


@kernel
def ask(slots: Any, hashed: Any) -> None:
    """Ask for the row where a key of this `hash32` is looked for first."""
    prefetch_to_read(np.uintp(slots.ctypes.data) + np.uintp(home_of(slots, hashed)) * np.uintp(slots.shape[1] * 8))
