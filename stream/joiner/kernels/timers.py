"""Entries of an arena in order of event time, then of their addresses: a timer wheel in kernels.

A slot of the wheel is a chain through the entries: 4 bytes each, the same whatever the window. The slots that time has
reached are one sorted run; what lies beyond the wheel's range waits in a chain of its own.
"""

from typing import Any, Final

import numpy as np

from stream.joiner.kernels.arena import at, get64, whole, words_of
from stream.joiner.kernels.memory import Ints, address_of, i64_at, u32_at
from stream.tables.jit import kernel

NEVER: Final = 2**62
SLOT_BITS: Final = 10  # a slot is 1,024 ms at least
SLOTS_MAX: Final = 1 << 17
# Numbers of timers: addresses of slots and of the run's times and entries, number of slots, room in the run, bits of a
# slot; the slot up to which entries are in the run; begin and end of the run; entries in slots; the first entry beyond
# the range, and the least of their times.
SLOTS, TIMES, ENTRIES, SLOT_COUNT, ROOM, BITS, SLOT, BEGIN, END, COUNT, BEYOND, BEYOND_MS = range(12)
TIMERS_NUMBERS: Final = 12


class Timers:
    """A wheel of slots, and the run of entries that come next, for times that lie within a range, most of them."""

    def __init__(self, j: Ints, at: int, range_ms: int) -> None:
        bits, slots = SLOT_BITS, 64
        while range_ms >> bits > SLOTS_MAX:
            bits += 1
        while slots <= range_ms >> bits:
            slots *= 2
        self.slots = np.zeros(slots, np.uint32)  # low address bits of each slot's last entry
        self.times, self.entries = np.empty(64, np.int64), np.empty(64, np.int64)
        self.numbers = j[at : at + TIMERS_NUMBERS]
        self.numbers[[SLOT_COUNT, BITS, BEYOND_MS]] = slots, bits, NEVER
        self._publish()

    def _publish(self) -> None:
        self.numbers[:3] = address_of(self.slots), address_of(self.times), address_of(self.entries)
        self.numbers[ROOM] = len(self.times)

    def reserve(self, more: int) -> None:
        """Make room for so many more entries in the run."""
        begin, end, room = int(self.numbers[BEGIN]), int(self.numbers[END]), len(self.times)
        if end + more <= room:
            return
        for run in (self.times, self.entries):
            run[: end - begin] = run[begin:end].copy()
            if end - begin + more > room // 2:
                run.resize(2 * (end - begin + more), refcheck=False)
        self.numbers[[BEGIN, END]] = 0, end - begin
        self._publish()

    def begin_at(self, time_ms: int) -> None:
        """Nothing that is put in has an event time before this."""
        self.numbers[SLOT] = (time_ms >> int(self.numbers[BITS])) - 1


@kernel
def add(j: Any, timers: Any, arena: Any, address: Any, time_ms: Any, link_field: Any) -> None:
    """Put an entry in; there must be room in the run."""
    if j[timers + COUNT] == 0 and j[timers + BEGIN] == j[timers + END] and j[timers + BEYOND] == 0:
        j[timers + SLOT] = (time_ms >> j[timers + BITS]) - 1
        j[timers + BEGIN] = j[timers + END] = 0
    put(j, timers, arena, address, time_ms, link_field)


@kernel
def put(j: Any, timers: Any, arena: Any, address: Any, time_ms: Any, link_field: Any) -> None:
    """The same, where the run's slot is known to be right."""
    slot = time_ms >> j[timers + BITS]
    if slot <= j[timers + SLOT]:
        _into_run(j, timers, address, time_ms)
    elif slot <= j[timers + SLOT] + j[timers + SLOT_COUNT]:
        _into_slot(j, timers, words_of(j, arena), at(j, arena, address), address & 0xFFFF_FFFF, slot, link_field)
    else:
        words_of(j, arena)[at(j, arena, address) + link_field] = np.uint32(j[timers + BEYOND])
        j[timers + BEYOND] = address & 0xFFFF_FFFF
        j[timers + BEYOND_MS] = min(j[timers + BEYOND_MS], time_ms)


@kernel
def _into_slot(j: Any, timers: Any, words: Any, index: Any, low: Any, slot: Any, link_field: Any) -> None:
    slots, place = u32_at(j[timers + SLOTS]), slot & (j[timers + SLOT_COUNT] - 1)
    words[index + link_field] = slots[place]
    slots[place] = np.uint32(low)
    j[timers + COUNT] += 1


@kernel
def _into_run(j: Any, timers: Any, address: Any, time_ms: Any) -> None:
    times, entries = i64_at(j[timers + TIMES]), i64_at(j[timers + ENTRIES])
    begin, place = j[timers + BEGIN], j[timers + END]
    while place > begin and (
        times[place - 1] > time_ms or (times[place - 1] == time_ms and entries[place - 1] > address)
    ):
        times[place], entries[place] = times[place - 1], entries[place - 1]
        place -= 1
    times[place], entries[place] = time_ms, address
    j[timers + END] += 1


@kernel
def first_ms(j: Any, timers: Any, arena: Any, limit_ms: Any, link_field: Any, time_field: Any) -> Any:
    """The least event time if it isn't over `limit_ms`; else a number over that; −1: the run is too short."""
    if j[timers + BEGIN] < j[timers + END]:
        return i64_at(j[timers + TIMES])[j[timers + BEGIN]]
    j[timers + BEGIN] = j[timers + END] = 0
    if j[timers + COUNT] == 0:
        if j[timers + BEYOND] == 0:
            return np.int64(NEVER)
        j[timers + SLOT] = (j[timers + BEYOND_MS] >> j[timers + BITS]) - 1
    slots, mask = u32_at(j[timers + SLOTS]), j[timers + SLOT_COUNT] - 1
    while True:
        nearest = j[timers + BEYOND_MS] >> j[timers + BITS]
        if nearest <= j[timers + SLOT] + mask + 1:
            _bring_in(j, timers, arena, link_field, time_field)
        if j[timers + SLOT] + 1 << j[timers + BITS] > limit_ms:
            return np.int64(NEVER)
        if slots[j[timers + SLOT] + 1 & mask] != 0:
            break
        j[timers + SLOT] += 1
    if not _open_slot(j, timers, arena, link_field, time_field):
        return np.int64(-1)
    return i64_at(j[timers + TIMES])[0]


@kernel
def pop(j: Any, timers: Any) -> Any:
    """Take the first entry out: its address. `first_ms` has just told its time."""
    j[timers + BEGIN] += 1
    return i64_at(j[timers + ENTRIES])[j[timers + BEGIN] - 1]


@kernel
def first_entry(j: Any, timers: Any) -> Any:
    """The address of the first entry, which stays. `first_ms` has just told its time."""
    return i64_at(j[timers + ENTRIES])[j[timers + BEGIN]]


@kernel
def _bring_in(j: Any, timers: Any, arena: Any, link_field: Any, time_field: Any) -> None:
    """Put what was beyond the range where it belongs now."""
    words, link = words_of(j, arena), j[timers + BEYOND]
    j[timers + BEYOND], j[timers + BEYOND_MS] = 0, NEVER
    while link != 0:
        index = at(j, arena, link)
        following = np.int64(words[index + link_field])
        time_ms = get64(words, index + time_field)
        slot = time_ms >> j[timers + BITS]
        if slot <= j[timers + SLOT] + j[timers + SLOT_COUNT]:
            _into_slot(j, timers, words, index, link, slot, link_field)
        else:
            words[index + link_field] = np.uint32(j[timers + BEYOND])
            j[timers + BEYOND] = link
            j[timers + BEYOND_MS] = min(j[timers + BEYOND_MS], time_ms)
        link = following


@kernel
def _open_slot(j: Any, timers: Any, arena: Any, link_field: Any, time_field: Any) -> Any:
    """Make the next slot the run, sorted; whether there was room for it."""
    words, slots = words_of(j, arena), u32_at(j[timers + SLOTS])
    place = j[timers + SLOT] + 1 & (j[timers + SLOT_COUNT] - 1)
    count, link = np.int64(0), slots[place]
    while link != 0:
        count, link = count + 1, words[at(j, arena, link) + link_field]
    if count > j[timers + ROOM]:
        return False
    times, entries = i64_at(j[timers + TIMES])[:count], i64_at(j[timers + ENTRIES])[:count]
    link, is_sorted = slots[place], True
    for k in range(count - 1, -1, -1):  # the chain has the last one first
        index = at(j, arena, link)
        times[k], entries[k] = get64(words, index + time_field), whole(j, arena, link)
        if k + 1 < count and (times[k], entries[k]) > (times[k + 1], entries[k + 1]):
            is_sorted = False
        link = words[index + link_field]
    if not is_sorted:
        order = np.argsort(entries)
        order = order[np.argsort(times[order], kind="mergesort")]
        times[:], entries[:] = times[order].copy(), entries[order].copy()
    slots[place] = np.uint32(0)
    j[timers + SLOT] += 1
    j[timers + COUNT] -= count
    j[timers + END] = count
    return True
