"""What the join remembers of a partition: arrays that its kernels work on, and the fields of their entries."""

from typing import Any, Final

import numpy as np

from stream.events.types import EVENT_BYTES_MAX, ITEMS_MAX, RECORD_BYTES_MAX
from stream.joiner.kernels.arena import ARENA_NUMBERS, Arena, lives
from stream.joiner.kernels.chains import CHAINS_NUMBERS, Chains
from stream.joiner.kernels.memory import Ints, address_of, i64_at, u32_at
from stream.joiner.kernels.timers import TIMERS_NUMBERS, Timers
from stream.joiner.label_rules import LabelRules
from stream.tables.jit import kernel

# A page: words of its entry. Two words make an int64. PACK: begin in the record (21 bits), number of items (11).
# MORE: length − 1 (16 bits), base (10), flags (6). Then the items' hashes: the low 32 bits of each, then the upper 16,
# two a word; 0 where an earlier page of the request has the item.
P_TIME, P_REQUEST, P_USER, P_OFFSET, P_PACK, P_MORE, P_NEXT_USER, P_NEXT_REQUEST, P_TIMER = 0, 2, 4, 6, 7, 8, 9, 10, 11
P_ITEMS: Final = 12
TOUCHED, SILENT, EXTENDS = 1 << 26, 1 << 27, 1 << 29

# An install or a retraction. PAGE, POSITION: where it counts, PAGE_TIME: that page's event time; BEFORE, BEHIND: its
# neighbours there. AFTER: a later retraction that takes its place. NEWEST: of its user and item, in the last entry of
# these.
I_TIME, I_INGEST, I_KEY, I_USER, I_ITEM, I_REQUEST, I_PAIR, I_PAGE_TIME, I_AGAIN, I_NEWEST = range(0, 20, 2)
I_FLAGS, I_PAGE, I_POSITION, I_BEFORE, I_BEHIND, I_NEXT_KEY, I_NEXT_PAIR, I_TIMER, I_AFTER = range(20, 29)
I_LENGTH, I_RAW = 29, 30
RETRACTION, RETRACTED, MET, GONE, LISTED = 1, 2, 4, 8, 16

# A label that isn't what the page's state alone says. HOLD (at position HELD): the page's record is held up to then.
L_PAGE, L_POSITION, L_EMITTED, L_FIRST, L_LAST, L_LINK, L_HOLD = range(7)
LABEL_NUMBERS: Final = 7
UNKNOWN, NEGATIVE, POSITIVE = 0, 1, 2  # of L_EMITTED
HELD: Final = 0xFFFF

# The numbers of a join. First those of its parts, then what is counted, then the rules.
PAGES, INSTALLS = 0, ARENA_NUMBERS
USERS = 2 * ARENA_NUMBERS
REQUESTS, KEYS, PAIRS = USERS + CHAINS_NUMBERS, USERS + 2 * CHAINS_NUMBERS, USERS + 3 * CHAINS_NUMBERS
CLOSING = USERS + 4 * CHAINS_NUMBERS
KNOWN, PENDING = CLOSING + TIMERS_NUMBERS, CLOSING + 2 * TIMERS_NUMBERS
(
    LABELS, LABEL_HEADS, LABEL_MASK, LABEL_ROOM, LABEL_COUNT, MARKS, MARKS_BEGIN, MARKS_END, OUT, OUT_COUNT, OUT_ROOM,
    RECORD, EVENT, STARTED, SLICED, SHEDDING, WATERMARK, FINISHED, FLOOR, UNSURE, OPEN, HELD_BYTES, PAGES_NOW,
    INSTALLS_NOW, N_DUPLICATE, N_LATE, N_EARLY, N_ORGANIC, N_RETRACTED, N_STRAY, N_SHED, N_EXTENDED,
    WINDOW, LIFE, WAITS, LATENESS, SKEW, POLICY, ORGANIC, BYTES_MAX, SLICE_MAX,
) = range(CLOSING + 3 * TIMERS_NUMBERS, CLOSING + 3 * TIMERS_NUMBERS + 41)  # fmt: skip
NUMBERS: Final = SLICE_MAX + 1
WAIT, FAKE_NEGATIVE = 1, 2
POLICIES: Final = ("eager", "wait", "fake_negative")

# A record that is still needed: its offset, the watermark before it, the next page's and install's address then.
M_OFFSET, M_WATERMARK, M_PAGES, M_INSTALLS = range(4)
MARK: Final = 4  # numbers of each
MARKS_MAX: Final = 65_536
# Room is made for so much at once: pages, items, installs, bytes of these; and records.
AT_ONCE: Final = (256, 2_560, 64, 8_192, 256)

# What is emitted, a row each: kind, the batch of labels that it's part of (of a RECORD that ends: its number), then
# of a page (NEGATIVES: all of its items) and of a LABEL: offset, begin, length, size, base, ingest time; position,
# the position in its id, label, reason, index of the install's bytes or −1;
# of an ORGANIC install and a HISTORY: index of the install's bytes, or −1 − event; newest time or −1, is it surely so;
# of a LATE event: its number, time and by how much it came too late.
OUT_COLUMNS: Final = 13
NEGATIVES, LABEL, RECORD_END, ORGANIC_INSTALL, HISTORY, LATE = range(6)

PAGE_BYTES: Final = 4 * P_ITEMS + 8  # with its places in two tables
LARGEST: Final = 30 + 65_536 // 4  # words of an entry


class JoinState:
    """The arrays of one partition, and `numbers`, by which the kernels find them."""

    def __init__(self, rules: LabelRules) -> None:
        self.numbers = j = np.zeros(NUMBERS, np.int64)
        self.pages, self.installs = Arena(j, PAGES), Arena(j, INSTALLS)
        self.users, self.requests, self.keys, self.pairs = (Chains(j, at) for at in (USERS, REQUESTS, KEYS, PAIRS))
        self.closing = Timers(j, CLOSING, rules.window_ms + rules.lateness_ms + 120_000)  # open pages
        self.known = Timers(j, KNOWN, rules.life_ms)  # closed pages
        self.pending = Timers(j, PENDING, rules.life_ms)  # installs
        self.labels = np.zeros((64, LABEL_NUMBERS), np.int64)  # the first is none
        self.label_heads = np.zeros(64, np.uint32)  # a power of two of them
        self.marks = np.empty((64, MARK), np.int64)
        self.out = np.empty((64, OUT_COLUMNS), np.int64)
        self._left = [0] * 5  # for which there is room: pages, items, installs, bytes of these, records
        self.keeps_chunks = False  # a file on disk names them: `StateStore` says when they may be used again
        j[LABEL_COUNT] = 1
        j[WINDOW : SLICE_MAX + 1] = (
            rules.window_ms, rules.life_ms, rules.waits_ms, rules.lateness_ms, rules.skew_ms,
            POLICIES.index(rules.policy), rules.organic, 2**62 if rules.bytes_max is None else rules.bytes_max, 0,
        )  # fmt: skip
        self._publish()

    def _publish(self) -> None:
        j = self.numbers
        j[[LABELS, LABEL_HEADS, LABEL_MASK]] = (
            address_of(self.labels), address_of(self.label_heads), len(self.label_heads) - 1
        )  # fmt: skip
        j[LABEL_ROOM] = len(self.labels)
        j[[MARKS, OUT]] = address_of(self.marks), address_of(self.out)
        j[OUT_ROOM] = len(self.out) - 1  # and a row for the end of a record

    def reserve(self, pages: int, items: int, installs: int, install_bytes: int, records: int) -> None:
        """Make room for the events of some records, and for some more. Raises MemoryError."""
        need = pages, items, installs, install_bytes, records
        left = [room - wanted for room, wanted in zip(self._left, need, strict=True)]
        if min(left) >= 0:
            self._left = left
            return
        pages, items, installs, install_bytes, records = room = [*map(max, need, AT_ONCE)]
        self._left = [more - wanted for more, wanted in zip(room, need, strict=True)]
        j = self.numbers
        self.pages.reserve(pages * (P_ITEMS + 1) + 2 * items, P_ITEMS + 1_501)
        wanted = int(j[PAGES_NOW]) + pages
        self.users.reserve(wanted)
        self.requests.reserve(wanted)
        self.installs.reserve(installs * (I_RAW + 2) + install_bytes // 4, min(LARGEST, I_RAW + 2 + install_bytes // 4))
        wanted = int(j[INSTALLS_NOW]) + installs
        self.keys.reserve(wanted)
        self.pairs.reserve(4 * wanted)
        if int(j[MARKS_END]) + records > len(self.marks):
            self._reserve_marks(records)

    def grow_runs(self) -> None:
        """Room in the timers' runs for whatever a slot may hold."""
        for timers in (self.closing, self.known, self.pending):
            timers.reserve(2 * len(timers.times))

    def grow_out(self) -> None:
        """Room for more rows of what is emitted."""
        self.out.resize((2 * len(self.out), OUT_COLUMNS), refcheck=False)
        self._publish()

    def grow_labels(self) -> None:
        """Room for the labels of a page, and some more."""
        j, more = self.numbers, ITEMS_MAX + 2
        count = keep_labels(j)
        if 4 * (count + more) > 3 * len(self.labels):
            self.labels.resize((2 * (count + more) + 64, LABEL_NUMBERS), refcheck=False)
        while len(self.label_heads) < len(self.labels):
            self.label_heads.resize(2 * len(self.label_heads), refcheck=False)
        self._publish()
        self.label_heads[:] = 0
        link_labels(j)

    def _reserve_marks(self, more: int) -> None:
        """Room for some marks more. Of very many the older half loses every other one: a commit holds a record more."""
        begin, end = self.numbers[[MARKS_BEGIN, MARKS_END]].tolist()
        marks = self.marks[begin:end].copy()
        if len(marks) >= MARKS_MAX:
            marks = np.concatenate([marks[: MARKS_MAX // 2 : 2], marks[MARKS_MAX // 2 :]])
        if 2 * len(marks) + more > len(self.marks):
            self.marks.resize((2 * len(marks) + 2 * more, MARK), refcheck=False)
        self.marks[: len(marks)] = marks
        self.numbers[[MARKS_BEGIN, MARKS_END]] = 0, len(marks)
        self._publish()

    def load(self, labels: Ints, marks: Ints) -> None:
        """Put in labels and marks that were saved; the arenas and what is counted are there already."""
        j = self.numbers
        self.labels = np.zeros((len(labels) + 64, LABEL_NUMBERS), np.int64)
        self.labels[: len(labels)] = labels
        self.marks = np.empty((len(marks) + 64, MARK), np.int64)
        self.marks[: len(marks)] = marks
        j[LABEL_COUNT], j[MARKS_BEGIN], j[MARKS_END] = len(labels), 0, len(marks)
        self._left = [0] * 5
        while len(self.label_heads) < len(self.labels):
            self.label_heads = np.zeros(2 * len(self.label_heads), np.uint32)
        self._publish()
        link_labels(j)
        for chains, buckets in (
            (self.users, j[PAGES_NOW]), (self.requests, j[PAGES_NOW]), (self.keys, j[INSTALLS_NOW]),
            (self.pairs, 4 * j[INSTALLS_NOW]),
        ):  # fmt: skip
            chains.clear(int(buckets))
        self.closing.begin_at(int(j[WATERMARK] - j[WINDOW]))
        for timers in (self.known, self.pending):
            timers.begin_at(int(j[WATERMARK] - j[LIFE]))


@kernel
def label_bucket(j: Any, page: Any) -> Any:
    """Where a page's labels begin; pages lie a dozen words apart at least."""
    return (page >> 3) * 0x9E37_79B1 & j[LABEL_MASK]


@kernel
def keep_labels(j: Any) -> Any:
    """Drop the labels of pages that the arena's front has passed; how many are left."""
    labels, kept = i64_at(j[LABELS]), np.int64(1)
    for k in range(1, j[LABEL_COUNT]):
        if lives(j, PAGES, labels[k * LABEL_NUMBERS + L_PAGE]):
            for field in range(LABEL_NUMBERS):
                labels[kept * LABEL_NUMBERS + field] = labels[k * LABEL_NUMBERS + field]
            kept += 1
    j[LABEL_COUNT] = kept
    return kept


@kernel
def link_labels(j: Any) -> None:
    """Make the chains of labels anew, from empty heads."""
    labels, heads = i64_at(j[LABELS]), u32_at(j[LABEL_HEADS])
    for k in range(1, j[LABEL_COUNT]):
        place = label_bucket(j, labels[k * LABEL_NUMBERS + L_PAGE])
        labels[k * LABEL_NUMBERS + L_LINK] = heads[place]
        heads[place] = np.uint32(k)


assert RECORD_BYTES_MAX < 1 << 21, "where a page begins fits into P_PACK"
assert ITEMS_MAX < 1 << 10, "items fit into P_PACK, those of earlier pages into P_MORE"
assert EVENT_BYTES_MAX <= 1 << 16, "a page's length fits into P_MORE"
