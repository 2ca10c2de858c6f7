"""Parses msgpack values in the bytes of a record, in the plain form that our producers write. Kernels.

Text is ASCII, numbers are msgpack's shortest or a double. Anything else counts as missing. Each takes the index `at` of
a value in `raw`, uint8, and returns the index of its end; −1 if the value is missing. `at` is not negative; indices are
unsigned where it matters: numba takes up to ten times as long for signed ones, which may count from the end.
"""

from typing import Any

import numpy as np

from stream.events.types import ID_BYTES_MAX
from stream.tables.jit import kernel


@kernel
def unsigned_at(raw: Any, at: Any) -> Any:
    """(an unsigned 64-bit integer, uint64, its end)."""
    end = raw.shape[0]
    head = raw[np.uint64(at)] if at < end else np.uint8(0xC1)
    if head < 0x80:
        return np.uint64(head), at + 1
    size = np.int64(1) << np.int64(head - 0xCC) if 0xCC <= head <= 0xCF else np.int64(0)
    if not size or at + size >= end:
        return np.uint64(0), np.int64(-1)
    value = np.uint64(0)
    for k in range(size):
        value = value << np.uint64(8) | np.uint64(raw[np.uint64(at + 1 + k)])
    return value, at + 1 + size


@kernel
def number_at(raw: Any, at: Any) -> Any:
    """(a non-negative integer, its end)."""
    value, end = unsigned_at(raw, at)
    return np.int64(value), end if value < np.uint64(1 << 63) else np.int64(-1)


@kernel
def head_at(raw: Any, at: Any, fixed: Any, mask: Any, wide: Any) -> Any:
    """(length, begin of the content) of a text, list or map.

    `fixed`, `mask`: the head that contains the length; `wide`: the head that two bytes of length follow.
    """
    end = raw.shape[0]
    head = np.int64(raw[np.uint64(at)]) if at < end else np.int64(0xC1)
    if head & ~mask == fixed:
        return head & mask, at + 1
    if head == wide and at + 2 < end:
        return np.int64(raw[np.uint64(at + 1)]) << 8 | np.int64(raw[np.uint64(at + 2)]), at + 3
    return np.int64(0), np.int64(-1)


@kernel
def list_at(raw: Any, at: Any) -> Any:
    """(number of elements, begin of the first) of a list."""
    return head_at(raw, at, np.int64(0x90), np.int64(0x0F), np.int64(0xDC))


@kernel
def text_at(raw: Any, at: Any) -> Any:
    """(begin, end) of a text's bytes, which must be ASCII."""
    if at + 1 < raw.shape[0] and raw[np.uint64(at)] == 0xD9:
        size, begin = np.int64(raw[np.uint64(at + 1)]), at + 2
    else:
        size, begin = head_at(raw, at, np.int64(0xA0), np.int64(0x1F), np.int64(0xDA))
    if begin < 0 or begin + size > raw.shape[0]:
        return np.int64(0), np.int64(-1)
    seen = np.uint8(0)
    for k in range(begin, begin + size):
        seen |= raw[np.uint64(k)]
    return begin, begin + size if seen < 0x80 else np.int64(-1)


@kernel
def id_at(raw: Any, at: Any) -> Any:
    """(begin, end) of an id's bytes; it may be empty."""
    begin, at = text_at(raw, at)
    return begin, at if at - begin <= ID_BYTES_MAX else np.int64(-1)


@kernel
def double_at(raw: Any, at: Any) -> Any:
    """The end of a finite double."""
    if at + 8 >= raw.shape[0] or raw[at] != 0xCB:
        return np.int64(-1)
    return at + 9 if raw[at + 1] & 0x7F != 0x7F or raw[at + 2] < 0xF0 else np.int64(-1)


@kernel
def doubles_at(raw: Any, at: Any, count: Any) -> Any:
    """The end of a list of none or `count` finite doubles."""
    size, at = list_at(raw, at)
    if size and size != count:
        return np.int64(-1)
    for _ in range(size):
        if at < 0:
            break
        at = double_at(raw, at)
    return at


@kernel
def bytes_at(raw: Any, at: Any) -> Any:
    """The end of a string of bytes."""
    end, size = raw.shape[0], np.int64(-1)
    if at + 1 < end and raw[at] == 0xC4:
        size, at = np.int64(raw[at + 1]), at + 2
    elif at + 2 < end and raw[at] == 0xC5:
        size, at = np.int64(raw[at + 1]) << 8 | np.int64(raw[at + 2]), at + 3
    return at + size if size >= 0 and at + size <= end else np.int64(-1)


@kernel
def context_at(raw: Any, at: Any) -> Any:
    """The end of a map from texts to texts and finite doubles."""
    size, at = head_at(raw, at, np.int64(0x80), np.int64(0x0F), np.int64(0xDE))
    for _ in range(size):
        _, at = text_at(raw, at)
        if 0 <= at < raw.shape[0] and raw[at] == 0xCB:
            at = double_at(raw, at)
        elif at >= 0:
            _, at = text_at(raw, at)
        if at < 0:
            break
    return at
