"""Kafka clients of paper: what is sent and committed is kept, the broker confirms when told."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from stream.events.codec import encode_record
from stream.events.topics import EVENTS, EXAMPLES, HISTORIES, ORGANIC
from stream.events.types import Impression, SourceEvent
from stream.joiner.assigned_partitions import AssignedPartitions, MemoryBudget
from stream.joiner.consumer_loop import LOG_APPEND_TIME, ConsumerLoop
from stream.joiner.label_rules import LabelRules
from stream.joiner.metrics import Tally
from stream.joiner.record_cache import UNBOUNDED, RecordCache
from stream.joiner.record_processor import JoinerOptions, RecordProcessor
from stream.runtime.settings import Settings

RULES = LabelRules(policy="eager", window_ms=1_000, known_ms=1_000)
T = 1_700_000_000_000  # event time of the rules' tests
CAME = T + 50_000  # and ingest time
PARTITIONS = {EVENTS.name: 2, EXAMPLES.name: 1, HISTORIES.name: 2, ORGANIC.name: 2}
USERS = ("w2", "u")  # of the partitions


class PaperBatch:
    """A batch that holds three records."""

    def __init__(self) -> None:
        self.values: list[bytes | None] = []

    def append(self, *, timestamp: None, key: bytes | None, value: bytes | None) -> object:
        """Not None while there is room."""
        if len(self.values) == 3:
            return None
        self.values.append(value)
        return self


class Paper:
    """Consumer, producer and admin client of aiokafka in one; a group whose only member it is."""

    def __init__(self, confirming: bool = True) -> None:
        self.sent: list[tuple[str, bytes | None]] = []
        self.futures: list[asyncio.Future[None]] = []
        self.stored: dict[Any, Any] = {}
        self.confirming = confirming
        self.starts: dict[int, int] = {}
        self.ends: dict[int, int] = {}
        self.positions: dict[int, int] = {}
        self.batches: list[Any] = []  # what the next fetches give: records by partition, or an error
        self.new_from: dict[int, int] = {}
        self.refusal: BaseException | None = None  # of commits
        self.away = False
        self.timestamp_type = "LogAppendTime"

    def create_batch(self) -> PaperBatch:
        """The producer's."""
        return PaperBatch()

    async def send_batch(self, batch: PaperBatch, topic: str, *, partition: int) -> "asyncio.Future[None]":
        """The producer's: one future for all records of a batch."""
        self.sent += [(topic, value) for value in batch.values]
        self.futures.append(asyncio.get_running_loop().create_future())
        if self.confirming:
            self.futures[-1].set_result(None)
        return self.futures[-1]

    def subscribe(self, topics: list[str], listener: Any) -> None:
        """The consumer's."""

    async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[Any, list[Any]]:
        """The consumer's."""
        await asyncio.sleep(0)
        if not self.batches:
            return {}
        batch = self.batches.pop(0)
        if isinstance(batch, BaseException):
            raise batch
        for partition, records in batch.items():
            self.positions[partition] = records[-1].offset + 1
        return {TopicPartition("events", partition): records for partition, records in batch.items()}

    def seek(self, at: Any, offset: int) -> None:
        """The consumer's."""
        self.positions[at.partition] = offset

    async def position(self, at: Any) -> int:
        """The consumer's."""
        return self.positions[at.partition]

    def assignment(self) -> set[Any]:
        """The consumer's."""
        return {TopicPartition("events", partition) for partition in range(64)}

    def highwater(self, at: Any) -> int | None:
        """The consumer's."""
        return self.ends.get(at.partition)

    def last_poll_timestamp(self, at: Any) -> int | None:
        """The consumer's."""
        return None

    async def commit(self, offsets: dict[Any, Any]) -> None:
        """The consumer's."""
        if self.refusal is not None:
            raise self.refusal
        self.stored.update(offsets)

    async def beginning_offsets(self, wanted: list[Any]) -> dict[Any, int]:
        """The consumer's."""
        return {at: self.starts.get(at.partition, 0) for at in wanted}

    async def end_offsets(self, wanted: list[Any]) -> dict[Any, int]:
        """The consumer's."""
        if self.away:
            raise TimeoutError
        return {at: self.ends.get(at.partition, 1_000) for at in wanted}

    async def offsets_for_times(self, wanted: dict[Any, int]) -> dict[Any, Any]:
        """The consumer's."""
        return {
            at: SimpleNamespace(offset=self.new_from[at.partition]) if at.partition in self.new_from else None
            for at in wanted
        }

    async def list_consumer_group_offsets(self, group: str, partitions: list[Any]) -> dict[Any, Any]:
        """The admin client's."""
        return {at: self.stored.get(at, OffsetAndMetadata(-1, "")) for at in partitions}

    async def describe_configs(self, resources: list[Any]) -> list[Any]:
        """The admin client's."""
        entries: list[Any] = [("message.timestamp.type", self.timestamp_type, False, 1, False, [])]
        return [SimpleNamespace(resources=[(0, "", 2, "events", entries)])]


def loop_on(paper: Paper, tmp_path: Path, rules: LabelRules = RULES, **shell: Any) -> ConsumerLoop:
    """A loop whose Kafka is of paper."""
    settings = Settings(kafka="127.0.0.1:1", local=tmp_path)
    told = JoinerOptions(**shell)
    assigned = AssignedPartitions(rules, told, MemoryBudget(UNBOUNDED, UNBOUNDED), tmp_path / "states")
    made = ConsumerLoop(settings, told, assigned, RecordProcessor(told, PARTITIONS, None, Tally()), PARTITIONS)
    made.consumer = made.producer = made.admin = paper
    return made


async def assign(loop: ConsumerLoop, *partitions: int) -> None:
    """These partitions, and no others, are the worker's from now on."""
    await loop.on_partitions_assigned([TopicPartition("events", p) for p in partitions])
    assert loop._new_assignment is not None
    await loop._start_partitions(loop._new_assignment)


async def revoke(loop: ConsumerLoop, *partitions: int) -> None:
    """These go."""
    await loop.on_partitions_revoked([TopicPartition("events", p) for p in partitions])


async def take(loop: ConsumerLoop, *records: Any, partition: int = 0) -> None:
    """Records of a partition, fetched together."""
    loop.consumer.batches.append({partition: list(records)})
    await loop._poll()


async def assigned_loop(paper: Paper, tmp_path: Path, *partitions: int, **options: Any) -> ConsumerLoop:
    """A loop that has these partitions."""
    loop = loop_on(paper, tmp_path, **options)
    await assign(loop, *partitions)
    return loop


def message(offset: int, *events: SourceEvent, raw: bytes | None = None, came_ms: int = CAME) -> Any:
    """A record as the consumer gives it."""
    value = encode_record(events) if raw is None else raw
    return SimpleNamespace(
        offset=offset, timestamp=came_ms, timestamp_type=LOG_APPEND_TIME, key=None, value=value
    )  # fmt: skip


def page(request_id: str, time_ms: int = T, partition: int = 0, items: str = "ab") -> Impression:
    """A page; `items` one letter each."""
    return Impression(request_id, time_ms, USERS[partition], list(items))


class NoCache(RecordCache):
    """Keeps nothing: every page has to be read again."""

    def put(self, offset: int, raw: bytes) -> None:
        """Not kept."""


class PaperReader:
    """Has these records to be read again, once `going`."""

    def __init__(self, *records: Any) -> None:
        self.going = asyncio.Event()
        self._records = {record.offset: record.value for record in records}

    def assign(self, partitions: Any) -> None:
        """Any will do."""

    async def read(self, partition: int, closed: Sequence[int], others: Sequence[int]) -> dict[int, bytes]:
        """Those that are wanted."""
        await self.going.wait()
        return {offset: self._records[offset] for offset in (*closed, *others)}


def reads_again(loop: ConsumerLoop, *records: Any) -> asyncio.Event:
    """From now on the pages of the loop's partitions have to be read again, from these records, once that is set."""
    reader = PaperReader(*records)
    loop.fetcher = reader  # type: ignore[assignment]  # of paper
    for owned in loop.assigned.partitions.values():
        owned.cache = NoCache()
    return reader.going
