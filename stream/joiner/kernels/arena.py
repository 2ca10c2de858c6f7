"""An arena: entries of 32-bit words, appended in the order of the log and freed from its front. Kernels.

An entry's *address* counts words and only grows. A *link* to it is the low 32 bits of its address; 0 links to nothing.
Addresses map to memory by chunks, so that chunks behind the front are reused and memory grows one chunk at a time.
A chunk begins with CHUNK_HEAD words: the base of its entries' record offsets (int64), and the index of its end.

Kernels take `j`, all numbers of a join, and `arena`, the index in `j` of this arena's first number.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.joiner.kernels.array_views import Ints, address_of, u32_at
from stream.tables.jit import kernel

CHUNK_BITS: Final = 16  # 65,536 words, 256 KiB
CHUNK_WORDS: Final = 1 << CHUNK_BITS
CHUNK_HEAD: Final = 4
CHUNKS_MAX: Final = 1 << 32 - CHUNK_BITS  # 16 GiB at a time, since links have 32 bits
_MASK: Final = CHUNK_WORDS - 1
_LOW: Final = 0xFFFF_FFFF

# Numbers of an arena: addresses of its arrays, then its next entry and its front, then its free and retired chunks.
WORDS, TABLE, FREE, RETIRED, NEXT, FRONT, FREE_COUNT, RETIRED_COUNT = range(8)
ARENA_NUMBERS: Final = 8


class Arena:
    """The words of the entries, and the map from addresses to them."""

    def __init__(self, j: Ints, at: int) -> None:
        self.words = np.empty(CHUNK_WORDS, np.uint32)
        self.table = np.empty(CHUNKS_MAX, np.uint32)  # chunk of each range of addresses
        self.free = np.empty(64, np.uint32)  # a stack of free chunks
        self.retired = np.empty(64, np.uint32)  # chunks behind the front, until `release`
        self.numbers = j[at : at + ARENA_NUMBERS]
        self.words[:CHUNK_HEAD] = self.table[0] = 0
        self.numbers[[NEXT, FRONT]] = CHUNK_HEAD
        self.store_addresses()

    def store_addresses(self) -> None:
        """Store the addresses of the arrays where the kernels find them."""
        arrays: tuple[npt.NDArray[np.uint32], ...] = (self.words, self.table, self.free, self.retired)
        self.numbers[: len(arrays)] = [address_of(array) for array in arrays]

    def reserve(self, words: int, largest: int) -> None:
        """Make room for entries of `words` words in all, none over `largest`. Raises MemoryError."""
        free = int(self.numbers[FREE_COUNT])
        missing = words // (CHUNK_WORDS - CHUNK_HEAD - largest) + 1 - free
        if missing <= 0:
            return
        chunks = len(self.words) // CHUNK_WORDS
        if chunks + missing >= CHUNKS_MAX:
            raise MemoryError("a partition can't retain more than 16 GiB; shorten the window, or use more partitions")
        self.words.resize((chunks + missing) * CHUNK_WORDS, refcheck=False)
        for stack in (self.free, self.retired):
            if len(stack) < chunks + missing:
                stack.resize(2 * (chunks + missing), refcheck=False)
        self.free[free : free + missing] = np.arange(chunks, chunks + missing)
        self.numbers[FREE_COUNT] += missing
        self.store_addresses()

    def release(self, retired: int | None = None) -> None:
        """Free the retired chunks for reuse, or only the first `retired` of them."""
        end = int(self.numbers[RETIRED_COUNT])
        retired = end if retired is None else retired
        if retired:
            free = int(self.numbers[FREE_COUNT])
            self.free[free : free + retired] = self.retired[:retired]
            self.retired[: end - retired] = self.retired[retired:end].copy()
            self.numbers[[FREE_COUNT, RETIRED_COUNT]] = free + retired, end - retired


@kernel
def words_of(j: Any, arena: Any) -> Any:
    """The words of an arena, uint32."""
    return u32_at(j[arena + WORDS])


@kernel
def index_of(j: Any, arena: Any, address: Any) -> Any:
    """The index into `words` of an address or a link."""
    low = np.int64(address) & _LOW
    return np.int64(u32_at(j[arena + TABLE])[low >> CHUNK_BITS]) << CHUNK_BITS | low & _MASK


@kernel
def is_live(j: Any, arena: Any, low: Any) -> Any:
    """Whether a link leads to an entry that isn't behind the front."""
    front = j[arena + FRONT]
    return low != 0 and (np.int64(low) - front) & _LOW < j[arena + NEXT] - front


@kernel
def full_address(j: Any, arena: Any, low: Any) -> Any:
    """The address of a live entry, from a link to it."""
    front = j[arena + FRONT]
    return front + ((np.int64(low) - front) & _LOW)


@kernel
def append(j: Any, arena: Any, words: Any, offset: Any) -> Any:
    """Append an entry of `words` words that comes from the record at `offset`; returns its address. Needs `reserve`."""
    memory, address = words_of(j, arena), j[arena + NEXT]
    inside = address & _MASK
    if inside + words >= CHUNK_WORDS:  # the last word stays free, so that no address is a chunk's end
        memory[index_of(j, arena, address - inside) + 2] = inside
        address += CHUNK_WORDS - inside
        j[arena + FREE_COUNT] -= 1
        u32_at(j[arena + TABLE])[(address & _LOW) >> CHUNK_BITS] = u32_at(j[arena + FREE])[j[arena + FREE_COUNT]]
        memory[index_of(j, arena, address) + 2] = 0
        inside = np.int64(CHUNK_HEAD)
        address += inside
        if j[arena + FRONT] == j[arena + NEXT]:
            advance_front(j, arena, address)
    if inside == CHUNK_HEAD:
        put64(memory, index_of(j, arena, address) - CHUNK_HEAD, offset)
    j[arena + NEXT] = address + words
    return address


@kernel
def next_address(j: Any, arena: Any, address: Any, words: Any) -> Any:
    """The address of the entry after one of `words` words; NEXT after the last one."""
    address += words
    inside = address & _MASK
    if inside == np.int64(words_of(j, arena)[index_of(j, arena, address - inside) + 2]):
        return address - inside + CHUNK_WORDS + CHUNK_HEAD
    return address


@kernel
def advance_front(j: Any, arena: Any, front: Any) -> None:
    """Move the front to this address and retire the chunks before it."""
    chunk = j[arena + FRONT] >> CHUNK_BITS
    while chunk < front >> CHUNK_BITS:
        retired = u32_at(j[arena + TABLE])[(chunk << CHUNK_BITS & _LOW) >> CHUNK_BITS]
        u32_at(j[arena + RETIRED])[j[arena + RETIRED_COUNT]] = retired
        j[arena + RETIRED_COUNT] += 1
        chunk += 1
    j[arena + FRONT] = front


@kernel
def base_offset(j: Any, arena: Any, index: Any) -> Any:
    """The base of record offsets in the chunk of the entry at `index`."""
    return get64(words_of(j, arena), index - (index & _MASK))


@kernel
def get64(words: Any, index: Any) -> Any:
    """Read an int64 from two words."""
    return np.int64(np.uint64(words[index]) | np.uint64(words[index + 1]) << np.uint64(32))


@kernel
def put64(words: Any, index: Any, value: Any) -> None:
    """Write an int64 into two words."""
    words[index] = np.uint32(np.int64(value) & _LOW)
    words[index + 1] = np.uint32(np.int64(value) >> 32 & _LOW)
