"""A processor's prefetch instruction, for numba kernels that know early which memory they'll use."""

from typing import Any

import numba
from llvmlite import ir  # type: ignore[import-untyped]  # numba's compiler; has no types
from numba.core import cgutils
from numba.extending import intrinsic


def _asking(written: int) -> Any:
    """An intrinsic (address): ask for its cache line, and don't wait for it; to be `written` here (1), or read (0)."""

    @intrinsic
    def ask(typing_context: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
            asked: Any = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
            place = builder.inttoptr(given[0], pointer)
            builder.call(asked, [place, number(written), number(3), number(1)])
            return context.get_dummy_value()

        return numba.types.void(numba.types.uintp), emit

    return ask


prefetch: Any = _asking(1)  # takes the line from other cores
prefetch_to_read: Any = _asking(0)  # others may go on reading it
