"""Entries of an arena found by a hash: chains through the entries, newest first, whose buckets split one by one.

Linear hashing (W. Litwin, 1980): a table grows by a bucket at a time, so that no insert waits for all of them to be
laid out anew. Nothing is ever taken out: a chain ends where it reaches an entry that the arena's front has passed.
"""

from typing import Any, Final

import numpy as np

from stream.joiner.kernels.arena import at, get64, lives, words_of
from stream.joiner.kernels.memory import Ints, address_of, u32_at
from stream.tables.jit import kernel

BUCKETS_MIN: Final = 16  # a power of two
# Numbers of a table: address of its heads, how many there is room for, how many buckets there are, and the greatest
# power of two up to that.
HEADS, ROOM, COUNT, LEVEL = range(4)
CHAINS_NUMBERS: Final = 4


class Chains:
    """The heads of a table's chains: low bits of addresses, uint32 [>= buckets]."""

    def __init__(self, j: Ints, at: int) -> None:
        self.heads = np.zeros(4 * BUCKETS_MIN, np.uint32)
        self.numbers = j[at : at + CHAINS_NUMBERS]
        self.numbers[:] = address_of(self.heads), len(self.heads), BUCKETS_MIN, BUCKETS_MIN

    def reserve(self, buckets: int) -> None:
        """Make room for so many buckets, in steps that take no time to speak of."""
        if buckets > len(self.heads):
            self.heads.resize(buckets + buckets // 8 + 64, refcheck=False)
            self.numbers[[HEADS, ROOM]] = address_of(self.heads), len(self.heads)

    def clear(self, buckets: int) -> None:
        """So many empty buckets."""
        self.reserve(buckets)
        self.heads[:] = 0
        count = max(buckets, BUCKETS_MIN)
        self.numbers[[COUNT, LEVEL]] = count, 1 << count.bit_length() - 1


@kernel
def bucket(j: Any, chains: Any, hashed: Any) -> Any:
    """The bucket of a hash."""
    level = j[chains + LEVEL]
    found = hashed & (2 * level - 1)
    return found if found < j[chains + COUNT] else found & (level - 1)


@kernel
def first_of(j: Any, chains: Any, hashed: Any) -> Any:
    """The link to the newest entry that may have a hash."""
    return np.int64(u32_at(j[chains + HEADS])[bucket(j, chains, hashed)])


@kernel
def insert(j: Any, chains: Any, arena: Any, address: Any, hash_field: Any, link_field: Any) -> None:
    """Put an entry first in its chain. The fields say where it has its hash and its link."""
    words, heads, index = words_of(j, arena), u32_at(j[chains + HEADS]), at(j, arena, address)
    place = bucket(j, chains, get64(words, index + hash_field))
    words[index + link_field] = heads[place]
    heads[place] = np.uint32(address & 0xFFFF_FFFF)


@kernel
def grow(j: Any, chains: Any, arena: Any, buckets: Any, hash_field: Any, link_field: Any) -> None:
    """Split buckets, in turn, until there are so many, as far as there is room."""
    while j[chains + COUNT] < min(buckets, j[chains + ROOM]):
        _split(j, chains, arena, hash_field, link_field)


@kernel
def _split(j: Any, chains: Any, arena: Any, hash_field: Any, link_field: Any) -> None:
    words, heads = words_of(j, arena), u32_at(j[chains + HEADS])
    new = j[chains + COUNT]
    old, mask = new - j[chains + LEVEL], 2 * j[chains + LEVEL] - 1
    link = np.int64(heads[old])
    heads[old] = heads[new] = np.uint32(0)
    last_old = last_new = np.int64(-1)  # index of the last entry of either chain
    while lives(j, arena, link):
        index = at(j, arena, link)
        following = np.int64(words[index + link_field])
        words[index + link_field] = np.uint32(0)
        if get64(words, index + hash_field) & mask == new:
            if last_new < 0:
                heads[new] = np.uint32(link)
            else:
                words[last_new + link_field] = np.uint32(link)
            last_new = index
        else:
            if last_old < 0:
                heads[old] = np.uint32(link)
            else:
                words[last_old + link_field] = np.uint32(link)
            last_old = index
        link = following
    j[chains + COUNT] = new + 1
    if new + 1 == 2 * j[chains + LEVEL]:
        j[chains + LEVEL] *= 2
