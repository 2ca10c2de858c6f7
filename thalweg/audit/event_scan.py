"""`events` as an audit reads it: a record at a time, each user's events into a bucket of their own."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from stream.events.codec import decode_events
from stream.log.protocol import Record
from thalweg.audit.audit_range import AuditRange, page_back_ms
from thalweg.audit.log_events import InstallEvent, LogEvent, PageEvent, Partition
from thalweg.audit.offline_join import Joined, offline_join
from thalweg.audit.rules import AuditRules
from thalweg.audit.spill import BUCKETS, Spill


class _Named(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A page's request id and whose it is: two users' pages under one request id are in different buckets."""

    partition: int
    seq: int
    watermark_ms: int
    time_ms: int
    user: str
    request_id: str


class EventScan:
    """Take every record, in offset order per partition; then join bucket by bucket."""

    def __init__(self, folder: Path, rules: AuditRules, of: AuditRange) -> None:
        self.rules = rules
        self.range = of
        self.pages = self.installs = self.bad = self.ahead = 0
        self.unsure = 0  # pages in time of which events that aren't read may decide
        self._partitions: dict[int, Partition] = {}
        self._events: Spill[LogEvent] = Spill(folder, "events", LogEvent)
        self._named: Spill[_Named] = Spill(folder, "request-ids", _Named)
        self._back_ms = page_back_ms(rules)

    def take(self, record: Record) -> None:
        """One record."""
        partition = self._partitions.get(record.partition)
        if partition is None:
            partition = self._partitions[record.partition] = Partition(record.partition, self.rules.lateness_ms)
        events, bad = decode_events(record.value or b"")
        self.bad += len(bad)
        for event in events:
            if event.time_ms > record.time_ms + self.rules.ahead_ms:
                self.ahead += 1
                continue
            for placed in partition.take(event, record.offset, record.time_ms):
                self._events.put(placed.user, placed)
                if isinstance(placed, PageEvent):
                    self._take_page(placed)
                else:
                    self.installs += 1

    def _take_page(self, page: PageEvent) -> None:
        self.pages += 1
        where = (page.partition, page.seq, page.watermark_ms, page.time_ms)
        self._named.put(page.request_id, _Named(*where, page.user, page.request_id))
        in_time = page.time_ms + self.rules.life_ms > page.watermark_ms
        certain = self.range.is_certain(page.partition, page.time_ms - self._back_ms)
        self.unsure += in_time and not certain and self.range.is_recent(page.ingest_ms)

    @property
    def watermarks(self) -> Mapping[int, int]:
        """How far each partition is at its end."""
        return {p: partition.watermark_ms for p, partition in self._partitions.items()}

    def joined(self) -> "Iterator[Bucket]":
        """What the events of each bucket of users should have led to, BUCKETS times."""
        foreign = self._foreign()
        for bucket in range(BUCKETS):
            found = Bucket()
            of_partition: defaultdict[int, list[LogEvent]] = defaultdict(list)
            for event in self._events.bucket(bucket):
                of_partition[event.partition].append(event)
                if isinstance(event, InstallEvent):
                    found.install_ids[event.user, event.item].add(event.install_id)
            for partition, events in of_partition.items():
                found.joined.append(offline_join(events, self.rules, foreign[partition]))
            yield found

    def _foreign(self) -> defaultdict[int, set[int]]:
        """By partition, the places of pages under a request id that another user's page had."""
        foreign: defaultdict[int, set[int]] = defaultdict(set)
        for bucket in range(BUCKETS):
            known: dict[tuple[int, str], _Named] = {}
            for one in self._named.bucket(bucket):
                if one.time_ms + self.rules.life_ms <= one.watermark_ms:
                    continue
                first = known.get((one.partition, one.request_id))
                if first is None or one.watermark_ms >= first.time_ms + self.rules.life_ms:
                    known[one.partition, one.request_id] = one
                elif one.user != first.user:
                    foreign[one.partition].add(one.seq)
        return foreign


class Bucket:
    """What some users' events should have led to, by partition; and the ids of all installs, by user and item."""

    def __init__(self, joined: Iterable[Joined] = ()) -> None:
        self.joined = list(joined)
        self.install_ids: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
