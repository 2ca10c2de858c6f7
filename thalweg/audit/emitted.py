"""What stands in `examples` and `organic`, each user's in a bucket of their own."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from stream.events.codec import decode_organic, decode_training, organic_id
from stream.events.types import Organic
from stream.log.protocol import Record
from thalweg.audit.log_events import digest_of
from thalweg.audit.spill import Spill

NAMED_MAX: Final = 20  # records that are named among those that can't be read


class Emitted(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """An Examples where it stands, without the page's body.

    `source`: a number for its partition and the partition of `events` that it came of (the record's key), whose ids a
    learner remembers apart; `order`: of its first example among those.
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
        """What a row is about."""
        return self.items[self.positions[row]]


class EmittedOrganic(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """An organic install where it stands. `source`, `order`: in `examples`, where it's learned among examples."""

    topic: str
    partition: int
    offset: int
    source: int
    order: int
    organic: Organic

    @property
    def place(self) -> str:
        """Its record, for a person."""
        return place_of(self.topic, self.partition, self.offset)

    @property
    def ids(self) -> list[int]:
        """What a learner knows it by."""
        return [organic_id(self.organic.user, self.organic.install_id)]


class EmittedScan:
    """Take every record of both topics, in offset order per partition."""

    def __init__(self, folder: Path) -> None:
        self.examples = self.organic = self.organic_in_examples = self.unreadable = 0
        self.first_unreadable: list[tuple[str, str]] = []  # place and why
        self._sources: dict[tuple[int, bytes | None], int] = {}
        self._orders: Counter[int] = Counter()
        self._emitted: Spill[Emitted] = Spill(folder, "examples", Emitted)
        self._organic: Spill[EmittedOrganic] = Spill(folder, "organic", EmittedOrganic)
        self._in_examples: Spill[EmittedOrganic] = Spill(folder, "organic-in-examples", EmittedOrganic)

    def take(self, record: Record) -> None:
        """One record of `examples`."""
        found, bad = decode_training(record.value or b"")
        self._note(record, bad)
        source = self._sources.setdefault((record.partition, record.key), len(self._sources))
        for one in found:
            where = (record.partition, record.offset, source, self._orders[source])
            if isinstance(one, Organic):
                self._in_examples.put(one.user, EmittedOrganic(record.topic, *where, one))
                self._orders[source] += 1
                self.organic_in_examples += 1
                continue
            page, n = one.page, len(one.ids)
            emitted = Emitted(
                *where, page.request_id, page.user, page.time_ms, digest_of(page), page.items,
                one.ids, one.positions, one.labels, one.weights, one.reasons,
            )  # fmt: skip
            self._emitted.put(page.user, emitted)
            self._orders[source] += n
            self.examples += n

    def take_organic(self, record: Record) -> None:
        """One record of `organic`."""
        found, bad = decode_organic(record.value or b"")
        self._note(record, bad)
        self.organic += len(found)
        for one in found:
            self._organic.put(one.user, EmittedOrganic(record.topic, record.partition, record.offset, 0, 0, one))

    def bucket(self, bucket: int) -> Iterator[Emitted]:
        """The examples of a bucket of users, in the order of their partition."""
        return self._emitted.bucket(bucket)

    def organic_bucket(self, bucket: int) -> Iterator[EmittedOrganic]:
        """What `organic` has of a bucket of users."""
        return self._organic.bucket(bucket)

    def organic_bucket_in_examples(self, bucket: int) -> Iterator[EmittedOrganic]:
        """The organic installs that `examples` has of a bucket of users, in the order of their partition."""
        return self._in_examples.bucket(bucket)

    def _note(self, record: Record, bad: list[tuple[bytes, str]]) -> None:
        self.unreadable += len(bad)
        for _, why in bad[: NAMED_MAX - len(self.first_unreadable)]:
            self.first_unreadable.append((place_of(record.topic, record.partition, record.offset), why))


def place_of(topic: str, partition: int, offset: int) -> str:
    """A record, for a person."""
    return f"{topic} {partition}:{offset}"
