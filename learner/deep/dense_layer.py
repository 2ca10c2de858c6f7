"""Products and AdaGrad steps of one dense layer, for micro-batches of a few rows, on vector registers.

A layer's weight is [out, in]: a unit's weights lie side by side. Where ReLU holds a unit at zero in every row of a
micro-batch, its gradient is exactly 0 and AdaGrad moves nothing: such units are left out of the backward pass, and
often that's half of them. Widths are multiples of LINE: what they are filled up with is 0 and stays 0.

Every sum has one order, whatever the processor and the number of rows: results are equal to the bit. A weight whose
sum of squares wouldn't stay finite doesn't move: so a gradient that isn't a number can't reach a parameter.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import llvmlite.binding as llvm  # type: ignore[import-untyped]  # ships no types
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from stream.tables.dtypes import F32, I64
from stream.tables.jit import kernel

LINE: Final = 16  # floats of a cache line
LANES: Final = 16 if llvm.get_host_cpu_features().get("avx512f") else 8  # floats of a register
ROWS: Final = 8  # rows whose sums stay in registers
GROUPS: Final = 8  # partial sums of a gradient over its units: those of units o, o + 8, o + 16, …
EPSILON: Final = np.float32(1e-10)  # AdaGrad's, as torch.optim.Adagrad


class AdaGrad(NamedTuple):
    """A step's numbers: w −= rate · g / (√(sum of g² + floor) + epsilon). Where sums fade, g is inflated, and so are
    `floor` and `epsilon`.
    """

    rate: np.float32
    floor: np.float32
    epsilon: np.float32


INT64: Final = ir.IntType(64)
FLOAT: Final = ir.FloatType()
VECTOR: Final = ir.VectorType(FLOAT, LANES)
ZEROS: Final = VECTOR([0.0] * LANES)
INFINITIES: Final = VECTOR([float("inf")] * LANES)


class Emitter:
    """Writes vector instructions. Arrays are given by address; an index counts floats."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def load(self, address: Any, index: Any, kind: Any = VECTOR) -> Any:
        """A vector from an array, or one value of a `kind`."""
        return self.builder.load(self._pointer(address, index, kind), align=4)

    def store(self, value: Any, address: Any, index: Any) -> None:
        """A vector into an array."""
        self.builder.store(value, self._pointer(address, index, VECTOR), align=4)

    def _pointer(self, address: Any, index: Any, kind: Any) -> Any:
        scalar = FLOAT if kind is VECTOR else kind
        first = self.builder.inttoptr(address, scalar.as_pointer())
        return self.builder.bitcast(self.builder.gep(first, [index]), kind.as_pointer())

    def index(self, row: Any, width: Any, column: Any) -> Any:
        """row · width + column."""
        row, column = (INT64(i) if isinstance(i, int) else i for i in (row, column))
        return self.builder.add(self.builder.mul(row, width), column)

    def spread(self, value: Any) -> Any:
        """A number in every lane."""
        one = self.builder.insert_element(VECTOR(ir.Undefined), value, ir.IntType(32)(0))
        return self.builder.shuffle_vector(one, VECTOR(ir.Undefined), ir.VectorType(ir.IntType(32), LANES)([0] * LANES))

    def call(self, name: str, *operands: Any) -> Any:
        """One of LLVM's functions of vectors."""
        kind = ir.FunctionType(VECTOR, [VECTOR] * len(operands))
        function: Any = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.{name}.v{LANES}f32")  # type: ignore[no-untyped-call]
        return self.builder.call(function, operands)

    def transposed(self, vectors: list[Any]) -> list[Any]:
        """Columns of a square of vectors. Each round interleaves the halves: a perfect shuffle."""
        half = LANES // 2
        for _ in range(LANES.bit_length() - 1):
            pairs = zip(vectors[:half], vectors[half:], strict=True)
            vectors = [self._interleaved(a, b, first) for a, b in pairs for first in (0, half)]
        return vectors

    def _interleaved(self, a: Any, b: Any, first: int) -> Any:
        lanes = [lane for i in range(first, first + LANES // 2) for lane in (i, LANES + i)]
        return self.builder.shuffle_vector(a, b, ir.VectorType(ir.IntType(32), LANES)(lanes))

    def variables(self, start: Any, count: int) -> list[Any]:
        """Variables that the compiler keeps in registers."""
        found = [cgutils.alloca_once(self.builder, VECTOR) for _ in range(count)]  # type: ignore[no-untyped-call]
        for variable in found:
            self.builder.store(start, variable)
        return found

    def loop(self, start: Any, stop: Any, step: int = 1) -> Any:
        """A context manager: what is written in it runs for each index."""
        return cgutils.for_range_slice(self.builder, start, stop, INT64(step), INT64)

    def for_each_count(self, rows: Any, write: Callable[[int], None]) -> None:
        """Code of its own for each number of rows, 1 to ROWS."""
        done = self.builder.append_basic_block("done")
        switch = self.builder.switch(rows, done)
        for count in range(1, ROWS + 1):
            block = self.builder.append_basic_block(f"rows_{count}")
            switch.add_case(INT64(count), block)
            self.builder.position_at_end(block)
            write(count)
            self.builder.branch(done)
        self.builder.position_at_end(done)


def _intrinsic(emit: Callable[[Emitter, Any], None]) -> Any:
    """An instruction for kernels. It takes a tuple: addresses and counts, 64 bits each, and float32 numbers."""

    def typed(_context: Any, given: Any) -> Any:
        def codegen(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
            emit(Emitter(builder), cgutils.unpack_tuple(builder, values[0]))  # type: ignore[no-untyped-call]
            return context.get_dummy_value()

        return types.void(given), codegen

    return intrinsic(typed)


def _emit_activations(e: Emitter, given: Any) -> None:
    """For LANES units: out[r, :] = max(0, bias + Σ x[r, i] · weight[:, i]), summed from the first input to the last."""
    rows, x, weight, bias, out, inputs, outputs = given
    builder = e.builder

    def write(count: int) -> None:
        sums = e.variables(e.load(bias, INT64(0)), count)
        with e.loop(INT64(0), inputs, LANES) as (i, _):
            columns = e.transposed([e.load(weight, e.index(unit, inputs, i)) for unit in range(LANES)])
            for lane, column in enumerate(columns):
                at = builder.add(i, INT64(lane))
                for r, total in enumerate(sums):
                    term = builder.fmul(e.spread(e.load(x, e.index(r, inputs, at), FLOAT)), column)
                    builder.store(builder.fadd(builder.load(total), term), total)
        for r, total in enumerate(sums):
            value = builder.load(total)
            value = builder.select(builder.fcmp_ordered("<", value, ZEROS), ZEROS, value)  # keeps what isn't a number
            e.store(value, out, e.index(r, outputs, 0))

    e.for_each_count(rows, write)


def _emit_gradient(e: Emitter, given: Any) -> None:
    """For LANES inputs: out[r, :] = Σ d[k, r] · weight[units[k], :] group by group, then the groups' sums as a tree."""
    rows, d, d_width, units, ends, weight, inputs, out = given
    builder = e.builder
    partial = cgutils.alloca_once(builder, VECTOR, size=GROUPS * ROWS)  # type: ignore[no-untyped-call]

    def write(count: int) -> None:
        sums = e.variables(ZEROS, count)
        with e.loop(INT64(0), INT64(GROUPS)) as (group, _):
            for total in sums:
                builder.store(ZEROS, total)
            start, stop = (e.load(ends, builder.add(group, INT64(n)), INT64) for n in (0, 1))
            with e.loop(start, stop) as (k, _):
                weights = e.load(weight, builder.mul(e.load(units, k, INT64), inputs))
                for r, total in enumerate(sums):
                    value = e.spread(e.load(d, e.index(k, d_width, r), FLOAT))
                    builder.store(e.call("fma", value, weights, builder.load(total)), total)
            for r, total in enumerate(sums):
                builder.store(builder.load(total), builder.gep(partial, [e.index(group, INT64(ROWS), r)]))
        for r in range(count):
            groups = [builder.load(builder.gep(partial, [INT64(group * ROWS + r)])) for group in range(GROUPS)]
            while len(groups) > 1:
                half = len(groups) // 2
                groups = [builder.fadd(a, b) for a, b in zip(groups[:half], groups[half:], strict=True)]
            e.store(groups[0], out, e.index(r, inputs, 0))

    e.for_each_count(rows, write)


def _emit_step(e: Emitter, given: Any) -> None:
    """AdaGrad on a unit's weights by the gradient Σ d[r] · x[r, :], summed from the first row to the last."""
    rows, d, x, weight, squares, inputs, rate, floor, epsilon = given
    builder = e.builder
    rate, floor, epsilon = (e.spread(number) for number in (rate, floor, epsilon))
    gradient = e.variables(ZEROS, 1)[0]
    with e.loop(INT64(0), inputs, LANES) as (i, _):
        builder.store(ZEROS, gradient)
        with e.loop(INT64(0), rows) as (r, _):
            term = builder.fmul(e.spread(e.load(d, r, FLOAT)), e.load(x, e.index(r, inputs, i)))
            builder.store(builder.fadd(builder.load(gradient), term), gradient)
        g, old, before = builder.load(gradient), e.load(weight, i), e.load(squares, i)
        total = builder.fadd(before, builder.fmul(g, g))
        moves = builder.fcmp_ordered("<", total, INFINITIES)
        e.store(builder.select(moves, total, before), squares, i)
        move = builder.fdiv(builder.fmul(rate, g), builder.fadd(e.call("sqrt", builder.fadd(total, floor)), epsilon))
        e.store(builder.select(moves, builder.fsub(old, move), old), weight, i)


_activations, _gradient, _step = _intrinsic(_emit_activations), _intrinsic(_emit_gradient), _intrinsic(_emit_step)


@kernel
def activate(x: F32, weight: F32, bias: F32, out: F32) -> None:
    """out = max(0, x · weightᵀ + bias): x [rows, in], weight [out, in]."""
    rows, inputs, outputs = x.shape[0], weight.shape[1], weight.shape[0]
    x_at, weight_at, bias_at, out_at = x.ctypes.data, weight.ctypes.data, bias.ctypes.data, out.ctypes.data
    for r in range(0, rows, ROWS):
        for o in range(0, outputs, LANES):
            target = out_at + 4 * (r * outputs + o)
            _activations((min(ROWS, rows - r), x_at + 4 * r * inputs, weight_at + 4 * o * inputs, bias_at + 4 * o,
                          target, inputs, outputs))  # fmt: skip


@kernel
def live_units(d: F32, units: I64, ends: I64) -> F32:
    """List the units with a gradient in any row of d [rows, out], group by group: those of group g are
    units[ends[g]:ends[g + 1]]. Returns their columns of d, [units, rows].
    """
    rows, outputs = d.shape
    sizes = np.zeros(outputs, np.float32)
    for r in range(rows):
        for o in range(outputs):
            sizes[o] += abs(d[r, o])
    count = 0
    for group in range(GROUPS):
        for o in range(group, outputs, GROUPS):
            units[count] = o
            count += int(sizes[o] != 0)
        ends[group + 1] = count
    columns = np.empty((count, rows), np.float32)
    for k in range(count):
        for r in range(rows):
            columns[k, r] = d[r, units[k]]
    return columns


@kernel
def input_gradient(columns: F32, units: I64, ends: I64, weight: F32, width: int, out: F32) -> None:
    """out[:, :width] = d · weight, for d as `live_units` lists it; `width` is rounded up to whole registers."""
    rows, inputs = out.shape
    columns_at, weight_at, out_at = columns.ctypes.data, weight.ctypes.data, out.ctypes.data
    for r in range(0, rows, ROWS):
        for i in range(0, width, LANES):
            target = out_at + 4 * (r * inputs + i)
            _gradient((min(ROWS, rows - r), columns_at + 4 * r, rows, units.ctypes.data, ends.ctypes.data,
                       weight_at + 4 * i, inputs, target))  # fmt: skip


@kernel
def step_units(columns: F32, units: I64, x: F32, weight: F32, squares: F32, step: AdaGrad) -> None:
    """AdaGrad's step on the weights of the units that `live_units` listed, by the gradient dᵀ · x."""
    rate, floor, epsilon = step
    rows, inputs = x.shape
    columns_at, x_at = columns.ctypes.data, x.ctypes.data
    weight_at, squares_at = weight.ctypes.data, squares.ctypes.data
    for k in range(columns.shape[0]):
        unit = 4 * units[k] * inputs
        _step((rows, columns_at + 4 * k * rows, x_at, weight_at + unit, squares_at + unit, inputs, rate, floor,
               epsilon))  # fmt: skip
