"""XXH3 (64 bits, no seed) of short texts, for numba kernels: the very hash that `xxhash.xxh3_64_intdigest` gives.

Lengths are 1 to LENGTH_MAX. Derived from xxHash 0.8, Copyright (c) 2012-2021 Yann Collet, all rights reserved;
SPDX-License-Identifier: BSD-2-Clause, whose text is in NOTICE.
"""

from typing import Any, Final

import numpy as np

from stream.tables.jit import kernel

LENGTH_MAX: Final = 128
SECRET: Final = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
        "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
        "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    ),
    "<u8",
)


@kernel
def _read64(text: Any, at: Any) -> Any:
    x = np.uint64(0)
    for k in range(8):
        x |= np.uint64(text[np.uint64(at + k)]) << np.uint64(8 * k)
    return x


@kernel
def _read32(text: Any, at: Any) -> Any:
    x = np.uint64(0)
    for k in range(4):
        x |= np.uint64(text[np.uint64(at + k)]) << np.uint64(8 * k)
    return x


@kernel
def _fold(a: Any, b: Any) -> Any:
    """The 128-bit product, its halves xored."""
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    a0, a1, b0, b1 = a & low, a >> half, b & low, b >> half
    p00, p01, p10, p11 = a0 * b0, a0 * b1, a1 * b0, a1 * b1
    cross = (p00 >> half) + (p10 & low) + p01
    upper = (p10 >> half) + (cross >> half) + p11
    return upper ^ ((cross << half) | (p00 & low))


@kernel
def _avalanche(h: Any) -> Any:
    h ^= h >> np.uint64(37)
    h *= np.uint64(0x165667919E3779F9)
    return h ^ (h >> np.uint64(32))


@kernel
def _mix16(text: Any, at: Any, word: Any) -> Any:
    return _fold(_read64(text, at) ^ SECRET[word], _read64(text, at + 8) ^ SECRET[word + 1])


@kernel
def xxh3_64(text: Any, length: Any) -> Any:
    """The hash of text[:length]; uint8 [at least length], 1 <= length <= LENGTH_MAX. uint64."""
    n = np.uint64(length)
    if length < 4:
        h = np.uint64(text[0]) << np.uint64(16) | np.uint64(text[length >> 1]) << np.uint64(24)
        h |= np.uint64(text[length - 1]) | n << np.uint64(8)
        h ^= (SECRET[0] ^ SECRET[0] >> np.uint64(32)) & np.uint64(0xFFFFFFFF)
        h = (h ^ h >> np.uint64(33)) * np.uint64(0xC2B2AE3D27D4EB4F)
        h = (h ^ h >> np.uint64(29)) * np.uint64(0x165667B19E3779F9)
        return h ^ h >> np.uint64(32)
    if length <= 8:
        h = (_read32(text, length - 4) + (_read32(text, 0) << np.uint64(32))) ^ (SECRET[1] ^ SECRET[2])
        h ^= ((h << np.uint64(49)) | (h >> np.uint64(15))) ^ ((h << np.uint64(24)) | (h >> np.uint64(40)))
        h *= np.uint64(0x9FB21C651E98DF25)
        h ^= (h >> np.uint64(35)) + n
        h *= np.uint64(0x9FB21C651E98DF25)
        return h ^ (h >> np.uint64(28))
    if length <= 16:
        low = _read64(text, 0) ^ (SECRET[3] ^ SECRET[4])
        high = _read64(text, length - 8) ^ (SECRET[5] ^ SECRET[6])
        swapped = np.uint64(0)
        for k in range(8):
            swapped |= ((low >> np.uint64(8 * k)) & np.uint64(255)) << np.uint64(56 - 8 * k)
        return _avalanche(n + swapped + high + _fold(low, high))
    h = n * np.uint64(0x9E3779B185EBCA87)
    steps = (length - 1) // 32
    for k in range(steps, -1, -1):
        h += _mix16(text, 16 * k, 4 * k)
        h += _mix16(text, length - 16 * (k + 1), 4 * k + 2)
    return _avalanche(h)
