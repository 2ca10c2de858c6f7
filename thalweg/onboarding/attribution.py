"""Which page an install came of, and how long after: the joiner's own engine says so, in bounded memory.

The rules are those of `stream/joiner/join.py`, with a window that never ends: whether a delay is within the spec's is
for the caller to say. The policy is `fake_negative`: so the engine also says which items a page shows first. The ingest
time of a record is its number: so the watermark passes nothing before the end, and an organic install says which record
it came in.

**Memory.** A generation takes so many bytes. When the second one is full, the first one ends: what became of its
installs is final, and a new engine begins with the records of the second. So an install finds a page that stands up to
a generation before or behind it, whatever their event times. The engine's own bound (`bytes_max`) goes by event time
and doesn't say which of the installs that it forgets are organic.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from stream.events.codec import encode_record
from stream.events.types import RECORD_BYTES_MAX, TIME_MS_MAX, WINDOW_CLOSED, Impression, Install, Organic, Tick
from stream.joiner.join import Checkpoint, Joiner
from stream.joiner.kernels import record_scan as scan
from stream.joiner.label_rules import LabelRules
from stream.joiner.labels import BASE, BEGIN, SIZE, Row
from stream.joiner.raw_impression import read_record, record_events
from thalweg.onboarding.recent import Recent

BYTES_MAX: Final = 192 * 2**20  # of a generation: some 300,000 pages; between one and two are remembered
EVENT_BYTES: Final = 400  # about what an event takes besides twice its bytes
ENDLESS_MS: Final = TIME_MS_MAX  # 130 years: no two event times are further apart
OUT_ROWS: Final = 1_024  # what the engine emits at once: with fewer it hands a record's on bit by bit
# The engine's timers sort what is older than the first event by insertion: nothing is older than these.
FIRST: Final = (Impression("\0", 1, "\0", ["\0"]), Install("\0", "\0", 1, "\0"))

UNKNOWN_PAGE: Final = "name a request_id that no page has"
OTHER_PAGE: Final = "name a page that didn't show this item to this user"
NEVER_SHOWN: Final = "are of an item that wasn't shown to this user before"
TOO_EARLY: Final = "happen before the page that they name"

_impression = msgspec.msgpack.Decoder(Impression)


class Added(msgspec.Struct, frozen=True, gc=False):
    """What an event adds: a page `new` items, to `base` that its request id has shown; an install that is new, 1.

    0: a page or install that repeats another one, a retraction that takes back nothing.
    """

    new: int
    base: int = 0


REPEATED: Final = Added(0)
NEW: Final = Added(1)


class Settled(msgspec.Struct, frozen=True, order=True, gc=False):
    """What became of the install in this line: how long after its page it came, and the item's position there.

    Within the skew the delay is 0. `why`: it has no page. A further install of the item on that page isn't one, nor is
    one that was taken back.
    """

    line: int
    delay_ms: int = 0
    position: int = 0
    why: str = ""


class Attribution:
    """`join` all pages, installs and retractions in the order of the file, some at a time; then `finish`."""

    def __init__(self, skew_ms: int = LabelRules.skew_ms, bytes_max: int = BYTES_MAX) -> None:
        self._rules = LabelRules("fake_negative", ENDLESS_MS, known_ms=0, organic=True, skew_ms=skew_ms)
        self._bytes_max, self._bytes = bytes_max, 0
        self._times: Recent[int] = Recent()  # of pages, by request id
        self._installs: Recent[tuple[int, int]] = Recent()  # line and time, by user and id
        self._labels: dict[tuple[int, int, int], Settled] = {}  # by record, begin of the page in it, position there
        self._records: dict[int, bytes] = {}
        self._next, self._second = 1, 0  # numbers of the next record, and of the second generation's first (0: none)
        self._fed_again, self._waiting = 1, set[int]()  # records before this were; of these, installs without a page
        self._joiner = self._engine()

    def join(self, events: Sequence[tuple[int, Impression | Install]]) -> list[Added]:
        """Take events, each with its line; returns what each adds."""
        raw = encode_record(
            Impression(event.request_id, event.time_ms, event.user, event.items)
            if isinstance(event, Impression)
            else event
            for _, event in events
        )
        if len(raw) > RECORD_BYTES_MAX:
            half = len(events) // 2
            return self.join(events[:half]) + self.join(events[half:])
        record, number = read_record(raw)[0], self._next
        self._records[number], self._next = raw, number + 1
        self._bytes += 2 * len(raw) + EVENT_BYTES * len(events)
        index = dict(zip(record.columns[:, scan.BEGIN].tolist(), range(len(events)), strict=True))
        added = [REPEATED if isinstance(event, Impression) else self._install(line, event) for line, event in events]
        labels = self._joiner.take(record, number, number).labels
        for k, page in enumerate(labels.pages):
            rows = labels.rows.get(k)
            if new := page[SIZE] if rows is None else self._label(page, rows):
                at, base = index[page[BEGIN]], page[BASE]
                added[at] = Added(new, base)
                shown = events[at][1]
                if isinstance(shown, Impression) and not base:
                    self._times.young[shown.request_id] = shown.time_ms
        return added

    def settle(self) -> list[Settled]:
        """Installs of which nothing more can be known now: those of a generation that ends."""
        if self._bytes < self._bytes_max:
            return []
        found: list[Settled] = []
        if self._second:
            found = self._final(self._second)
            self._records = {number: raw for number, raw in self._records.items() if number >= self._second}
            self._joiner, self._fed_again = self._engine(), self._next
            for number, raw in self._records.items():
                self._joiner.take(read_record(raw)[0], number, number)
        self._second, self._bytes = self._next, 0
        self._times.turn()
        self._installs.turn()
        return found

    def finish(self) -> list[Settled]:
        """No event comes any more: all the other installs."""
        return self._final(self._next)

    def _engine(self) -> Joiner:
        joiner = Joiner(self._rules, Checkpoint(0, 0, 0, unsure_ms=-ENDLESS_MS))
        while len(joiner.state.out) < OUT_ROWS:
            joiner.state.grow_out()
        joiner.take(record_events(FIRST), 0, 0)
        return joiner

    def _install(self, line: int, install: Install) -> Added:
        key = hash((install.user, install.install_id))
        known = self._installs.get(key)
        if install.retracted:
            return NEW if known else REPEATED
        self._installs.young[key] = known or (line, install.time_ms)
        return REPEATED if known else NEW

    def _label(self, page: Sequence[int], rows: Sequence[Row]) -> int:
        """Note labels that are positive, or no longer so; returns how many items are shown for the first time."""
        number, begin, length, _, base, _ = page
        new = 0
        for position, label, reason, install_id, _, place in rows:
            if reason == WINDOW_CLOSED:
                new += 1
            elif label:
                raw = self._records[number][begin : begin + length]
                self._labels[number, begin, position] = self._came(raw, base, install_id, place)
            else:
                self._labels.pop((number, begin, position), None)
        return new

    def _came(self, raw: bytes, base: int, install_id: str, place: int) -> Settled:
        page = _impression.decode(raw)
        first_ms = self._times.get(page.request_id) if base else None
        install = self._installs.get(hash((page.user, install_id)))
        assert install is not None, install_id
        return Settled(install[0], max(0, install[1] - (first_ms or page.time_ms)), place)

    def _final(self, end: int) -> list[Settled]:
        """What became of the installs in records before `end`. The engine is of no more use."""
        last = record_events([Tick(TIME_MS_MAX - 1)])  # later than an event may be, so that nothing is still open:
        last.columns[:, scan.TIME] = 2 * ENDLESS_MS
        waiting, found = set[int](), list[Settled]()
        for one in self._joiner.take(last, self._next, 2 * ENDLESS_MS).organic[0]:
            key = hash((one.user, one.install_id))
            if one.ingest_ms >= end:
                waiting.add(key)
            elif (one.ingest_ms >= self._fed_again or key in self._waiting) and (install := self._installs.get(key)):
                found.append(Settled(install[0], why=self._why(one)))
        self._waiting = waiting
        return sorted(found) + [self._labels.pop(key) for key in [key for key in self._labels if key[0] < end]]

    def _why(self, install: Organic) -> str:
        if not install.request_id:
            return NEVER_SHOWN
        page_ms = self._times.get(install.request_id)
        if page_ms is None:
            return UNKNOWN_PAGE
        return TOO_EARLY if install.time_ms + self._rules.skew_ms < page_ms else OTHER_PAGE
