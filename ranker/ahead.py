"""Asking for memory before it is read: what is far away is then on its way while other keys are looked up."""

from typing import Any, Final

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # numba's compiler; has no types
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from stream.overlay import home_of
from stream.table import kernel

AHEAD: Final = 24  # keys between asking for a row and reading it


@intrinsic
def _ask(_context: Any, address: Any) -> Any:
    """Ask for the cache line at an address, to be read by this core and maybe by others."""

    def emit(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        ask: Any = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        builder.call(ask, [builder.inttoptr(given[0], pointer), number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(types.uintp), emit


_line: Any = _ask  # (address)


@kernel
def ask(slots: Any, hashed: Any) -> None:
    """Ask for the row where a key of this `hash32` is looked for first."""
    _line(np.uintp(slots.ctypes.data) + np.uintp(home_of(slots, hashed)) * np.uintp(slots.shape[1] * 8))
