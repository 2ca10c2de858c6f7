"""Arrays by their addresses, for kernels that work on many of them: one array of numbers leads to all.

Passed as arguments, thirty arrays would cost a kernel ten microseconds a call, and minutes to compile.
"""

from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt
from numba import carray  # type: ignore[attr-defined]  # left out of its __all__
from numba.core import cgutils
from numba.extending import intrinsic

from stream.tables.jit import kernel

ENTRIES: Final = 1 << 40  # the kernels know how long an array is

Ints = npt.NDArray[np.int64]


def _as_pointer(_: Any, address: Any) -> Any:
    """A number as an address."""

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
    """Where an array's first element lies, until it is resized."""
    return int(array.__array_interface__["data"][0])
