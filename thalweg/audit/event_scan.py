"""Reads `events`, partitioned by user into buckets, and joins each bucket."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from stream.events.codec import decode_events
from stream.events.types import Erase
from stream.log.protocol import Record
from thalweg.audit.audit_range import AuditRange, page_back_ms
from thalweg.audit.log_events import InstallEvent, LogEvent, PageEvent, PartitionCursor
from thalweg.audit.offline_join import Joined, offline_join
from thalweg.audit.rules import AuditRules
from thalweg.audit.spill import BUCKETS, Spill


class _RequestId(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A page's request id and user. It has buckets of its own: two users may use one request id."""

    partition: int
    seq: int
    watermark_ms: int
    time_ms: int
    user: str
    request_id: str


@dataclass
class Bucket:
    """The expected result for some users, by partition; and the ids of all their installs, by user and item."""

    joined: list[Joined] = field(default_factory=list)
    install_ids: defaultdict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))


class EventScan:
    """Add every record, in offset order per partition; then join bucket by bucket."""

    def __init__(self, folder: Path, rules: AuditRules, audit_range: AuditRange) -> None:
        self.rules = rules
        self.range = audit_range
        self.pages = self.installs = self.bad = self.future = 0
        self.erased: set[str] = set()  # users, who aren't judged
        self.unsure = 0  # judged pages that unread events may decide
        self._partitions: dict[int, PartitionCursor] = {}
        self._events: Spill[LogEvent] = Spill(folder, "events", LogEvent)
        self._request_ids: Spill[_RequestId] = Spill(folder, "request-ids", _RequestId)
        self._back_ms = page_back_ms(rules)

    def add(self, record: Record) -> None:
        """Add one record."""
        partition = self._partitions.get(record.partition)
        if partition is None:
            partition = self._partitions[record.partition] = PartitionCursor(record.partition, self.rules.lateness_ms)
        events, bad = decode_events(record.value or b"")
        self.bad += len(bad)
        for event in events:
            if event.time_ms > record.time_ms + self.rules.ahead_ms:
                self.future += 1
                continue
            if isinstance(event, Erase):
                self.erased.add(event.user)
                continue
            log_event = partition.add(event, record.offset, record.time_ms)
            if log_event is not None:
                self._events.put(log_event.user, log_event)
            if isinstance(log_event, PageEvent):
                self._add_page(log_event)
            elif isinstance(log_event, InstallEvent):
                self.installs += 1

    def _add_page(self, page: PageEvent) -> None:
        self.pages += 1
        request_id = _RequestId(page.partition, page.seq, page.watermark_ms, page.time_ms, page.user, page.request_id)
        self._request_ids.put(page.request_id, request_id)
        in_time = page.time_ms + self.rules.life_ms > page.watermark_ms
        certain = self.range.is_certain(page.partition, page.time_ms - self._back_ms)
        self.unsure += in_time and not certain and self.range.is_recent(page.ingest_ms)

    @property
    def watermarks(self) -> Mapping[int, int]:
        """Each partition's watermark at its end."""
        return {p: partition.watermark_ms for p, partition in self._partitions.items()}

    def joined(self) -> Iterator[Bucket]:
        """Join the events of each bucket of users, BUCKETS times."""
        foreign = self._foreign_pages()
        for bucket in range(BUCKETS):
            found = Bucket()
            by_partition: defaultdict[int, list[LogEvent]] = defaultdict(list)
            for event in self._events.bucket(bucket):
                if event.user in self.erased:
                    continue
                by_partition[event.partition].append(event)
                if isinstance(event, InstallEvent):
                    found.install_ids[event.user, event.item].add(event.install_id)
            for partition, events in by_partition.items():
                found.joined.append(offline_join(events, self.rules, foreign[partition]))
            yield found

    def _foreign_pages(self) -> defaultdict[int, set[int]]:
        """By partition, the `seq` of pages whose request id another user's page has already."""
        foreign: defaultdict[int, set[int]] = defaultdict(set)
        for bucket in range(BUCKETS):
            known: dict[tuple[int, str], _RequestId] = {}
            for one in self._request_ids.bucket(bucket):
                if one.time_ms + self.rules.life_ms <= one.watermark_ms:
                    continue
                first = known.get((one.partition, one.request_id))
                if first is None or one.watermark_ms >= first.time_ms + self.rules.life_ms:
                    known[one.partition, one.request_id] = one
                elif one.user != first.user:
                    foreign[one.partition].add(one.seq)
        return foreign
