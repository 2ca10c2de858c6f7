"""Reads `examples` and `organic`, partitioned by user into buckets."""

from collections import Counter
from pathlib import Path
from typing import Final

import msgspec

from stream.events.codec import decode_organic, decode_training, organic_id
from stream.events.types import Erase, Organic
from stream.log.protocol import Record
from thalweg.audit.log_events import page_digest
from thalweg.audit.spill import Spill

NAMED_MAX: Final = 20  # unreadable records that are reported one by one


class Emitted(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """An Examples event with its offset, without the page's features.

    `source`: a number for its partition and the partition of `events` that it came from (the record's key); a learner
    remembers the ids of each source separately. `order`: its first example's index within the source.
    """

    partition: int
    offset: int
    source: int
    order: int
    request_id: str
    user: str
    time_ms: int
    digest: int
    items: list[str]
    ids: list[int]
    positions: list[int]
    labels: list[int]
    weights: list[float]
    reasons: list[int]

    def item(self, row: int) -> str:
        """The item of a row."""
        return self.items[self.positions[row]]


class EmittedOrganic(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """An organic install with its offset. `source` and `order`: in `examples`, as of `Emitted`."""

    topic: str
    partition: int
    offset: int
    source: int
    order: int
    organic: Organic

    @property
    def location(self) -> str:
        """Its topic, partition and offset, for a person."""
        return location_of(self.topic, self.partition, self.offset)

    @property
    def ids(self) -> list[int]:
        """The id that a learner deduplicates it by."""
        return [organic_id(self.organic.user, self.organic.install_id)]


class EmittedScan:
    """Add every record of both topics, in offset order per partition; then read the buckets of the spills."""

    def __init__(self, folder: Path) -> None:
        self.examples = self.organic = self.organic_in_examples = self.unreadable = 0
        self.first_unreadable: list[tuple[str, str]] = []  # location and reason
        self._sources: dict[tuple[int, bytes | None], int] = {}
        self._orders: Counter[int] = Counter()
        self.examples_spill: Spill[Emitted] = Spill(folder, "examples", Emitted)
        self.organic_spill: Spill[EmittedOrganic] = Spill(folder, "organic", EmittedOrganic)
        self.organic_in_examples_spill: Spill[EmittedOrganic] = Spill(folder, "organic-in-examples", EmittedOrganic)

    def add(self, record: Record) -> None:
        """Add one record of `examples`."""
        found, bad = decode_training(record.value or b"")
        self._count_unreadable(record, bad)
        source = self._sources.setdefault((record.partition, record.key), len(self._sources))
        for one in found:
            origin = (record.partition, record.offset, source, self._orders[source])
            if isinstance(one, Erase):
                continue
            if isinstance(one, Organic):
                self.organic_in_examples_spill.put(one.user, EmittedOrganic(record.topic, *origin, one))
                self._orders[source] += 1
                self.organic_in_examples += 1
                continue
            page, n = one.page, len(one.ids)
            emitted = Emitted(
                *origin, page.request_id, page.user, page.time_ms, page_digest(page), page.items,
                one.ids, one.positions, one.labels, one.weights, one.reasons,
            )  # fmt: skip
            self.examples_spill.put(page.user, emitted)
            self._orders[source] += n
            self.examples += n

    def add_organic(self, record: Record) -> None:
        """Add one record of `organic`."""
        found, bad = decode_organic(record.value or b"")
        self._count_unreadable(record, bad)
        self.organic += len(found)
        for one in found:
            emitted = EmittedOrganic(record.topic, record.partition, record.offset, 0, 0, one)
            self.organic_spill.put(one.user, emitted)

    def _count_unreadable(self, record: Record, bad: list[tuple[bytes, str]]) -> None:
        self.unreadable += len(bad)
        for _, reason in bad[: NAMED_MAX - len(self.first_unreadable)]:
            self.first_unreadable.append((location_of(record.topic, record.partition, record.offset), reason))


def location_of(topic: str, partition: int, offset: int) -> str:
    """A record's topic, partition and offset, for a person."""
    return f"{topic} {partition}:{offset}"
