"""Arrays in memory that two processes see: one takes blocks and fills them, the other maps them by their files.

A block has no name: its memory goes with the last array over it, in whichever process, and nothing is left by a kill.
"""

import itertools
import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Block(mmap.mmap):
    """Memory under a `number` that its maker gives it, and the descriptor of its file."""

    number: int
    descriptor: int


class Place(msgspec.Struct, frozen=True, array_like=True):
    """A block's number, and which array it holds."""

    number: int
    shape: tuple[int, ...]
    dtype: str


class Blocks:
    """Makes blocks. Threads may share it."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def take(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Zeros in a block of their own. Raises OSError when there is no memory."""
        descriptor = _nameless(max(1, math.prod(shape) * np.dtype(dtype).itemsize))
        try:
            block = Block(descriptor, 0)
        except BaseException:
            os.close(descriptor)
            raise
        weakref.finalize(block, os.close, descriptor)
        block.number, block.descriptor = next(self._numbers), descriptor
        return np.ndarray(shape, dtype, block)

    def copy(self, array: Array) -> Array:
        """The same in a block."""
        copied = self.take(array.shape, array.dtype)
        copied[...] = array
        return copied


def block_of(array: Array) -> Block:
    """The block that an array was taken in."""
    block = array.base
    assert isinstance(block, Block), "the array has no block of its own"
    return block


def number_of(array: Array) -> int:
    """The number of the block that an array was taken in."""
    return block_of(array).number


def place_of(array: Array) -> Place:
    """What the other process has to know of an array that was taken in a block."""
    return Place(number_of(array), array.shape, array.dtype.str)


def mapped(places: Sequence[Place], descriptors: Sequence[int]) -> dict[int, Array]:
    """Arrays by the numbers of their blocks, from the descriptors of their files, which are closed. Raises OSError."""
    try:
        return {
            place.number: np.ndarray(place.shape, place.dtype, mmap.mmap(descriptor, 0))
            for place, descriptor in zip(places, descriptors, strict=True)
        }
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _nameless(size: int) -> int:
    """A file of zeros that no folder names."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("thalweg")
    else:  # where a file in memory has a name, one on disk that was removed does as well
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
