"""Products of a small batch with constant weights: packed once, then multiplied in panels of vector registers.

BLAS packs the weights again for each batch, and sums in an order that depends on the batch's size. Here a panel of
PANEL columns is in memory in the order in which it is read, ROWS rows of the batch stay in registers, and each output
is summed over its inputs from first to last: an item's score is the same to the bit in whatever batch it is.
"""

from typing import Any, Final

import llvmlite.binding as llvm  # type: ignore[import-untyped]  # ships no types
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from stream.tables.dtypes import F32
from stream.tables.jit import kernel

WIDE_REGISTERS: Final = bool(llvm.get_host_cpu_features().get("avx512f"))
LANES: Final = 16 if WIDE_REGISTERS else 8  # floats of a register
VECTORS: Final = 4 if WIDE_REGISTERS else 2  # of a panel's row: times ROWS they must fit the registers
PANEL: Final = LANES * VECTORS
ROWS: Final = 6
LINE: Final = 64  # bytes of a cache line

I64: Final = ir.IntType(64)
FLOAT: Final = ir.FloatType()
VECTOR: Final = ir.VectorType(FLOAT, LANES)


def padded(outputs: int) -> int:
    """Columns that `outputs` take in whole panels."""
    return -(-outputs // PANEL) * PANEL


def aligned(size: int) -> F32:
    """Zeros, float32 [size], from the start of a cache line."""
    raw = np.zeros(size + LINE // 4, np.float32)
    at = (-raw.ctypes.data % LINE) // 4
    return raw[at : at + size]


def packed(weight: F32) -> F32:
    """`weight` [in, out] as panels [panels, in, PANEL], the last one filled up with zeros."""
    inputs, outputs = weight.shape
    out = aligned(padded(outputs) * inputs).reshape(padded(outputs) // PANEL, inputs, PANEL)
    for p in range(len(out)):
        part = weight[:, p * PANEL : (p + 1) * PANEL]
        out[p, :, : part.shape[1]] = part
    return out


def unpacked(panels: F32, inputs: int) -> F32:
    """The weight that `packed` took, with the zeros that filled its last panel. float32 [inputs, padded outputs]."""
    return panels.reshape(-1, inputs, PANEL).transpose(1, 0, 2).reshape(inputs, -1) if inputs else panels.reshape(0, 0)


def _emit(builder: Any, rows: int, given: Any) -> None:
    """out[r, :PANEL] += x[r, :] · panel for `rows` rows; then, if asked, no output is below zero. Addresses in."""
    x, panel, out, inputs, x_width, out_width, relu = given
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    fma: Any = get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")  # type: ignore[no-untyped-call]

    def load(address: Any, kind: Any) -> Any:
        return builder.load(builder.inttoptr(address, kind.as_pointer()), align=4)

    def moved(address: Any, floats: Any) -> Any:
        return builder.add(address, builder.mul(floats, I64(4)))

    addresses = [
        moved(out, builder.add(builder.mul(out_width, I64(r)), I64(v * LANES)))
        for r in range(rows)
        for v in range(VECTORS)
    ]
    starts = [load(address, VECTOR) for address in addresses]
    before, body, after = builder.block, builder.append_basic_block("inputs"), builder.append_basic_block("done")
    builder.cbranch(builder.icmp_signed(">", inputs, I64(0)), body, after)

    builder.position_at_end(body)
    k = builder.phi(I64)
    sums = [builder.phi(VECTOR) for _ in starts]
    weights = [
        load(moved(panel, builder.add(builder.mul(k, I64(PANEL)), I64(v * LANES))), VECTOR) for v in range(VECTORS)
    ]
    grown = []
    for r in range(rows):
        value = _spread(builder, load(moved(x, builder.add(builder.mul(x_width, I64(r)), k)), FLOAT))
        grown += [builder.call(fma, [value, weights[v], sums[r * VECTORS + v]]) for v in range(VECTORS)]
    following = builder.add(k, I64(1))
    builder.cbranch(builder.icmp_signed("<", following, inputs), body, after)
    k.add_incoming(I64(0), before)
    k.add_incoming(following, body)

    builder.position_at_end(after)
    totals = [builder.phi(VECTOR) for _ in starts]
    for start, total, more, ended in zip(starts, sums, grown, totals, strict=True):
        for value, block in ((start, before), (more, body)):
            total.add_incoming(value, block)
            ended.add_incoming(value, block)
    zero = VECTOR([0.0] * LANES)
    for total, address in zip(totals, addresses, strict=True):
        above = builder.select(builder.fcmp_ordered("<", total, zero), zero, total)  # keeps what isn't a number
        builder.store(builder.select(relu, above, total), builder.inttoptr(address, VECTOR.as_pointer()), align=4)


def _spread(builder: Any, value: Any) -> Any:
    """A number in every lane."""
    one = builder.insert_element(VECTOR(ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, VECTOR(ir.Undefined), ir.VectorType(ir.IntType(32), LANES)([0] * LANES))


def _tile(rows: int) -> Any:
    """The product of a panel with `rows` rows, for kernels: see `_emit`."""

    @intrinsic
    def tile(_context: Any, x: Any, panel: Any, out: Any, inputs: Any, x_width: Any, out_width: Any, relu: Any) -> Any:
        def emit(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
            _emit(builder, rows, given)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 6, types.boolean), emit

    return tile


_tile_1, _tile_2, _tile_3, _tile_4, _tile_5, _tile_6 = (_tile(rows) for rows in range(1, ROWS + 1))


@kernel
def multiply(x: F32, x_width: int, n: int, panels: F32, inputs: int, out: F32, out_width: int, relu: bool) -> None:
    """out[:n, :] += x[:n, :inputs] · weights; then, with `relu`, max(0, ·).

    All float32, flat: `x` [≥ n, x_width], `out` [≥ n, out_width] with `out_width` = `padded(outputs)`, `panels` as
    `packed` makes them for `inputs` inputs.
    """
    x_at, out_at, panel = x.ctypes.data, out.ctypes.data, panels.ctypes.data
    for p in range(out_width // PANEL):
        weights = panel + p * inputs * PANEL * 4
        for r in range(0, n, ROWS):
            source, target = x_at + r * x_width * 4, out_at + (r * out_width + p * PANEL) * 4
            left = n - r
            if left >= 6:
                _tile_6(source, weights, target, inputs, x_width, out_width, relu)
            elif left == 5:
                _tile_5(source, weights, target, inputs, x_width, out_width, relu)
            elif left == 4:
                _tile_4(source, weights, target, inputs, x_width, out_width, relu)
            elif left == 3:
                _tile_3(source, weights, target, inputs, x_width, out_width, relu)
            elif left == 2:
                _tile_2(source, weights, target, inputs, x_width, out_width, relu)
            else:
                _tile_1(source, weights, target, inputs, x_width, out_width, relu)
