"""A processor's prefetch instruction, for numba kernels that know early which memory they'll read."""

from typing import Any

import numba
from llvmlite import ir  # type: ignore[import-untyped]  # numba's compiler; has no types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def _prefetch(typing_context: Any, address: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        ask: Any = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        builder.call(ask, [builder.inttoptr(given[0], pointer), number(1), number(3), number(1)])
        return context.get_dummy_value()

    return numba.types.void(numba.types.uintp), emit


prefetch: Any = _prefetch  # (address): ask for its cache line, to be written, and don't wait for it
