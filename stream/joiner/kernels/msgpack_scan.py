"""Values of msgpack found in the bytes of a record, in the form that our producers write: kernels.

Text is ASCII, numbers are msgpack's shortest or a double. Of anything else they say that it isn't there.
"""

from typing import Any

import numpy as np

from stream.tables.jit import kernel


@kernel
def number_at(raw: Any, at: Any) -> Any:
    """(a whole number that isn't negative, where it ends); an end of −1: there is none."""
    end = raw.shape[0]
    head = raw[at] if at < end else np.uint8(0xC1)
    if head < 0x80:
        return np.int64(head), at + 1
    size = np.int64(1) << np.int64(head - 0xCC) if 0xCC <= head <= 0xCF else np.int64(0)
    if not size or at + size >= end or (size == 8 and raw[at + 1] >= 0x80):
        return np.int64(0), np.int64(-1)
    value = np.int64(0)
    for k in range(size):
        value = value << 8 | np.int64(raw[at + 1 + k])
    return value, at + 1 + size


@kernel
def head_at(raw: Any, at: Any, fixed: Any, mask: Any, wide: Any) -> Any:
    """(length, where the content begins) of a text, list or map; a beginning of −1: there is none.

    `fixed`, `mask`: the head that holds the length itself; `wide`: the one with two bytes of length behind it.
    """
    end = raw.shape[0]
    head = np.int64(raw[at]) if at < end else np.int64(0xC1)
    if head & ~mask == fixed:
        return head & mask, at + 1
    if head == wide and at + 2 < end:
        return np.int64(raw[at + 1]) << 8 | np.int64(raw[at + 2]), at + 3
    return np.int64(0), np.int64(-1)


@kernel
def list_at(raw: Any, at: Any) -> Any:
    """(number of elements, where the first begins) of a list; a beginning of −1: there is none."""
    return head_at(raw, at, np.int64(0x90), np.int64(0x0F), np.int64(0xDC))


@kernel
def text_at(raw: Any, at: Any) -> Any:
    """(begin, end) of a text's bytes, which must be ASCII; an end of −1: there is none."""
    if at + 1 < raw.shape[0] and raw[at] == 0xD9:
        size, begin = np.int64(raw[at + 1]), at + 2
    else:
        size, begin = head_at(raw, at, np.int64(0xA0), np.int64(0x1F), np.int64(0xDA))
    if begin < 0 or begin + size > raw.shape[0]:
        return np.int64(0), np.int64(-1)
    seen = np.uint8(0)
    for k in range(begin, begin + size):
        seen |= raw[k]
    return begin, begin + size if seen < 0x80 else np.int64(-1)


@kernel
def double_at(raw: Any, at: Any) -> Any:
    """Where a finite double ends; −1: there is none."""
    if at + 8 >= raw.shape[0] or raw[at] != 0xCB:
        return np.int64(-1)
    return at + 9 if raw[at + 1] & 0x7F != 0x7F or raw[at + 2] < 0xF0 else np.int64(-1)


@kernel
def doubles_at(raw: Any, at: Any, count: Any) -> Any:
    """Where a list of none or `count` finite doubles ends; −1: there is none."""
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
    """Where a string of bytes ends; −1: there is none."""
    end, size = raw.shape[0], np.int64(-1)
    if at + 1 < end and raw[at] == 0xC4:
        size, at = np.int64(raw[at + 1]), at + 2
    elif at + 2 < end and raw[at] == 0xC5:
        size, at = np.int64(raw[at + 1]) << 8 | np.int64(raw[at + 2]), at + 3
    return at + size if size >= 0 and at + size <= end else np.int64(-1)


@kernel
def context_at(raw: Any, at: Any) -> Any:
    """Where a map from texts to texts and finite doubles ends; −1: there is none."""
    size, at = head_at(raw, at, np.int64(0x80), np.int64(0x0F), np.int64(0xDE))
    for _ in range(size):
        _, at = text_at(raw, at)
        if 0 <= at < raw.shape[0]:
            if raw[at] == 0xCB:
                at = double_at(raw, at)
            else:
                _, at = text_at(raw, at)
        else:
            return np.int64(-1)
        if at < 0:
            break
    return at
