"""Arrays by address, for kernels that work on many arrays: they take one array of numbers with all addresses.

Thirty arrays as arguments would cost a kernel ten microseconds a call, and minutes to compile.
"""

from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt
from numba import carray  # type: ignore[attr-defined]  # left out of its __all__
from numba.core import cgutils
from numba.extending import intrinsic

from stream.tables.jit import kernel

ENTRIES: Final = 1 << 40  # a bound only: the kernels know the length of each array

Ints = npt.NDArray[np.int64]


def _as_pointer(_: Any, address: Any) -> Any:
    """Convert an integer to a pointer."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return numba.types.voidptr(numba.types.int64), codegen


_pointer: Any = intrinsic(_as_pointer)


@kernel
def u32_at(address: Any) -> Any:
    """The uint32 array at an address."""
    return carray(_pointer(address), ENTRIES, np.uint32)


@kernel
def i64_at(address: Any) -> Any:
    """The int64 array at an address."""
    return carray(_pointer(address), ENTRIES, np.int64)


def address_of(array: npt.NDArray[Any]) -> int:
    """The address of an array's first element; valid until the array is resized."""
    return int(array.__array_interface__["data"][0])
