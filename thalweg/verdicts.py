"""Whose an install is, and why not: the rules of the join, told for one page. Written down once more, not the joiner's.

Kept beside `offline.py`, which has the same rules for all pages at once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from stream.events import Impression, Install, decode_events
from stream.log import Record
from thalweg.audit.install_dedup import counted
from thalweg.audit.log_events import InstallEvent
from thalweg.audit.rules import AuditRules


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

    def labels(self) -> dict[int, int]:
        """The label of each position, once all is told."""
        mine = {met.event.item for met in self.installs if isinstance(met.event, Install) and not self.why_not(met)}
        return {} if self.late else {k: int(item in mine) for k, item in enumerate(self.page.items)}

    def why_not(self, met: Met) -> str:
        """Why this install of one of the page's items isn't the page's; empty when it is."""
        install, page, rules = met.event, self.page, self.rules
        assert isinstance(install, Install)
        if install.item not in page.items or install.retracted:
            return "no install of an item of this page"
        if install.request_id not in ("", page.request_id):
            return f"it names page {install.request_id}"
        if not page.time_ms <= install.time_ms < page.time_ms + rules.window_ms:
            return f"outside the window of {rules.window_ms} ms"
        if self.late:
            return "this page came too late to count"
        if self._is_late(met) or met.seq >= self.end_seq:
            final_ms = page.time_ms + rules.life_ms
            return f"too late: event time had passed {final_ms}, until when labels of this page could be corrected"
        return self._void(met, install) or self._expired(met, install) or self._rival(met, install)

    def _void(self, met: Met, install: Install) -> str:
        """Whether it is another's repetition, or was taken back in time."""
        of_id = {
            other.seq: other
            for other in self.installs
            if isinstance(other.event, Install)
            and other.event.install_id == install.install_id
            and not self._is_late(other)
        }
        voids = {one.seq: void for one, void in counted(map(_placed, of_id.values()), self.rules.life_ms)}
        if met.seq in voids:
            void = voids[met.seq]
            back = of_id[void.seq] if void is not None else None
            return f"taken back by the retraction in {back.where}" if back and back.seq < self.end_seq else ""
        before = [(other, _placed(other)) for other in of_id.values() if other.seq < met.seq]
        backs = [other for other, placed in before if placed.retracted and placed.time_ms >= install.time_ms]
        firsts = [other for other, _ in before if other.seq in voids]
        if backs and not firsts:
            return f"taken back by the retraction in {backs[0].where}"
        first = firsts[-1]
        assert isinstance(first.event, Install)
        return f"a repetition: its id came before, with item {first.event.item} in {first.where}, and counts once"

    def _expired(self, met: Met, install: Install) -> str:
        """Whether it stood before the page in the log, and waited too long for it."""
        place = self.place
        if place is None or met.seq > place.seq or install.time_ms + self.rules.waits_ms > place.watermark_ms:
            return ""
        return f"it came before the page and waits only {self.rules.waits_ms} ms of event time for one (`early`)"

    def _rival(self, met: Met, install: Install) -> str:
        """Whether a newer page has it."""
        best = ""
        for other in self.pages:
            page, place = other.event, self.place
            assert isinstance(page, Impression)
            if place is None or install.request_id or page.request_id == self.page.request_id:
                continue
            newer = (page.time_ms, other.seq) > (self.page.time_ms, place.seq) and other.seq < self.end_seq
            in_time = other.seq < met.seq or install.time_ms + self.rules.waits_ms > other.watermark_ms
            fits = page.time_ms <= install.time_ms < page.time_ms + self.rules.window_ms and install.item in page.items
            if newer and fits and in_time and not self._is_late(other):
                best = f"it belongs to {page.request_id}, a newer page with that item"
        return best

    def _is_late(self, met: Met) -> bool:
        return met.event.time_ms + self.rules.life_ms <= met.watermark_ms


def _placed(met: Met) -> InstallEvent:
    event, record = met.event, met.record
    assert isinstance(event, Install)
    where = (met.seq, met.watermark_ms, record.partition, record.offset, record.time_ms, event.time_ms)
    return InstallEvent(*where, event.user, event.item, event.install_id, event.request_id, retracted=event.retracted)
