"""The fence is in the machine code, on x86-64 for the compiler and on arm64 for the processor."""

from typing import Any

import llvmlite.binding as llvm  # type: ignore[import-untyped]  # numba's compiler; has no types
import numba
import numpy as np
import pytest

from stream.tables.delta_table import _set_heads

FENCED = """
target triple = "{triple}"
define void @put(i64* %entry, i64* %head) {{
  store i64 1, i64* %entry
  fence release
  store i64 2, i64* %head
  ret void
}}
"""


def test_heads_are_written_behind_a_fence() -> None:
    """The kernel that names entries has it: what was written before is visible to whoever reads a name."""
    python: Any = getattr(_set_heads, "py_func", _set_heads)
    kernel: Any = numba.njit(python)
    kernel(np.zeros((8, 2), np.uint64), 1, np.ones(1, np.uint64), np.zeros(2, np.int64))
    assert any("fence release" in text for text in kernel.inspect_llvm().values())


@pytest.mark.parametrize(("triple", "between"), [("aarch64-linux-gnu", "dmb"), ("x86_64-linux-gnu", "")])
def test_the_fence_is_what_each_processor_needs(triple: str, between: str) -> None:
    """arm64 has a barrier between the stores; x86-64 keeps their order, without an instruction."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(opt=3)
    text = machine.emit_assembly(llvm.parse_assembly(FENCED.format(triple=triple)))
    lines = [line.strip().split()[0] for line in text.splitlines() if line.startswith("\t") and line.strip()[0] != "."]
    stores = [n for n, line in enumerate(lines) if line.startswith(("str", "movq"))]
    assert [*lines[stores[-2] + 1 : stores[-1]]].count("dmb") == bool(between)
