"""The join's state of one partition: the arrays that its kernels work on, and the fields of their entries."""

from operator import sub
from typing import Any, Final

import numpy as np

from stream.events.types import EVENT_BYTES_MAX, ITEMS_MAX, RECORD_BYTES_MAX
from stream.joiner.kernels.arena import ARENA_NUMBERS, Arena, is_live
from stream.joiner.kernels.array_views import Ints, address_of, i64_at, u32_at
from stream.joiner.kernels.chains import CHAINS_NUMBERS, Chains
from stream.joiner.kernels.timers import TIMERS_NUMBERS, Timers
from stream.joiner.label_rules import LabelRules
from stream.spec.parts import DELAYS_MAX
from stream.tables.jit import kernel

# Words of a page's entry; two words make an int64. PACK: begin in the record (21 bits), number of items (11).
# MORE: length − 1 (16 bits), number of items of earlier pages of its request (10), flags (6). Then the items' hashes:
# the low 32 bits of each, then the upper 16, two a word; 0 where an earlier page of the request has the item.
P_TIME, P_REQUEST, P_USER, P_OFFSET, P_PACK, P_MORE, P_NEXT_USER, P_NEXT_REQUEST, P_TIMER = 0, 2, 4, 6, 7, 8, 9, 10, 11
P_ITEMS: Final = 12
HAS_LABELS, SILENT, EXTENDS = 1 << 26, 1 << 27, 1 << 29

# Words of an install or a retraction. PAGE, POSITION, PAGE_TIME: the page that it is attributed to, the item's position
# there, the page's event time. PREVIOUS, FOLLOWING: its neighbours at that position. DUPLICATE_TIME: the latest copy's.
# SUCCESSOR: a later retraction that replaces it when it expires. NEWEST: the newest time of its user and item; current
# in the last entry of these only.
I_TIME, I_INGEST, I_KEY, I_USER, I_ITEM, I_REQUEST, I_PAIR, I_PAGE_TIME, I_DUPLICATE_TIME, I_NEWEST = range(0, 20, 2)
I_FLAGS, I_PAGE, I_POSITION, I_PREVIOUS, I_FOLLOWING, I_NEXT_KEY, I_NEXT_PAIR, I_TIMER, I_SUCCESSOR = range(20, 29)
I_LENGTH, I_RAW = 29, 30
RETRACTION, RETRACTED, MATCHED, EXPIRED, LISTED = 1, 2, 4, 8, 16  # LISTED: it is found by its key

# A label that differs from the page's default. FIRST, LAST: its installs. RETAINED_UNTIL: of the entry at
# NO_POSITION, the event time until which the page's record is retained.
L_PAGE, L_POSITION, L_EMITTED, L_FIRST, L_LAST, L_LINK, L_RETAINED_UNTIL = range(7)
LABEL_NUMBERS: Final = 7
UNKNOWN, NEGATIVE, POSITIVE = 0, 1, 2  # of L_EMITTED
NO_POSITION: Final = 0xFFFF

# The numbers of a join. First those of its parts, then its own, counters (N_...) among them, then the rules.
PAGES, INSTALLS = 0, ARENA_NUMBERS
USERS = 2 * ARENA_NUMBERS
REQUESTS, KEYS, PAIRS = USERS + CHAINS_NUMBERS, USERS + 2 * CHAINS_NUMBERS, USERS + 3 * CHAINS_NUMBERS
CLOSING = USERS + 4 * CHAINS_NUMBERS  # timers: open pages until they close, DELAYS_MAX of them, one a delay,
PAGE_EXPIRY = CLOSING + DELAYS_MAX * TIMERS_NUMBERS  # closed pages,
INSTALL_EXPIRY = PAGE_EXPIRY + TIMERS_NUMBERS  # and installs
(
    LABELS, LABEL_HEADS, LABEL_MASK, LABEL_CAPACITY, LABEL_COUNT, MARKS, MARKS_BEGIN, MARKS_END, OUT, OUT_COUNT,
    OUT_CAPACITY, RECORD, EVENT, STARTED, FIRED, SHEDDING, WATERMARK, FINISHED, FLOOR, UNSURE, OPEN, RETAINED_BYTES,
    PAGE_COUNT, INSTALL_COUNT, N_DUPLICATE, N_LATE, N_EARLY, N_ORGANIC, N_RETRACTED, N_STRAY, N_SHED, N_EXTENDED,
    WINDOW, RETENTION, EARLY_WAIT, LATENESS, SKEW, POLICY, ORGANIC, BYTES_MAX, FIRED_MAX,
) = range(INSTALL_EXPIRY + TIMERS_NUMBERS, INSTALL_EXPIRY + TIMERS_NUMBERS + 41)  # fmt: skip
DELAY_COUNT, DELAYS = FIRED_MAX + 1, FIRED_MAX + 2  # how long pages stay open, ms: DELAYS_MAX numbers
NUMBERS: Final = DELAYS + DELAYS_MAX
WAIT, FAKE_NEGATIVE = 1, 2
POLICIES: Final = ("eager", "wait", "fake_negative", "delayed_negative")

# A mark, of a record that is still needed: its offset, the watermark before it, the address of the next page and of the
# next install at that moment.
M_OFFSET, M_WATERMARK, M_PAGES, M_INSTALLS = range(4)
MARK: Final = 4  # numbers of each
MARKS_MAX: Final = 65_536
# What `reserve` makes room for at least: pages, items, installs, bytes of these, records.
RESERVE_MIN: Final = (256, 2_560, 64, 8_192, 256)

# A row of output: kind, then the number of its batch of labels (RECORD_END: the record's number). Then
# of a page (NEGATIVES: all of its items) and of a LABEL: offset, begin, length, size, base, ingest time; of a LABEL
# also position, position in its id, label, reason, index of the install's bytes or −1;
# of an ORGANIC_INSTALL and a HISTORY: index of the install's bytes or −1 − event; newest time or −1, whether it's sure;
# of a LATE event: its number, time, and how late it is; of an ERASURE: its event's number.
OUT_COLUMNS: Final = 13
NEGATIVES, LABEL, RECORD_END, ORGANIC_INSTALL, HISTORY, LATE, ERASURE = range(7)

PAGE_BYTES: Final = 4 * P_ITEMS + 8  # with its heads in two tables
INSTALL_WORDS_MAX: Final = I_RAW + EVENT_BYTES_MAX // 4


class JoinState:
    """The arrays of one partition, and `numbers`, through which the kernels find them: int64 [NUMBERS]."""

    def __init__(self, rules: LabelRules) -> None:
        self.numbers = j = np.zeros(NUMBERS, np.int64)
        self.pages, self.installs = Arena(j, PAGES), Arena(j, INSTALLS)
        self.users = Chains(j, USERS, PAGES, P_USER, P_NEXT_USER)
        self.requests = Chains(j, REQUESTS, PAGES, P_REQUEST, P_NEXT_REQUEST)
        self.keys = Chains(j, KEYS, INSTALLS, I_KEY, I_NEXT_KEY)
        self.pairs = Chains(j, PAIRS, INSTALLS, I_PAIR, I_NEXT_PAIR)
        late_ms = rules.lateness_ms + 120_000
        self.closings = [
            Timers(j, CLOSING + k * TIMERS_NUMBERS, delay_ms + late_ms, PAGES, P_TIMER, P_TIME)
            for k, delay_ms in enumerate(rules.open_ms)
        ]
        self.page_expiry = Timers(j, PAGE_EXPIRY, rules.life_ms, PAGES, P_TIMER, P_TIME)
        self.install_expiry = Timers(j, INSTALL_EXPIRY, rules.life_ms, INSTALLS, I_TIMER, I_TIME)
        self.labels = np.zeros((64, LABEL_NUMBERS), np.int64)  # the first stands for none
        self.label_heads = np.zeros(64, np.uint32)  # their number is a power of two
        self.marks = np.empty((64, MARK), np.int64)
        self.out = np.empty((64, OUT_COLUMNS), np.int64)
        self._reserved = [0] * 5  # pages, items, installs, bytes of these, records
        self.erasures = 0  # users erased: their pages were changed in place
        self.keeps_chunks = False  # a file on disk refers to them: only `StateStore` releases them
        j[LABEL_COUNT] = 1
        j[WINDOW : FIRED_MAX + 1] = (
            rules.window_ms, rules.life_ms, rules.waits_ms, rules.lateness_ms, rules.skew_ms,
            POLICIES.index(rules.policy), rules.organic, 2**62 if rules.bytes_max is None else rules.bytes_max, 0,
        )  # fmt: skip
        j[DELAY_COUNT] = len(rules.open_ms)
        j[DELAYS : DELAYS + len(rules.open_ms)] = rules.open_ms
        self._store_addresses()

    def _store_addresses(self) -> None:
        j = self.numbers
        j[[LABELS, LABEL_HEADS, LABEL_MASK]] = (
            address_of(self.labels), address_of(self.label_heads), len(self.label_heads) - 1
        )  # fmt: skip
        j[LABEL_CAPACITY] = len(self.labels)
        j[[MARKS, OUT]] = address_of(self.marks), address_of(self.out)
        j[OUT_CAPACITY] = len(self.out) - 1  # the last row is for the end of a record

    def reserve(self, pages: int, items: int, installs: int, install_bytes: int, records: int) -> None:
        """Make room for the events of some records, and for RESERVE_MIN at least. Raises MemoryError."""
        need = pages, items, installs, install_bytes, records
        left = [*map(sub, self._reserved, need)]
        if min(left) >= 0:
            self._reserved = left
            return
        pages, items, installs, install_bytes, records = room = [*map(max, need, RESERVE_MIN)]
        self._reserved = [*map(sub, room, need)]
        j = self.numbers
        self.pages.reserve(pages * (P_ITEMS + 1) + 2 * items, P_ITEMS + 1_501)
        wanted = int(j[PAGE_COUNT]) + pages
        self.users.reserve(wanted)
        self.requests.reserve(wanted)
        words = install_bytes // 4
        self.installs.reserve(installs * (I_RAW + 2) + words, min(INSTALL_WORDS_MAX, I_RAW + 2 + words))
        wanted = int(j[INSTALL_COUNT]) + installs
        self.keys.reserve(wanted)
        self.pairs.reserve(4 * wanted)
        if int(j[MARKS_END]) + records > len(self.marks):
            self._reserve_marks(records)

    def grow_runs(self) -> None:
        """Double the runs of the timers."""
        for timers in (*self.closings, self.page_expiry, self.install_expiry):
            timers.reserve(2 * len(timers.times))

    def grow_out(self) -> None:
        """Double the rows of output."""
        self.out.resize((2 * len(self.out), OUT_COLUMNS), refcheck=False)
        self._store_addresses()

    def grow_labels(self) -> None:
        """Drop the labels of evicted pages and make room for those of one more page at least."""
        j, more = self.numbers, ITEMS_MAX + 2
        count = compact_labels(j)
        if 4 * (count + more) > 3 * len(self.labels):
            self.labels.resize((2 * (count + more) + 64, LABEL_NUMBERS), refcheck=False)
        while len(self.label_heads) < len(self.labels):
            self.label_heads.resize(2 * len(self.label_heads), refcheck=False)
        self._store_addresses()
        self.label_heads[:] = 0
        relink_labels(j)

    def _reserve_marks(self, more: int) -> None:
        """Make room for `more` marks.

        Above MARKS_MAX, drop every second mark of the older half; commits then point further back.
        """
        begin, end = self.numbers[[MARKS_BEGIN, MARKS_END]].tolist()
        marks = self.marks[begin:end].copy()
        if len(marks) >= MARKS_MAX:
            marks = np.concatenate([marks[: MARKS_MAX // 2 : 2], marks[MARKS_MAX // 2 :]])
        if 2 * len(marks) + more > len(self.marks):
            self.marks.resize((2 * len(marks) + 2 * more, MARK), refcheck=False)
        self.marks[: len(marks)] = marks
        self.numbers[[MARKS_BEGIN, MARKS_END]] = 0, len(marks)
        self._store_addresses()

    def load(self, labels: Ints, marks: Ints) -> None:
        """Load saved labels and marks, after the arenas and counters."""
        j = self.numbers
        self.labels = np.zeros((len(labels) + 64, LABEL_NUMBERS), np.int64)
        self.labels[: len(labels)] = labels
        self.marks = np.empty((len(marks) + 64, MARK), np.int64)
        self.marks[: len(marks)] = marks
        j[LABEL_COUNT], j[MARKS_BEGIN], j[MARKS_END] = len(labels), 0, len(marks)
        self._reserved = [0] * 5
        while len(self.label_heads) < len(self.labels):
            self.label_heads = np.zeros(2 * len(self.label_heads), np.uint32)
        self._store_addresses()
        relink_labels(j)
        for chains, buckets in (
            (self.users, j[PAGE_COUNT]), (self.requests, j[PAGE_COUNT]), (self.keys, j[INSTALL_COUNT]),
            (self.pairs, 4 * j[INSTALL_COUNT]),
        ):  # fmt: skip
            chains.clear(int(buckets))
        for k, timers in enumerate(self.closings):
            timers.begin_at(int(j[WATERMARK] - j[DELAYS + k]))
        for timers in (self.page_expiry, self.install_expiry):
            timers.begin_at(int(j[WATERMARK] - j[RETENTION]))


@kernel
def label_bucket(j: Any, page: Any) -> Any:
    """The bucket of a page's labels; pages lie a dozen words apart at least."""
    return (page >> 3) * 0x9E37_79B1 & j[LABEL_MASK]


@kernel
def compact_labels(j: Any) -> Any:
    """Drop the labels of pages behind the arena's front; returns how many are left."""
    labels, count = i64_at(j[LABELS]), np.int64(1)
    for k in range(1, j[LABEL_COUNT]):
        if is_live(j, PAGES, labels[k * LABEL_NUMBERS + L_PAGE]):
            for field in range(LABEL_NUMBERS):
                labels[count * LABEL_NUMBERS + field] = labels[k * LABEL_NUMBERS + field]
            count += 1
    j[LABEL_COUNT] = count
    return count


@kernel
def relink_labels(j: Any) -> None:
    """Rebuild the chains of labels, from empty heads."""
    labels, heads = i64_at(j[LABELS]), u32_at(j[LABEL_HEADS])
    for k in range(1, j[LABEL_COUNT]):
        bucket = label_bucket(j, labels[k * LABEL_NUMBERS + L_PAGE])
        labels[k * LABEL_NUMBERS + L_LINK] = heads[bucket]
        heads[bucket] = np.uint32(k)


assert RECORD_BYTES_MAX < 1 << 21, "a page's begin fits into P_PACK"
assert ITEMS_MAX < 1 << 10, "a page's number of items fits into P_PACK, that of earlier pages into P_MORE"
assert EVENT_BYTES_MAX <= 1 << 16, "a page's length fits into P_MORE"
