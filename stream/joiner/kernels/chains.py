"""A hash table over an arena's entries: chains linked through the entries, newest first. Kernels.

Linear hashing (W. Litwin, 1980): the table grows one bucket at a time, so no insert waits for a rehash of all buckets.
Entries are never removed: a chain ends at the first entry behind the arena's front.

`j`: the join's numbers; `chains`: the index in `j` of a table's first number. Addresses, links, indices: see arena.py.
"""

from typing import Any, Final

import numpy as np

from stream.joiner.kernels.arena import get64, index_of, is_live, words_of
from stream.joiner.kernels.array_views import Ints, address_of, u32_at
from stream.tables.jit import kernel

BUCKETS_MIN: Final = 16  # a power of two
# Numbers of a table: address and capacity of its heads, number of buckets, the greatest power of two up to that; its
# arena, and the fields of an entry with the hash and the link.
HEADS, CAPACITY, COUNT, LEVEL, ARENA, HASH_FIELD, LINK_FIELD = range(7)
CHAINS_NUMBERS: Final = 7


class Chains:
    """The heads of a table's chains: links, uint32 [>= buckets]."""

    def __init__(self, j: Ints, at: int, arena: int, hash_field: int, link_field: int) -> None:
        self.heads = np.zeros(4 * BUCKETS_MIN, np.uint32)
        self.numbers = j[at : at + CHAINS_NUMBERS]
        self.numbers[:LEVEL] = address_of(self.heads), len(self.heads), BUCKETS_MIN
        self.numbers[LEVEL:] = BUCKETS_MIN, arena, hash_field, link_field

    def reserve(self, buckets: int) -> None:
        """Make room for this many buckets."""
        if buckets > len(self.heads):
            self.heads.resize(buckets + buckets // 8 + 64, refcheck=False)
            self.numbers[[HEADS, CAPACITY]] = address_of(self.heads), len(self.heads)

    def clear(self, buckets: int) -> None:
        """Reset to this many empty buckets."""
        self.reserve(buckets)
        self.heads[:] = 0
        count = max(buckets, BUCKETS_MIN)
        self.numbers[[COUNT, LEVEL]] = count, 1 << count.bit_length() - 1


@kernel
def bucket_of(j: Any, chains: Any, hashed: Any) -> Any:
    """The bucket of a hash."""
    level = j[chains + LEVEL]
    found = hashed & (2 * level - 1)
    return found if found < j[chains + COUNT] else found & (level - 1)


@kernel
def first_link(j: Any, chains: Any, hashed: Any) -> Any:
    """The link to the newest entry in the bucket of a hash."""
    return np.int64(u32_at(j[chains + HEADS])[bucket_of(j, chains, hashed)])


@kernel
def insert(j: Any, chains: Any, address: Any) -> None:
    """Put an entry first in its chain."""
    arena = j[chains + ARENA]
    words, heads, index = words_of(j, arena), u32_at(j[chains + HEADS]), index_of(j, arena, address)
    bucket = bucket_of(j, chains, get64(words, index + j[chains + HASH_FIELD]))
    words[index + j[chains + LINK_FIELD]] = heads[bucket]
    heads[bucket] = np.uint32(address & 0xFFFF_FFFF)


@kernel
def grow(j: Any, chains: Any, buckets: Any) -> None:
    """Split buckets, in turn, until there are this many or the capacity is reached."""
    while j[chains + COUNT] < min(buckets, j[chains + CAPACITY]):
        _split(j, chains)


@kernel
def _split(j: Any, chains: Any) -> None:
    arena, link_field = j[chains + ARENA], j[chains + LINK_FIELD]
    words, heads = words_of(j, arena), u32_at(j[chains + HEADS])
    new = j[chains + COUNT]
    old, mask = new - j[chains + LEVEL], 2 * j[chains + LEVEL] - 1
    link = np.int64(heads[old])
    heads[old] = heads[new] = np.uint32(0)
    last_old = last_new = np.int64(-1)  # index of the last entry of either chain
    while is_live(j, arena, link):
        index = index_of(j, arena, link)
        following = np.int64(words[index + link_field])
        words[index + link_field] = np.uint32(0)
        if get64(words, index + j[chains + HASH_FIELD]) & mask == new:
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
