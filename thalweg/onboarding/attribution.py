"""Attributes installs to pages, with their delay, by the joiner's own engine and in bounded memory.

The rules are those of `stream/joiner/join.py` with an endless window: the caller compares delays with the spec's. The
policy is `fake_negative`, so that the engine also emits which items a page shows for the first time. A record's ingest
time is its number, so that the watermark passes nothing before the end, and an organic install names its record.

**Memory.** Records are grouped into two generations of bounded size. When the second one is full, the outcomes of the
first one's installs are final, and a new engine starts from the records of the second. So an install finds a page up to
a generation before or after it in the file, whatever their event times. The engine's own bound (`bytes_max`) goes by
event time, and doesn't emit the organic installs that it evicts.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from stream.events.codec import encode_record
from stream.events.types import RECORD_BYTES_MAX, TIME_MS_MAX, WINDOW_CLOSED, Impression, Install, Organic, Tick
from stream.joiner.join import Joiner, RestartPoint
from stream.joiner.kernels import record_scan as scan
from stream.joiner.label_rules import LabelRules
from stream.joiner.labels import BASE, BEGIN, SIZE, LabelRow
from stream.joiner.record_events import read_record, to_record
from thalweg.onboarding.recent_map import RecentMap

BYTES_MAX: Final = 192 * 2**20  # of a generation: some 300,000 pages; one to two generations are retained
EVENT_BYTES: Final = 400  # approximate memory of an event besides twice its bytes
ENDLESS_MS: Final = TIME_MS_MAX  # 130 years: no two event times are further apart
OUT_ROWS: Final = 1_024  # output rows of the engine: with fewer it emits a record's labels in several parts
# The engine's timers insert-sort whatever is older than the first event: nothing is older than these.
FIRST: Final = (Impression("\0", 1, "\0", ["\0"]), Install("\0", "\0", 1, "\0"))

UNKNOWN_PAGE: Final = "name a request_id that no page has"
OTHER_PAGE: Final = "name a page that didn't show this item to this user"
NEVER_SHOWN: Final = "are of an item that wasn't shown to this user before"
TOO_EARLY: Final = "happen before the page that they name"

_impression = msgspec.msgpack.Decoder(Impression)


class Added(msgspec.Struct, frozen=True, gc=False):
    """What an event adds: a page `new` items, to `base` items already shown under its request id; a new install 1.

    0: a repeated page or install, or a retraction without an install.
    """

    new: int
    base: int = 0


REPEATED: Final = Added(0)
NEW: Final = Added(1)


class InstallOutcome(msgspec.Struct, frozen=True, order=True, gc=False):
    """The final result for the install in this line: its delay after its page, and the item's position there.

    Within the skew the delay is 0. `unmatched`: why it has no page. Repeated installs of an item on its page and
    retracted ones have no outcome.
    """

    line: int
    delay_ms: int = 0
    position: int = 0
    unmatched: str = ""


class Attribution:
    """`join` all pages, installs and retractions in batches, in the order of the file; then `finish`."""

    def __init__(self, skew_ms: int = LabelRules.skew_ms, bytes_max: int = BYTES_MAX) -> None:
        self._rules = LabelRules("fake_negative", ENDLESS_MS, known_ms=0, organic=True, skew_ms=skew_ms)
        self._bytes_max, self._bytes = bytes_max, 0
        self._times: RecentMap[int] = RecentMap()  # of pages, by request id
        self._installs: RecentMap[tuple[int, int]] = RecentMap()  # line and time, by user and id
        self._labels: dict[tuple[int, int, int], InstallOutcome] = {}  # by record, page's begin in it, position
        self._records: dict[int, bytes] = {}
        self._next, self._second = 1, 0  # number of the next record, and of the second generation's first (0: none)
        self._replayed, self._unmatched_ids = 1, set[int]()  # records before this number; their installs without a page
        self._joiner = self._engine()

    def join(self, events: Sequence[tuple[int, Impression | Install]]) -> list[Added]:
        """Join events, each with its line; returns what each adds."""
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
        labels = self._joiner.join_record(record, number, number).labels
        for k, page in enumerate(labels.pages):
            rows = labels.rows.get(k)
            if new := page[SIZE] if rows is None else self._label(page, rows):
                n, base = index[page[BEGIN]], page[BASE]
                added[n] = Added(new, base)
                event = events[n][1]
                if isinstance(event, Impression) and not base:
                    self._times.young[event.request_id] = event.time_ms
        return added

    def end_generation(self) -> list[InstallOutcome]:
        """The final outcomes of a full generation; none while there is room."""
        if self._bytes < self._bytes_max:
            return []
        found: list[InstallOutcome] = []
        if self._second:
            found = self._final(self._second)
            self._records = {number: raw for number, raw in self._records.items() if number >= self._second}
            self._joiner, self._replayed = self._engine(), self._next
            for number, raw in self._records.items():
                self._joiner.join_record(read_record(raw)[0], number, number)
        self._second, self._bytes = self._next, 0
        self._times.rotate()
        self._installs.rotate()
        return found

    def finish(self) -> list[InstallOutcome]:
        """The outcomes of all other installs."""
        return self._final(self._next)

    def _engine(self) -> Joiner:
        joiner = Joiner(self._rules, RestartPoint(0, 0, 0, unsure_ms=-ENDLESS_MS))
        while len(joiner.state.out) < OUT_ROWS:
            joiner.state.grow_out()
        joiner.join_record(to_record(FIRST), 0, 0)
        return joiner

    def _install(self, line: int, install: Install) -> Added:
        key = hash((install.user, install.install_id))
        known = self._installs.get(key)
        if install.retracted:
            return NEW if known else REPEATED
        self._installs.young[key] = known or (line, install.time_ms)
        return REPEATED if known else NEW

    def _label(self, page: Sequence[int], rows: Sequence[LabelRow]) -> int:
        """Update positive labels; returns how many items are shown for the first time."""
        number, begin, length, _, base, _ = page
        new = 0
        for position, label, reason, install_id, _, whole_position in rows:
            if reason == WINDOW_CLOSED:
                new += 1
            elif label:
                raw = self._records[number][begin : begin + length]
                self._labels[number, begin, position] = self._outcome(raw, base, install_id, whole_position)
            else:
                self._labels.pop((number, begin, position), None)
        return new

    def _outcome(self, raw: bytes, base: int, install_id: str, position: int) -> InstallOutcome:
        page = _impression.decode(raw)
        first_ms = self._times.get(page.request_id) if base else None
        install = self._installs.get(hash((page.user, install_id)))
        assert install is not None, install_id
        return InstallOutcome(install[0], max(0, install[1] - (first_ms or page.time_ms)), position)

    def _final(self, end: int) -> list[InstallOutcome]:
        """The outcomes of installs in records before `end`. The engine can't be used afterwards."""
        last = to_record([Tick(TIME_MS_MAX - 1)])  # later than any event may be, so that every page closes
        last.columns[:, scan.TIME] = 2 * ENDLESS_MS
        unmatched_ids, found = set[int](), list[InstallOutcome]()
        for one in self._joiner.join_record(last, self._next, 2 * ENDLESS_MS).organic[0]:
            key = hash((one.user, one.install_id))
            if one.ingest_ms >= end:
                unmatched_ids.add(key)
                continue
            is_new = one.ingest_ms >= self._replayed or key in self._unmatched_ids
            if is_new and (install := self._installs.get(key)):
                found.append(InstallOutcome(install[0], unmatched=self._unmatched(one)))
        self._unmatched_ids = unmatched_ids
        return sorted(found) + [self._labels.pop(key) for key in [key for key in self._labels if key[0] < end]]

    def _unmatched(self, install: Organic) -> str:
        if not install.request_id:
            return NEVER_SHOWN
        page_ms = self._times.get(install.request_id)
        if page_ms is None:
            return UNKNOWN_PAGE
        return TOO_EARLY if install.time_ms + self._rules.skew_ms < page_ms else OTHER_PAGE
