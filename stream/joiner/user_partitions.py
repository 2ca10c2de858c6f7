"""Which users belong to another partition, by Kafka's default partitioner: murmur2 for very many at once.

In a file of its own because numba takes longer to load than anything else in a joiner.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from stream.table import kernel

SEED: Final = 0x9747B28C
M: Final = 0x5BD1E995
WORD: Final = 0xFFFFFFFF


def misplaced(users: Sequence[str], partition: int, partitions: int) -> list[int]:
    """The indexes of those users whom `log.partition_of` gives to another partition.

    >>> misplaced(["1", "2", "3"], 3, 4)
    [1]
    """
    ids: Sequence[str | bytes] = users
    text = "".join(users).encode()
    if not text.isascii():
        ids = [user.encode() for user in users]
    ends = np.cumsum(np.fromiter(map(len, ids), np.int64, len(users)))
    wrong = np.zeros(len(users), np.bool_)
    if not _mark_misplaced(np.frombuffer(text, np.uint8), ends, partition, partitions, wrong):
        return []
    found: list[int] = np.flatnonzero(wrong).tolist()
    return found


@kernel
def _murmur2(text: Any, begin: Any, end: Any) -> Any:
    """Of some bytes, int64 below 2^32."""
    h = np.int64(SEED) ^ (end - begin)
    at = begin
    while at + 4 <= end:
        k = (
            np.int64(text[at])
            | np.int64(text[at + 1]) << 8
            | np.int64(text[at + 2]) << 16
            | np.int64(text[at + 3]) << 24
        )
        k = (k * M) & WORD
        k ^= k >> 24
        k = (k * M) & WORD
        h = ((h * M) & WORD) ^ k
        at += 4
    if at < end:
        for n in range(end - at):
            h ^= np.int64(text[at + n]) << 8 * n
        h = (h * M) & WORD
    h ^= h >> 13
    h = (h * M) & WORD
    return h ^ (h >> 15)


@kernel
def _mark_misplaced(text: Any, ends: Any, partition: Any, partitions: Any, wrong: Any) -> Any:
    """Mark the users of other partitions; returns how many there are."""
    begin, count = np.int64(0), 0
    for n in range(ends.shape[0]):
        if (_murmur2(text, begin, ends[n]) & 0x7FFFFFFF) % partitions != partition:
            wrong[n] = True
            count += 1
        begin = ends[n]
    return count
