"""Sums of squared gradients in a byte each: exploration needs their size, not their digits."""

from typing import Final

import numpy as np

from stream.tables.dtypes import F32, U8

STEPS: Final = 6  # codes for each doubling: a sum is right within 6 %
ONE: Final = 128  # the code of a sum of 1: codes reach from 2⁻²¹ to 2²¹


def codes_of(sums: F32) -> U8:
    """The codes of sums, uint8; 0 of a sum that is 0."""
    exponents = np.log2(np.maximum(sums, np.float32(1e-30)))
    codes = np.rint(ONE + STEPS * exponents).clip(1, 255)
    found: U8 = np.where(sums > 0, codes, 0).astype(np.uint8)
    return found


def sums_of(codes: U8) -> F32:
    """The sums of codes, float32.

    >>> sums_of(codes_of(np.array([0.0, 1.0, 4.0], np.float32))).tolist()
    [0.0, 1.0, 4.0]
    """
    sums = 2.0 ** ((codes.astype(np.float32) - ONE) / STEPS)
    found: F32 = np.where(codes > 0, sums, 0).astype(np.float32)
    return found
