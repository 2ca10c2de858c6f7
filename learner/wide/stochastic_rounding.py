"""Stochastic rounding to float32: sums stay right however small the terms.

Rounded to the nearest, a term below half of the sum's last digit is lost, always: the sum saturates. With noise of one
last digit's width, added before rounding, it goes up with just the probability that keeps the mean (Croci et al. 2022).
The noise is a hash of the step's number, not a generator's state.
"""

from typing import Any, Final

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # numba's compiler; has no types
from numba import types
from numba.extending import intrinsic

from stream.tables.dtypes import F32
from stream.tables.hash_kernels import mix
from stream.tables.jit import kernel

EXPONENT: Final = 0x7F800000  # the bits of a float32 that are its exponent
LAST_DIGIT: Final = np.float32(2.0**-23)  # of a number between 1 and 2
GOLDEN: Final = (5**0.5 - 1) / 2  # its multiples spread evenly over a unit
HALF: Final = np.float32(0.5)


@intrinsic
def _leading_power(_context: Any, _value: Any) -> Any:
    """The greatest power of two within a float32's magnitude; 0 for 0."""

    def codegen(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        bits = builder.and_(builder.bitcast(values[0], ir.IntType(32)), ir.IntType(32)(EXPONENT))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.float32), codegen


leading_power: Any = _leading_power


@kernel
def offsets_of_noise(count: int) -> F32:
    """Offsets of `count` sums that are rounded in one step, so that each has noise of its own. float32 [count]."""
    offsets = np.empty(count, np.float32)
    for i in range(count):
        offsets[i] = np.float32((i + 1) * GOLDEN % 1.0)
    return offsets


@kernel
def draw(step: int) -> np.float32:
    """A number from 0 to 1 for a step."""
    return np.float32(np.float64(mix(np.uint64(0xA4093822299F31D0), np.uint64(step)) >> np.uint64(40)) * 2.0**-24)


@kernel
def noise(drawn: np.float32, offset: np.float32) -> np.float32:
    """Noise for one of a step's sums, evenly from −½ to ½."""
    moved = drawn + offset
    found: np.float32 = moved - np.floor(moved) - HALF
    return found


@kernel
def dithered(total: np.float32, term: np.float32, noise: np.float32) -> np.float32:
    """total + term, rounded up or down with the probabilities that keep the mean. A total of 0 is exact."""
    found: np.float32 = total + (term + noise * (leading_power(total) * LAST_DIGIT))
    return found
