"""The processor's prefetch instruction, for numba kernels that know early which memory they will access."""

from typing import Any

import numba
from llvmlite import ir  # type: ignore[import-untyped]  # numba's compiler; has no types
from numba.core import cgutils
from numba.extending import intrinsic


def _prefetch_intrinsic(write: int) -> Any:
    """An intrinsic (address) that requests its cache line without waiting, to `write` (1) or to read (0)."""

    @intrinsic
    def request(typing_context: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
            function: Any = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
            address = builder.inttoptr(args[0], pointer)
            builder.call(function, [address, number(write), number(3), number(1)])
            return context.get_dummy_value()

        return numba.types.void(numba.types.uintp), codegen

    return request


prefetch: Any = _prefetch_intrinsic(1)  # takes the line from other cores
prefetch_to_read: Any = _prefetch_intrinsic(0)  # other cores keep the line
