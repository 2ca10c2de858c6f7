"""Attribution of an install: which page the joiner gives it to, and why it isn't a given page's.

Runs the joiner on the relevant events only. Installs interact through their install id alone. So one install by itself
shows which page gets it, and the events of its id, added one by one, show what revokes it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from stream.events.codec import decode_events
from stream.events.types import Impression, Install, Tick
from stream.joiner.join import Joiner
from stream.joiner.label_rules import LabelRules
from stream.log.protocol import Record
from thalweg.audit.rules import AuditRules

Positives = set[tuple[str, str]]  # request id and item


@dataclass(frozen=True)
class PositionedEvent:
    """An event, its sequence number within its partition, and the watermark after it."""

    seq: int
    event: Impression | Install
    record: Record
    watermark_ms: int

    @property
    def location(self) -> str:
        """Topic, partition and offset of its record."""
        return f"{self.record.topic} {self.record.partition}:{self.record.offset}"


@dataclass
class PageContext:
    """A page, and the events of its user in the same partition."""

    rules: AuditRules
    page: Impression
    offset: int  # of the page's record
    watermark_ms: int = 0
    shown: PositionedEvent | None = None  # the page itself; None: not read yet
    pages: list[PositionedEvent] = field(default_factory=list)
    installs: list[PositionedEvent] = field(default_factory=list)
    seq: int = 0
    last_append_ms: int = 0  # of the last record read
    end_seq: int = 2**62  # events from here on are too late for the page
    closing_record: Record | None = None  # moved the watermark past the window
    final_record: Record | None = None  # moved the watermark past the time for corrections

    def read(self, records: Iterable[Record]) -> Iterator[Record]:
        """Records of the partition in order; yields each after adding its events."""
        close_ms, end_ms = self.page.time_ms + self.rules.window_ms, self.page.time_ms + self.rules.life_ms
        for record in records:
            self.last_append_ms = record.time_ms
            for event in decode_events(record.value or b"")[0]:
                if event.time_ms > record.time_ms + self.rules.ahead_ms:
                    continue
                self.seq += 1
                mark_ms = min(event.time_ms, record.time_ms) - self.rules.lateness_ms
                self.watermark_ms = max(self.watermark_ms, mark_ms)
                if self.watermark_ms >= end_ms:
                    self.end_seq = min(self.end_seq, self.seq)
                if isinstance(event, Impression | Install) and event.user == self.page.user:
                    self._add(PositionedEvent(self.seq, event, record, self.watermark_ms))
            if record.offset >= self.offset and self.watermark_ms >= close_ms:
                self.closing_record = self.closing_record or record
            if record.offset >= self.offset and self.watermark_ms >= end_ms:
                self.final_record = self.final_record or record
            yield record

    def _add(self, positioned: PositionedEvent) -> None:
        if isinstance(positioned.event, Install):
            self.installs.append(positioned)
            return
        if self.shown is None and self._is_same_page(positioned) and positioned.record.offset == self.offset:
            self.shown = positioned
        self.pages.append(positioned)

    @property
    def is_late(self) -> bool:
        """Whether the page arrived too late to be joined, judging by what was read."""
        return self.shown is not None and self._arrived_late(self.shown)

    @property
    def items(self) -> list[str]:
        """All items of the page, those of pages that extend it included."""
        items = dict.fromkeys(self.page.items)
        for page in self.pages:
            if self._is_same_page(page) and page.seq < self.end_seq and not self._arrived_late(page):
                assert isinstance(page.event, Impression)
                items |= dict.fromkeys(page.event.items)
        return list(items)

    def original(self) -> PositionedEvent | None:
        """The earlier page that this one extends: known under its request id when it arrived."""
        shown = self.shown
        if shown is None:
            return None
        for page in self.pages:
            is_known = page.seq < shown.seq and shown.watermark_ms < page.event.time_ms + self.rules.life_ms
            if is_known and self._is_same_page(page) and not self._arrived_late(page):
                return page
        return None

    def _is_same_page(self, positioned: PositionedEvent) -> bool:
        return isinstance(positioned.event, Impression) and positioned.event.request_id == self.page.request_id

    def labels(self) -> dict[str, int]:
        """The final label of each item."""
        in_time = [install for install in self.installs if install.seq < self.end_seq]
        positives = {item for request_id, item in self._positives(in_time) if request_id == self.page.request_id}
        return {} if self.is_late else {item: int(item in positives) for item in self.items}

    def rejection_reason(self, positioned: PositionedEvent) -> str:
        """Why this install of one of the page's items isn't the page's; empty when it is."""
        install, page, rules = positioned.event, self.page, self.rules
        assert isinstance(install, Install)
        if install.item not in self.items or install.retracted:
            return "no install of an item of this page"
        if install.request_id not in ("", page.request_id):
            return f"it names page {install.request_id}"
        skew_ms = rules.skew_ms if install.request_id else 0
        if not page.time_ms - skew_ms <= install.time_ms < page.time_ms + rules.window_ms:
            return f"outside the window of {rules.window_ms} ms"
        if self.is_late:
            return "this page arrived too late to be joined"
        if self._arrived_late(positioned) or positioned.seq >= self.end_seq:
            final_ms = page.time_ms + rules.life_ms
            return f"too late: event time had passed {final_ms}, until when labels of this page could be corrected"
        owners = self._positives([positioned])
        if (page.request_id, install.item) in owners:
            return self._revocation_reason(positioned, install)
        for request_id, _ in owners:
            return f"it belongs to {request_id}, a newer page with that item"
        return f"it arrived before the page and waits only {rules.waits_ms} ms of event time for one (`early`)"

    def _revocation_reason(self, positioned: PositionedEvent, install: Install) -> str:
        """Why an install that is the page's by itself has no label: a duplicate id or a retraction; else empty."""
        label = (self.page.request_id, install.item)
        of_id = [
            other
            for other in self.installs
            if _install_of(other).install_id == install.install_id and not self._arrived_late(other)
        ]
        earlier = [other for other in of_id if other.seq < positioned.seq]
        if label in self._positives(earlier) or label not in self._positives([*earlier, positioned]):
            firsts = [other for other in earlier if not _install_of(other).retracted]
            if not firsts:
                return f"revoked by the retraction in {earlier[0].location}"
            item = _install_of(firsts[-1]).item
            return f"a duplicate: its id was read before, with item {item} in {firsts[-1].location}, and counts once"
        applied = [*earlier, positioned]
        for other in of_id:
            if positioned.seq < other.seq < self.end_seq:
                applied.append(other)
                if label not in self._positives(applied):
                    return f"revoked by the retraction in {other.location}"
        return ""

    def _positives(self, installs: Sequence[PositionedEvent]) -> Positives:
        """All labels 1 that the joiner emits for the user's pages and only these installs, until the page's end."""
        rules = self.rules
        joiner = Joiner(LabelRules(
            "eager", rules.window_ms, rules.lateness_ms, rules.known_ms, rules.early_ms, skew_ms=rules.skew_ms
        ))  # fmt: skip
        positives: Positives = set()
        for positioned in sorted([*self.pages, *installs], key=attrgetter("seq")):
            if positioned.seq >= self.end_seq:
                break
            # The watermark by all events of the partition; an event moves it to its own arrival at most.
            time_ms = positioned.watermark_ms + rules.lateness_ms
            for examples in joiner.feed([Tick(time_ms), positioned.event], positioned.seq, time_ms):
                for position, label in zip(examples.positions, examples.labels, strict=True):
                    key = (examples.page.request_id, examples.page.items[position])
                    positives.add(key) if label else positives.discard(key)
        return positives

    def _arrived_late(self, positioned: PositionedEvent) -> bool:
        return positioned.event.time_ms + self.rules.life_ms <= positioned.watermark_ms


def _install_of(positioned: PositionedEvent) -> Install:
    assert isinstance(positioned.event, Install)
    return positioned.event
