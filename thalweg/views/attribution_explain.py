"""Whose an install is, and why not: the joiner's own verdict on it, and the reason that goes with that verdict.

The engine is asked with just the events that matter: installs meet each other through their ids alone. So with one
install by itself it says which page has it, and with the events of its id one by one, what has changed that.
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
class Met:
    """An event where it stands in its partition, and the watermark with it."""

    seq: int
    event: Impression | Install
    record: Record
    watermark_ms: int

    @property
    def where(self) -> str:
        """Its record."""
        return f"{self.record.topic} {self.record.partition}:{self.record.offset}"


@dataclass
class Around:
    """A page, and what its partition has of its user around it."""

    rules: AuditRules
    page: Impression
    offset: int  # of the page's record
    watermark_ms: int = 0
    place: Met | None = None  # the page
    pages: list[Met] = field(default_factory=list)
    installs: list[Met] = field(default_factory=list)
    seq: int = 0
    read_ms: int = 0  # append time of the last record
    end_seq: int = 2**62  # where what comes is too late for the page
    closed: Record | None = None  # the record with which its window was over
    ended: Record | None = None

    def take(self, records: Iterable[Record]) -> Iterator[Record]:
        """Records of the partition in order; each is handed on once it has been taken in."""
        close_ms, end_ms = self.page.time_ms + self.rules.window_ms, self.page.time_ms + self.rules.life_ms
        for record in records:
            self.read_ms = record.time_ms
            for event in decode_events(record.value or b"")[0]:
                if event.time_ms > record.time_ms + self.rules.ahead_ms:
                    continue
                self.seq += 1
                mark_ms = min(event.time_ms, record.time_ms) - self.rules.lateness_ms
                self.watermark_ms = max(self.watermark_ms, mark_ms)
                if self.watermark_ms >= end_ms:
                    self.end_seq = min(self.end_seq, self.seq)
                if isinstance(event, Impression | Install) and event.user == self.page.user:
                    self._keep(Met(self.seq, event, record, self.watermark_ms))
            if record.offset >= self.offset and self.watermark_ms >= close_ms:
                self.closed = self.closed or record
            if record.offset >= self.offset and self.watermark_ms >= end_ms:
                self.ended = self.ended or record
            yield record

    def _keep(self, met: Met) -> None:
        if isinstance(met.event, Install):
            self.installs.append(met)
            return
        mine = met.event.request_id == self.page.request_id
        if mine and self.place is None and met.record.offset == self.offset:
            self.place = met
        self.pages.append(met)

    @property
    def late(self) -> bool:
        """Whether the page came too late to count, by what was read."""
        return self.place is not None and self._is_late(self.place)

    @property
    def items(self) -> list[str]:
        """All that the page shows, further pages that extend it included."""
        found = dict.fromkeys(self.page.items)
        for met in self.pages:
            if self._is_same(met) and met.seq < self.end_seq and not self._is_late(met):
                assert isinstance(met.event, Impression)
                found |= dict.fromkeys(met.event.items)
        return list(found)

    def before(self) -> Met | None:
        """The page that this one extends: that was known by its request id when it came."""
        place = self.place
        if place is None:
            return None
        for met in self.pages:
            known = met.seq < place.seq and place.watermark_ms < met.event.time_ms + self.rules.life_ms
            if known and self._is_same(met) and not self._is_late(met):
                return met
        return None

    def _is_same(self, met: Met) -> bool:
        return isinstance(met.event, Impression) and met.event.request_id == self.page.request_id

    def labels(self) -> dict[str, int]:
        """The label of each item, once all is emitted."""
        known = [met for met in self.installs if met.seq < self.end_seq]
        mine = {item for request_id, item in self._positives(known) if request_id == self.page.request_id}
        return {} if self.late else {item: int(item in mine) for item in self.items}

    def why_not(self, met: Met) -> str:
        """Why this install of one of the page's items isn't the page's; empty when it is."""
        install, page, rules = met.event, self.page, self.rules
        assert isinstance(install, Install)
        if install.item not in self.items or install.retracted:
            return "no install of an item of this page"
        if install.request_id not in ("", page.request_id):
            return f"it names page {install.request_id}"
        skew_ms = rules.skew_ms if install.request_id else 0
        if not page.time_ms - skew_ms <= install.time_ms < page.time_ms + rules.window_ms:
            return f"outside the window of {rules.window_ms} ms"
        if self.late:
            return "this page came too late to count"
        if self._is_late(met) or met.seq >= self.end_seq:
            final_ms = page.time_ms + rules.life_ms
            return f"too late: event time had passed {final_ms}, until when labels of this page could be corrected"
        mine = (page.request_id, install.item)
        owners = self._positives([met])
        if mine in owners:
            return self._void(met, install)
        for request_id, _ in owners:
            return f"it belongs to {request_id}, a newer page with that item"
        return f"it came before the page and waits only {rules.waits_ms} ms of event time for one (`early`)"

    def _void(self, met: Met, install: Install) -> str:
        """Whether it is another's repetition, or was taken back in time: what the events of its id have changed."""
        mine = (self.page.request_id, install.item)
        of_id = [
            other
            for other in self.installs
            if isinstance(other.event, Install)
            and other.event.install_id == install.install_id
            and not self._is_late(other)
        ]
        before = [other for other in of_id if other.seq < met.seq]
        if mine in self._positives(before) or mine not in self._positives([*before, met]):
            firsts = [other for other in before if not _install_of(other).retracted]
            if not firsts:
                return f"taken back by the retraction in {before[0].where}"
            first = firsts[-1]
            item = _install_of(first).item
            return f"a repetition: its id came before, with item {item} in {first.where}, and counts once"
        until = [*before, met]
        for other in of_id:
            if met.seq < other.seq < self.end_seq:
                until.append(other)
                if mine not in self._positives(until):
                    return f"taken back by the retraction in {other.where}"
        return ""

    def _positives(self, installs: Sequence[Met]) -> Positives:
        """Every label 1 that the joiner leaves of the user's pages and just these installs, until the page's end."""
        rules = self.rules
        joiner = Joiner(LabelRules(
            "eager", rules.window_ms, rules.lateness_ms, rules.known_ms, rules.early_ms, skew_ms=rules.skew_ms
        ))  # fmt: skip
        found: Positives = set()
        for met in sorted([*self.pages, *installs], key=attrgetter("seq")):
            if met.seq >= self.end_seq:
                break
            # The watermark that all events of the partition had made; an event moves it to its own arrival at most.
            time_ms = met.watermark_ms + rules.lateness_ms
            for examples in joiner.feed([Tick(time_ms), met.event], met.seq, time_ms):
                for position, label in zip(examples.positions, examples.labels, strict=True):
                    key = (examples.page.request_id, examples.page.items[position])
                    found.add(key) if label else found.discard(key)
        return found

    def _is_late(self, met: Met) -> bool:
        return met.event.time_ms + self.rules.life_ms <= met.watermark_ms


def _install_of(met: Met) -> Install:
    assert isinstance(met.event, Install)
    return met.event
