"""A timer wheel: pops entries of an arena in order of event time, then of address. Kernels.

A slot of the wheel is a chain linked through the entries: 4 bytes an entry, however long the window is. The entries of
the slots that time has reached are one sorted run. Entries beyond the wheel's range wait in an overflow chain.

`j`: the join's numbers; `timers`: the index in `j` of a wheel's first number. Addresses, links, indices: see arena.py.
"""

from typing import Any, Final

import numpy as np

from stream.joiner.kernels.arena import full_address, get64, index_of, words_of
from stream.joiner.kernels.array_views import Ints, address_of, i64_at, u32_at
from stream.tables.jit import kernel

NEVER: Final = 2**62
SLOT_BITS: Final = 10  # a slot is 1,024 ms at least
SLOTS_MAX: Final = 1 << 17
# Numbers of timers: addresses of the slots and of the run's times and entries, number of slots, capacity of the run,
# bits of a slot; the last slot whose entries are in the run; begin and end of the run; number of entries in slots; the
# head of the overflow chain, and its least time; the arena, and the fields of an entry with the link and the time.
SLOTS, TIMES, ENTRIES, SLOT_COUNT, CAPACITY, BITS, SLOT, BEGIN, END, COUNT, OVERFLOW, OVERFLOW_MS = range(12)
ARENA, LINK_FIELD, TIME_FIELD = range(12, 15)
TIMERS_NUMBERS: Final = 15


class Timers:
    """The wheel's slots and the run of the next entries; most times are expected to lie within `range_ms`."""

    def __init__(self, j: Ints, at: int, range_ms: int, arena: int, link_field: int, time_field: int) -> None:
        bits, slots = SLOT_BITS, 64
        while range_ms >> bits > SLOTS_MAX:
            bits += 1
        while slots <= range_ms >> bits:
            slots *= 2
        self.slots = np.zeros(slots, np.uint32)  # a link to each slot's newest entry
        self.times, self.entries = np.empty(64, np.int64), np.empty(64, np.int64)
        self.numbers = j[at : at + TIMERS_NUMBERS]
        self.numbers[[SLOT_COUNT, BITS, OVERFLOW_MS]] = slots, bits, NEVER
        self.numbers[ARENA:] = arena, link_field, time_field
        self._store_addresses()

    def _store_addresses(self) -> None:
        self.numbers[:3] = address_of(self.slots), address_of(self.times), address_of(self.entries)
        self.numbers[CAPACITY] = len(self.times)

    def reserve(self, more: int) -> None:
        """Make room for `more` entries in the run."""
        begin, end, capacity = int(self.numbers[BEGIN]), int(self.numbers[END]), len(self.times)
        if end + more <= capacity:
            return
        for run in (self.times, self.entries):
            run[: end - begin] = run[begin:end].copy()
            if end - begin + more > capacity // 2:
                run.resize(2 * (end - begin + more), refcheck=False)
        self.numbers[[BEGIN, END]] = 0, end - begin
        self._store_addresses()

    def begin_at(self, time_ms: int) -> None:
        """Begin the wheel at this event time: entries before it go into the run."""
        self.numbers[SLOT] = (time_ms >> int(self.numbers[BITS])) - 1


@kernel
def add(j: Any, timers: Any, address: Any, time_ms: Any) -> None:
    """Add an entry; the run must have room. Empty timers begin again at its time."""
    if j[timers + COUNT] == 0 and j[timers + BEGIN] == j[timers + END] and j[timers + OVERFLOW] == 0:
        j[timers + SLOT] = (time_ms >> j[timers + BITS]) - 1
        j[timers + BEGIN] = j[timers + END] = 0
    put(j, timers, address, time_ms)


@kernel
def put(j: Any, timers: Any, address: Any, time_ms: Any) -> None:
    """Add an entry to timers that have begun."""
    if time_ms >> j[timers + BITS] <= j[timers + SLOT]:
        _put_into_run(j, timers, address, time_ms)
    else:
        _put_into_wheel(j, timers, address & 0xFFFF_FFFF, time_ms)


@kernel
def _put_into_wheel(j: Any, timers: Any, link: Any, time_ms: Any) -> None:
    """Put an entry into its slot, or into the overflow where it lies beyond the range."""
    slots, slot = u32_at(j[timers + SLOTS]), time_ms >> j[timers + BITS]
    link_index = index_of(j, j[timers + ARENA], link) + j[timers + LINK_FIELD]
    words = words_of(j, j[timers + ARENA])
    if slot <= j[timers + SLOT] + j[timers + SLOT_COUNT]:
        slot &= j[timers + SLOT_COUNT] - 1
        words[link_index] = slots[slot]
        slots[slot] = np.uint32(link)
        j[timers + COUNT] += 1
    else:
        words[link_index] = np.uint32(j[timers + OVERFLOW])
        j[timers + OVERFLOW] = link
        j[timers + OVERFLOW_MS] = min(j[timers + OVERFLOW_MS], time_ms)


@kernel
def _put_into_run(j: Any, timers: Any, address: Any, time_ms: Any) -> None:
    times, entries = i64_at(j[timers + TIMES]), i64_at(j[timers + ENTRIES])
    begin, k = j[timers + BEGIN], j[timers + END]
    while k > begin and (times[k - 1] > time_ms or (times[k - 1] == time_ms and entries[k - 1] > address)):
        times[k], entries[k] = times[k - 1], entries[k - 1]
        k -= 1
    times[k], entries[k] = time_ms, address
    j[timers + END] += 1


@kernel
def first_ms(j: Any, timers: Any, limit_ms: Any) -> Any:
    """The least event time if it isn't over `limit_ms`, else a greater number; −1: the run is too short, grow it."""
    if j[timers + BEGIN] < j[timers + END]:
        return i64_at(j[timers + TIMES])[j[timers + BEGIN]]
    j[timers + BEGIN] = j[timers + END] = 0
    if j[timers + COUNT] == 0:
        if j[timers + OVERFLOW] == 0:
            return np.int64(NEVER)
        j[timers + SLOT] = (j[timers + OVERFLOW_MS] >> j[timers + BITS]) - 1
    slots, mask = u32_at(j[timers + SLOTS]), j[timers + SLOT_COUNT] - 1
    while True:
        if j[timers + OVERFLOW_MS] >> j[timers + BITS] <= j[timers + SLOT] + mask + 1:
            _drain_overflow(j, timers)
        if j[timers + SLOT] + 1 << j[timers + BITS] > limit_ms:
            return np.int64(NEVER)
        if slots[j[timers + SLOT] + 1 & mask] != 0:
            break
        j[timers + SLOT] += 1
    if not _open_slot(j, timers):
        return np.int64(-1)
    return i64_at(j[timers + TIMES])[0]


@kernel
def pop(j: Any, timers: Any) -> Any:
    """Remove the first entry and return its address. Valid after `first_ms` has returned its time."""
    j[timers + BEGIN] += 1
    return i64_at(j[timers + ENTRIES])[j[timers + BEGIN] - 1]


@kernel
def first_entry(j: Any, timers: Any) -> Any:
    """The address of the first entry. Valid after `first_ms` has returned its time."""
    return i64_at(j[timers + ENTRIES])[j[timers + BEGIN]]


@kernel
def _drain_overflow(j: Any, timers: Any) -> None:
    """Move entries of the overflow that are within range now into their slots."""
    arena, link = j[timers + ARENA], j[timers + OVERFLOW]
    words = words_of(j, arena)
    j[timers + OVERFLOW], j[timers + OVERFLOW_MS] = 0, NEVER
    while link != 0:
        index = index_of(j, arena, link)
        following = np.int64(words[index + j[timers + LINK_FIELD]])
        _put_into_wheel(j, timers, link, get64(words, index + j[timers + TIME_FIELD]))
        link = following


@kernel
def _open_slot(j: Any, timers: Any) -> Any:
    """Make the next slot the run, sorted; False: the run has no room for it."""
    arena, link_field = j[timers + ARENA], j[timers + LINK_FIELD]
    words, slots = words_of(j, arena), u32_at(j[timers + SLOTS])
    slot = j[timers + SLOT] + 1 & (j[timers + SLOT_COUNT] - 1)
    count, link = np.int64(0), slots[slot]
    while link != 0:
        count, link = count + 1, words[index_of(j, arena, link) + link_field]
    if count > j[timers + CAPACITY]:
        return False
    times, entries = i64_at(j[timers + TIMES])[:count], i64_at(j[timers + ENTRIES])[:count]
    link, is_sorted = slots[slot], True
    for k in range(count - 1, -1, -1):  # the chain has the newest entry first
        index = index_of(j, arena, link)
        times[k], entries[k] = get64(words, index + j[timers + TIME_FIELD]), full_address(j, arena, link)
        if k + 1 < count and (times[k], entries[k]) > (times[k + 1], entries[k + 1]):
            is_sorted = False
        link = words[index + link_field]
    if not is_sorted:
        order = np.argsort(entries)
        order = order[np.argsort(times[order], kind="mergesort")]
        times[:], entries[:] = times[order].copy(), entries[order].copy()
    slots[slot] = np.uint32(0)
    j[timers + SLOT] += 1
    j[timers + COUNT] -= count
    j[timers + END] = count
    return True
