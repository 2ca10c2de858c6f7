"""Entries of whole 32-bit words, appended in the order of the log and freed from its front: kernels.

An entry's *address* counts words and only grows; links between entries hold its low 32 bits, 0 being none. Addresses
map to memory by chunks, so that what the front has passed is used again and memory grows by a chunk at a time.
A chunk begins with CHUNK_HEAD words: the record offset that its entries count from (int64), and where its entries end.

Kernels get `j`, the numbers of a join, and `arena`, where in it those of an arena begin.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.joiner.kernels.memory import Ints, address_of, u32_at
from stream.tables.jit import kernel

CHUNK_BITS: Final = 16  # 65,536 words, 256 KiB
CHUNK_WORDS: Final = 1 << CHUNK_BITS
CHUNK_HEAD: Final = 4
CHUNKS_MAX: Final = 1 << 32 - CHUNK_BITS  # 16 GiB at a time: links have 32 bits
_MASK: Final = CHUNK_WORDS - 1
_LOW: Final = 0xFFFF_FFFF

# Numbers of an arena: addresses of its arrays, entry addresses, and how many chunks are free or retired.
WORDS, TABLE, FREE, RETIRED, NEXT, FRONT, FREE_COUNT, RETIRED_COUNT = range(8)
ARENA_NUMBERS: Final = 8


class Arena:
    """The words, and how addresses map to them."""

    def __init__(self, j: Ints, at: int) -> None:
        self.words = np.empty(CHUNK_WORDS, np.uint32)
        self.table = np.empty(CHUNKS_MAX, np.uint32)  # chunk of each range of addresses
        self.free = np.empty(64, np.uint32)  # a stack of chunks that are free
        self.retired = np.empty(64, np.uint32)  # chunks that the front has passed since `release`
        self.numbers = j[at : at + ARENA_NUMBERS]
        self.words[:CHUNK_HEAD] = self.table[0] = 0
        self.numbers[[NEXT, FRONT]] = CHUNK_HEAD
        self.publish()

    def publish(self) -> None:
        """Tell the kernels where the arrays are."""
        arrays: tuple[npt.NDArray[np.uint32], ...] = (self.words, self.table, self.free, self.retired)
        self.numbers[: len(arrays)] = [address_of(array) for array in arrays]

    def reserve(self, words: int, largest: int) -> None:
        """Make room for entries of so many words in all, none over `largest`. Raises MemoryError."""
        chunks = words // (CHUNK_WORDS - CHUNK_HEAD - largest) + 1
        free = int(self.numbers[FREE_COUNT])
        missing = chunks - free
        if missing <= 0:
            return
        there = len(self.words) // CHUNK_WORDS
        if there + missing >= CHUNKS_MAX:
            raise MemoryError("a partition can't remember more than 16 GiB; shorten the window, or use more partitions")
        self.words.resize((there + missing) * CHUNK_WORDS, refcheck=False)
        for stack in (self.free, self.retired):
            if len(stack) < there + missing:
                stack.resize(2 * (there + missing), refcheck=False)
        self.free[free : free + missing] = np.arange(there, there + missing)
        self.numbers[FREE_COUNT] += missing
        self.publish()

    def release(self, retired: int | None = None) -> None:
        """What the front has passed may be used again, only so many chunks that it passed first if that is said."""
        there = int(self.numbers[RETIRED_COUNT])
        retired = there if retired is None else retired
        if retired:
            free = int(self.numbers[FREE_COUNT])
            self.free[free : free + retired] = self.retired[:retired]
            self.retired[: there - retired] = self.retired[retired:there].copy()
            self.numbers[[FREE_COUNT, RETIRED_COUNT]] = free + retired, there - retired


@kernel
def words_of(j: Any, arena: Any) -> Any:
    """The words of an arena, uint32."""
    return u32_at(j[arena + WORDS])


@kernel
def at(j: Any, arena: Any, address: Any) -> Any:
    """The index into `words` of an address, or of its low 32 bits."""
    low = np.int64(address) & _LOW
    return np.int64(u32_at(j[arena + TABLE])[low >> CHUNK_BITS]) << CHUNK_BITS | low & _MASK


@kernel
def lives(j: Any, arena: Any, low: Any) -> Any:
    """Whether a link leads to an entry that the front hasn't passed."""
    front = j[arena + FRONT]
    return low != 0 and (np.int64(low) - front) & _LOW < j[arena + NEXT] - front


@kernel
def whole(j: Any, arena: Any, low: Any) -> Any:
    """The address of a link to an entry that lives."""
    front = j[arena + FRONT]
    return front + ((np.int64(low) - front) & _LOW)


@kernel
def append(j: Any, arena: Any, words: Any, offset: Any) -> Any:
    """The address of a new entry of so many words, of the record at `offset`; there must be room for it."""
    memory, address = words_of(j, arena), j[arena + NEXT]
    inside = address & _MASK
    if inside + words >= CHUNK_WORDS:  # the last word stays free, so that no address is a chunk's end
        memory[at(j, arena, address - inside) + 2] = inside
        address += CHUNK_WORDS - inside
        j[arena + FREE_COUNT] -= 1
        u32_at(j[arena + TABLE])[(address & _LOW) >> CHUNK_BITS] = u32_at(j[arena + FREE])[j[arena + FREE_COUNT]]
        memory[at(j, arena, address) + 2] = 0
        inside = np.int64(CHUNK_HEAD)
        address += inside
        if j[arena + FRONT] == j[arena + NEXT]:
            pass_chunks(j, arena, address)
    if inside == CHUNK_HEAD:
        put64(memory, at(j, arena, address) - CHUNK_HEAD, offset)
    j[arena + NEXT] = address + words
    return address


@kernel
def after(j: Any, arena: Any, address: Any, words: Any) -> Any:
    """The address of the entry that follows one of so many words; NEXT where none does."""
    address += words
    inside = address & _MASK
    if inside == np.int64(words_of(j, arena)[at(j, arena, address - inside) + 2]):
        return address - inside + CHUNK_WORDS + CHUNK_HEAD
    return address


@kernel
def pass_chunks(j: Any, arena: Any, front: Any) -> None:
    """Move the front to this address; the chunks before it retire."""
    chunk = j[arena + FRONT] >> CHUNK_BITS
    while chunk < front >> CHUNK_BITS:
        retired = u32_at(j[arena + TABLE])[(chunk << CHUNK_BITS & _LOW) >> CHUNK_BITS]
        u32_at(j[arena + RETIRED])[j[arena + RETIRED_COUNT]] = retired
        j[arena + RETIRED_COUNT] += 1
        chunk += 1
    j[arena + FRONT] = front


@kernel
def base_offset(j: Any, arena: Any, index: Any) -> Any:
    """The record offset from which the entries of an entry's chunk count; `index` into words."""
    return get64(words_of(j, arena), index - (index & _MASK))


@kernel
def get64(words: Any, index: Any) -> Any:
    """int64 of two words."""
    return np.int64(np.uint64(words[index]) | np.uint64(words[index + 1]) << np.uint64(32))


@kernel
def put64(words: Any, index: Any, value: Any) -> None:
    """Write an int64 into two words."""
    words[index] = np.uint32(np.int64(value) & _LOW)
    words[index + 1] = np.uint32(np.int64(value) >> 32 & _LOW)
