"""A memory fence for numba kernels: what another thread or process reads without a lock."""

from typing import Any

import numba
from numba.extending import intrinsic


@intrinsic
def _release_fence(typing_context: Any) -> Any:
    """Whoever sees a store that follows it, and reads on from there, also sees every store before it.

    x86-64 keeps stores in order anyway, so only the compiler is told; arm64 has an instruction for it.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("release")
        return context.get_dummy_value()

    return numba.types.void(), codegen


release_fence: Any = _release_fence  # for the type checker: kernels call it without an argument
