"""Hashes of users, items, request ids and install ids, by which the join identifies them. Kernels."""

from typing import Any, Final

import numpy as np

from stream.tables.hash_kernels import mix
from stream.tables.jit import kernel

TEXT_SEED: Final = np.uint64(0x1319_8A2E_0370_7344)
PAIR_SEED: Final = np.uint64(0xA409_3822_299F_31D0)  # makes it ordered, which `mix` alone isn't
ITEM_BITS: Final = 0xFFFF_FFFF_FFFF  # of an item's hash: 48, to save memory


@kernel
def text_hash(raw: Any, begin: Any, end: Any) -> Any:
    """Hash of raw[begin:end], uint8: int64, never 0."""
    h, word, shift = mix(TEXT_SEED, np.uint64(end - begin)), np.uint64(0), np.uint64(0)
    for k in range(begin, end):
        word |= np.uint64(raw[k]) << shift
        shift += np.uint64(8)
        if shift == 64:
            h, word, shift = mix(h, word), np.uint64(0), np.uint64(0)
    found = np.int64(mix(h, word))
    return found if found != 0 else np.int64(1)


@kernel
def item_hash(raw: Any, begin: Any, end: Any) -> Any:
    """Hash of raw[begin:end] in ITEM_BITS, never 0."""
    h = text_hash(raw, begin, end) & ITEM_BITS
    return h if h != 0 else np.int64(1)


@kernel
def pair_hash(first: Any, second: Any) -> Any:
    """Hash of an ordered pair of hashes, int64; the two may be equal."""
    return np.int64(mix(mix(PAIR_SEED, np.uint64(first)), np.uint64(second)))


@kernel
def murmur2(raw: Any, begin: Any, end: Any) -> Any:
    """Kafka's hash of raw[begin:end], uint8: its lower 31 bits, int64; modulo the number of partitions: the partition.

    From `org.apache.kafka.common.utils.Utils.murmur2`.
    """
    m, low = np.int64(0x5BD1E995), np.int64(0xFFFF_FFFF)
    h, at = np.int64(0x9747B28C) ^ (end - begin), begin
    while at + 4 <= end:
        k = np.int64(raw[at]) | np.int64(raw[at + 1]) << 8 | np.int64(raw[at + 2]) << 16 | np.int64(raw[at + 3]) << 24
        k = (k * m) & low
        h = ((h * m) & low) ^ (((k ^ k >> 24) * m) & low)
        at += 4
    for n in range(end - at):
        h ^= np.int64(raw[at + n]) << 8 * n
    if at < end:
        h = (h * m) & low
    h = ((h ^ h >> 13) * m) & low
    return (h ^ h >> 15) & 0x7FFF_FFFF
