"""Shared-memory arrays: one process allocates blocks and fills them, the other maps them by their file descriptors.

A block has no name: its memory is freed with the last array over it, in either process, and a kill leaves nothing.
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


class SharedBlock(mmap.mmap):
    """Memory, its `number` in the process that allocated it, and the descriptor of its file."""

    number: int
    descriptor: int


class ArrayRef(msgspec.Struct, frozen=True, array_like=True):
    """An array in a block: the block's number, shape and dtype."""

    number: int
    shape: tuple[int, ...]
    dtype: str


_numbers = itertools.count(1)


def allocate(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Zeros in a block of their own; threads may call it. Raises OSError when memory is exhausted."""
    descriptor = _anonymous_file(max(1, math.prod(shape) * np.dtype(dtype).itemsize))
    try:
        block = SharedBlock(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    weakref.finalize(block, os.close, descriptor)
    block.number, block.descriptor = next(_numbers), descriptor
    return np.ndarray(shape, dtype, block)


def copied(array: Array) -> Array:
    """A copy of an array in a block."""
    copy = allocate(array.shape, array.dtype)
    copy[...] = array
    return copy


def block_of(array: Array) -> SharedBlock:
    """The block of an allocated array."""
    block = array.base
    assert isinstance(block, SharedBlock), "the array has no block of its own"
    return block


def number_of(array: Array) -> int:
    """The number of an allocated array's block."""
    return block_of(array).number


def array_ref(array: Array) -> ArrayRef:
    """The reference that lets the other process map an allocated array."""
    return ArrayRef(number_of(array), array.shape, array.dtype.str)


def map_arrays(refs: Sequence[ArrayRef], descriptors: Sequence[int]) -> dict[int, Array]:
    """Maps the files of `descriptors`, and closes them: block number → array. Raises OSError."""
    try:
        return {
            ref.number: np.ndarray(ref.shape, ref.dtype, mmap.mmap(descriptor, 0))
            for ref, descriptor in zip(refs, descriptors, strict=True)
        }
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _anonymous_file(size: int) -> int:
    """Descriptor of a file of zeros without a name."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("thalweg")
    else:  # elsewhere than on Linux: an unlinked file on disk
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
