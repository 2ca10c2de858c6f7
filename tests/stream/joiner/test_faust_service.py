"""The joiner's shell: the rules of its commits one by one, with a broker of paper."""

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import codec
from aiokafka.consumer.fetcher import FetchResult
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from kafka import TopicPartition

from stream.dead_letters import ORIGINAL_BYTES_MAX, dead_letter
from stream.errors import LogError, LogGap
from stream.events import (
    DeadLetter,
    Impression,
    Install,
    SourceEvent,
    Tick,
    decode_entity,
    decode_examples,
    encode_record,
)
from stream.joiner.faust_service import BATCH_BYTES, FETCH_WAIT_MS, JoinerService, make_app, spare_tasks
from stream.joiner.join import SLICE
from stream.joiner.label_rules import LabelRules
from stream.joiner.offset_gaps import Gaps
from stream.joiner.record_processor import ShellRules
from stream.log import Record
from stream.settings import Settings
from stream.topics import EVENTS, EVENTS_DLQ, EXAMPLES, HISTORIES

RULES = LabelRules(policy="eager", window_ms=1_000, known_ms=1_000)
LIFE = {"window_ms": 1_000, "known_ms": 1_000}
T = 1_700_000_000_000  # event time of the rules' tests
CAME = T + 50_000  # and ingest time
PARTITIONS = {EVENTS.name: 2, EXAMPLES.name: 1, HISTORIES.name: 2}


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
    """Stands in for Faust's app: keeps what is sent and committed; confirms when told."""

    def __init__(self, confirming: bool = True) -> None:
        self.sent: list[tuple[str, bytes | None]] = []
        self.futures: list[asyncio.Future[None]] = []
        self.stored: dict[TopicPartition, Any] = {}
        self.confirming = confirming
        self.ends: dict[int, int] = {}
        self.consumer_generation_id = 1
        self.member_id = "a-1"  # in its group
        self.producer = self
        self.starts: dict[int, int] = {}
        self.asked = 0  # for starts
        self._consumer = SimpleNamespace(
            commit=self.commit,
            _coordinator=self,
            beginning_offsets=self.beginning_offsets,
        )
        self.consumer = SimpleNamespace(
            _thread=self, highwater=lambda at: self.ends.get(at.partition), _read_offset=dict[Any, int]()
        )

    def _ensure_producer(self) -> "Paper":
        return self

    def create_batch(self) -> "PaperBatch":
        """aiokafka's producer."""
        return PaperBatch()

    async def send_batch(self, batch: "PaperBatch", topic: str, *, partition: int) -> "asyncio.Future[None]":
        """aiokafka's producer: one future for all records of a batch."""
        self.sent += [(topic, value) for value in batch.values]
        self.futures.append(asyncio.get_running_loop().create_future())
        if self.confirming:
            self.futures[-1].set_result(None)
        return self.futures[-1]

    async def call_thread(self, call: Callable[..., Any], *args: Any) -> Any:
        """Faust's way into the consumer's thread."""
        return await call(*args)

    async def commit(self, offsets: dict[Any, Any]) -> None:
        """The consumer's commit."""
        self.stored.update(offsets)

    async def beginning_offsets(self, wanted: list[Any]) -> dict[Any, int]:
        """Where the log starts now."""
        self.asked += 1
        return {at: self.starts.get(at.partition, 0) for at in wanted}

    async def fetch_committed_offsets(self, wanted: list[Any]) -> dict[Any, Any]:
        """The group's commits."""
        return {at: self.stored[at] for at in wanted if at in self.stored}


def service_on(paper: Paper, tmp_path: Path, rules: LabelRules = RULES, **shell: Any) -> JoinerService:
    """A service whose Faust is of paper."""
    settings = Settings(kafka="127.0.0.1:1", local=tmp_path)
    service = JoinerService(settings, rules, ShellRules(**shell), PARTITIONS, None)
    service.app = paper  # type: ignore[assignment]  # what the service uses of it
    return service


def message(offset: int, *events: SourceEvent, raw: bytes | None = None, partition: int = 0) -> Any:
    """A record as Faust hands it over."""
    value = encode_record(events) if raw is None else raw
    return SimpleNamespace(
        partition=partition, offset=offset, timestamp=CAME / 1000, key=None, value=value, generation_id=1
    )


async def take(service: JoinerService, message: Any) -> None:
    """One record, handed over at once."""
    await service._take(message)
    await service._outbox.flush()


def page(request_id: str, time_ms: int = T, user: str = "u", items: str = "ab") -> Impression:
    """A page; `items` one letter each."""
    return Impression(request_id, time_ms, user, list(items))


def committed(paper: Paper, partition: int = 0) -> tuple[int, dict[str, int]] | None:
    """(offset, metadata but for the rules, which are always the same) of the group's commit."""
    found = paper.stored.get(TopicPartition("events", partition))
    if found is None:
        return None
    told = json.loads(found.metadata)
    wanted = {
        "early_ms": None,
        "lateness_ms": 0,
        "organic": False,
        "organic_examples": False,
        "policy": "eager",
        **LIFE,
    }
    assert told.pop("rules") == wanted
    return found.offset, told


def test_a_commit_waits_until_the_broker_has_confirmed(tmp_path: Path) -> None:
    """Nothing is committed while an example that came of an earlier record is on its way."""

    async def story() -> None:
        paper = Paper(confirming=False)
        service = service_on(paper, tmp_path)
        events: list[SourceEvent] = [page("r"), Install("u", "a", T, "i"), Tick(T + 5_000)]
        for offset, event in enumerate(events):
            await take(service, message(offset, event))
        task = asyncio.create_task(service.commit())
        for future in paper.futures:
            await asyncio.sleep(0)
            assert committed(paper) is None
            future.set_result(None)
        await task
        assert committed(paper) == (3, {"watermark_ms": T + 5_000, "finished_ms": T + 3_000})

    asyncio.run(story())


def test_a_record_that_the_broker_refused_ends_the_service_uncommitted(tmp_path: Path) -> None:
    """If what came of a record can't be written, its offset isn't committed and the service ends."""

    async def story() -> None:
        paper = Paper(confirming=False)
        service = service_on(paper, tmp_path)
        await take(service, message(0, page("r"), Tick(T + 5_000)))
        paper.futures[0].set_exception(OSError("refused"))
        await service.commit()
        assert committed(paper) is None
        assert isinstance(service.failure, LogError)

    asyncio.run(story())


def test_a_commit_covers_only_what_came_before_it_was_asked_for(tmp_path: Path) -> None:
    """What comes while confirmations are waited for isn't committed with them: its own aren't there yet."""

    async def story() -> None:
        paper = Paper(confirming=False)
        service = service_on(paper, tmp_path)
        await take(service, message(0, page("r"), Tick(T + 5_000)))
        task = asyncio.create_task(service.commit())
        await asyncio.sleep(0)
        await take(service, message(1, page("s", T + 5_000), Tick(T + 10_000)))
        told, later = paper.futures
        told.set_result(None)
        await task
        assert not later.done()
        assert committed(paper) == (1, {"watermark_ms": T + 5_000, "finished_ms": T + 3_000})

    asyncio.run(story())


def test_who_is_told_to_stop_does_not_wait_for_a_broker_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The last commit isn't stored, which is said; it's no failure."""
    monkeypatch.setattr("stream.joiner.faust_service.LAST_COMMIT_S", 0.05)
    paper = Paper(confirming=False)
    service = service_on(paper, tmp_path)

    async def run() -> None:
        await take(service, message(0, page("r"), Tick(T + 5_000)))
        await service._commit_last()

    asyncio.run(run())
    assert (paper.stored, service.failure) == ({}, None)
    assert "the last commit isn't stored" in caplog.text


def test_after_a_failure_nothing_more_is_taken(tmp_path: Path) -> None:
    """Until the process has ended, records that still come are left for the restart."""

    async def story() -> None:
        paper = Paper()
        service = service_on(paper, tmp_path)
        await take(service, message(0, page("r")))
        service.fail(LogError("refused"))
        await take(service, message(1, Tick(T + 5_000)))
        assert paper.sent == []
        assert service.share.owned[0].next_offset == 1

    asyncio.run(story())


def test_an_agent_that_fails_ends_the_service_instead_of_going_on(tmp_path: Path) -> None:
    """An agent that raised would be started again behind the record that it failed at."""

    async def story() -> None:
        paper = Paper()
        service = service_on(paper, tmp_path)
        queue: asyncio.Queue[Any] = asyncio.Queue()
        paper.starts[0] = 2
        for offset in (0, 2):
            queue.put_nowait(SimpleNamespace(message=message(offset, page(f"r{offset}"))))
        await asyncio.wait_for(service._join(SimpleNamespace(channel=SimpleNamespace(queue=queue))), 30.0)
        assert isinstance(service.failure, LogGap)
        assert service.share.owned[0].next_offset == 1

    asyncio.run(story())


def test_a_commit_stays_behind_open_pages_in_strict_order(tmp_path: Path) -> None:
    """The commit is the oldest record that is needed, though later ones are done with."""

    async def story() -> None:
        paper = Paper()
        service = service_on(paper, tmp_path)
        await take(service, message(0, Tick(T - 5_000)))
        await take(service, message(1, page("late", T)))
        await take(service, message(2, page("early", T - 1_900)))
        await take(service, message(3, Tick(T + 1_500)))
        await service.commit()
        assert committed(paper) == (1, {"watermark_ms": T - 5_000, "finished_ms": T - 500})

    asyncio.run(story())


def test_a_burst_goes_out_in_parts_and_is_committed_when_all_of_it_is_out(tmp_path: Path) -> None:
    """Before all that a record led to is told, no commit passes it, whatever of it the broker has confirmed."""

    async def story(lost: bool) -> None:
        paper = Paper()
        service = service_on(paper, tmp_path)
        pages = [page(f"r{k}", T + k % 7) for k in range(3 * SLICE + 1)]
        for k in range(0, len(pages), SLICE):
            await take(service, message(k // SLICE, *pages[k : k + SLICE]))
        await service.commit()
        burst = asyncio.create_task(take(service, message(4, Tick(T + 5_000))))
        seen, owned = set(), service.share.owned[0]
        while not burst.done():
            seen.add(told := sum(len(decode_examples(value or b"")[0]) for _, value in paper.sent))
            await service.commit()
            assert committed(paper) == (0, {"watermark_ms": 0, "finished_ms": T + 6 - RULES.life_ms})
            if lost and told:
                service.share.drop([0])
            await asyncio.sleep(0)
        if lost:
            assert sum(len(decode_examples(value or b"")[0]) for _, value in paper.sent) == max(seen) < len(pages)
            assert not owned.settled
            return
        assert len(seen) > 3
        await service.commit()
        assert committed(paper) == (5, {"watermark_ms": T + 5_000, "finished_ms": T + 3_000})
        names = [e.page.request_id for _, value in paper.sent for e in decode_examples(value or b"")[0]]
        assert names == [one.request_id for one in sorted(pages, key=lambda one: one.time_ms)]

    asyncio.run(story(lost=False))
    asyncio.run(story(lost=True))


def test_a_hole_in_the_records_ends_the_service(tmp_path: Path) -> None:
    """Where the log has lost what is between two records, the second isn't taken: that would be without a word."""

    async def story() -> None:
        paper = Paper()
        service = service_on(paper, tmp_path)
        await take(service, message(0, page("r")))
        paper.starts[0] = 2
        with pytest.raises(LogGap, match="offset 1 was wanted, but the log now starts at 2: 1 records"):
            await take(service, message(2, page("s")))
        tolerant = service_on(paper, tmp_path, accept_gap=True)
        await take(tolerant, message(0, page("r")))
        for offset in (4, 2, 3, 4):  # the first before its turn: what the log still has isn't part of the gap
            await take(tolerant, message(offset, page(f"s{offset}")))
        assert tolerant.share.owned[0].joiner.open_pages == 4

    asyncio.run(story())


def test_offsets_without_a_record_are_no_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Markers of transactions and compaction leave some. That nothing else was there is known from who fetched."""

    async def story() -> None:
        paper = Paper()
        service = service_on(paper, tmp_path)
        at, gaps = TopicPartition("events", 0), Gaps()
        monkeypatch.setattr("stream.joiner.faust_service.gaps", gaps)
        gaps.note(at, 0, [0, 2, 4], 6)
        gaps.note(at, 6, [8], 9)
        for offset in (0, 2, 4, 8):
            await take(service, message(offset, page(f"r{offset}")))
        assert (paper.asked, service.share.owned[0].joiner.open_pages) == (0, 4)
        paper.starts[0] = 10
        with pytest.raises(LogGap, match="offset 9 was wanted, but the log now starts at 10"):
            await take(service, message(11, page("r11")))
        await service._on_revoked(service.app, {at})
        paper.stored[at] = SimpleNamespace(offset=9, metadata="")
        with pytest.raises(LogGap, match="offset 9 was wanted, but the log now starts at 10"):
            await take(service, message(10, page("r10")))

    asyncio.run(story())


def test_a_record_before_its_turn_is_left(tmp_path: Path) -> None:
    """After a rebalance Faust may hand on what was read before it: all of the partition is read again, in order. The
    broker is asked once where the log starts, for all that was read by then."""

    async def story() -> None:
        paper = Paper()
        paper.starts[0] = 0
        paper.stored[TopicPartition("events", 0)] = SimpleNamespace(offset=1, metadata="")
        service = service_on(paper, tmp_path)
        paper.consumer._read_offset[TopicPartition("events", 0)] = 4
        for offset in (3, 4, 0, 1, 2, 3, 4):
            await take(service, message(offset, page(f"r{offset}")))
        assert (paper.asked, service.share.owned[0].joiner.open_pages) == (1, 4)
        assert service.share.owned[0].next_offset == 5
        await take(service, message(6, page("r6")))
        waits_since = service.share.owned[0].waits_since
        assert waits_since is not None
        await service.tick(waits_since + 9.0)
        with pytest.raises(LogError, match="offset 5 hasn't come for 10 s"):
            await service.tick(waits_since + 11.0)

    asyncio.run(story())


def test_without_a_commit_the_first_record_is_the_logs_first(tmp_path: Path) -> None:
    """Not whichever comes first: what Faust has thrown away before it comes again."""

    async def story() -> None:
        paper = Paper()
        paper.starts[0] = 2
        service = service_on(paper, tmp_path)
        for offset in (5, 2, 3, 4, 5):
            await take(service, message(offset, page(f"r{offset}")))
        assert (service.share.owned[0].next_offset, service.share.owned[0].joiner.open_pages) == (6, 4)

    asyncio.run(story())


def test_seeking_to_commits_goes_back_where_nothing_is_committed(tmp_path: Path) -> None:
    """aiokafka stays where it is with a partition whose commit is at 0, or that has none."""
    make_app(Settings(kafka="127.0.0.1:1", local=tmp_path))
    committed = {TopicPartition("events", p): offset for p, offset in enumerate((0, None, 7))}
    sought: list[Any] = []

    class Consumer:
        async def seek_to_committed(self) -> dict[Any, Any]:
            return committed

        async def seek_to_beginning(self, *partitions: Any) -> None:
            sought.extend(partitions)

    async def call_thread(call: Callable[..., Any], *args: Any) -> Any:
        return await call(*args)

    thread: Any = SimpleNamespace(call_thread=call_thread, _ensure_consumer=Consumer)
    assert asyncio.run(AIOKafkaConsumerThread.seek_to_committed(thread)) == committed
    assert [at.partition for at in sought] == [0, 1]


def test_a_partition_that_was_lost_while_the_log_was_asked_is_not_joined_on(tmp_path: Path) -> None:
    """Whoever has it by then reads the record again."""

    async def story() -> None:
        paper = Paper()
        paper.starts[0] = 0
        service = service_on(paper, tmp_path)
        await take(service, message(0, page("r")))
        ask = paper.beginning_offsets

        async def slow(wanted: list[Any]) -> dict[Any, int]:
            await service._on_revoked(service.app, {TopicPartition("events", 0)})
            return await ask(wanted)

        paper._consumer.beginning_offsets = slow
        await take(service, message(2, page("s")))
        assert service.share.owned == {}

    asyncio.run(story())


def test_a_gap_between_commit_and_log_start_ends_the_service(tmp_path: Path) -> None:
    """If the first record read isn't the committed one, retention has taken what was between."""

    async def story() -> None:
        paper = Paper()
        await take(service_on(paper, tmp_path), message(0, page("r")))
        paper.stored[TopicPartition("events", 0)] = SimpleNamespace(offset=5, metadata="")
        paper.starts[0] = 7
        with pytest.raises(LogGap, match="--accept-gap"):
            await take(service_on(paper, tmp_path), message(7, page("s")))

    asyncio.run(story())


def test_a_restart_reads_on_with_the_watermark_of_the_commit(tmp_path: Path) -> None:
    """The watermark stored with the commit decides again what is late; records behind the commit are skipped."""

    async def story() -> None:
        paper = Paper()
        first = service_on(paper, tmp_path)
        await take(first, message(0, page("r"), Tick(T + 9_000)))
        await first.commit()
        second = service_on(paper, tmp_path)
        await take(second, message(0, page("r")))
        await take(second, message(1, page("r")))
        joiner = second.share.owned[0].joiner
        assert (joiner.watermark_ms, joiner.counts.late, joiner.open_pages) == (T + 9_000, 1, 0)

    asyncio.run(story())


def test_a_restart_reads_on_with_the_floor_of_the_commit(tmp_path: Path) -> None:
    """What was forgotten early, because memory was full, is late after a restart as it was before."""

    async def story() -> None:
        paper = Paper()
        first = service_on(paper, tmp_path, replace(RULES, bytes_max=500))
        await take(first, message(0, page("r", T)))
        await take(first, message(1, page("s", T + 1)))
        await first.commit()
        assert committed(paper) == (1, {"watermark_ms": T, "finished_ms": T, "floor_ms": T})
        second = service_on(paper, tmp_path)
        await take(second, message(1, page("s", T + 1)))
        await take(second, message(2, page("r", T)))
        joiner = second.share.owned[0].joiner
        assert (joiner.counts.late, joiner.open_pages) == (1, 1)

    asyncio.run(story())


def test_a_record_of_an_assignment_before_the_last_is_not_taken(tmp_path: Path) -> None:
    """What waited in the queue while partitions changed hands is read again by whoever has its partition now."""

    async def story() -> None:
        paper = Paper()
        service = service_on(paper, tmp_path)
        await take(service, message(0, page("r")))
        await service._on_revoked(None, {TopicPartition("events", 0)})
        paper.consumer_generation_id += 1
        await take(service, message(1, page("s")))
        assert service.share.owned == {}

    asyncio.run(story())


@pytest.mark.parametrize(("member", "pause_s", "ends"), [("", 5, True), ("", 50, False), ("a-1", 1, False)])
def test_two_joiners_of_one_name_do_not_fight_for_ever(
    tmp_path: Path, member: str, pause_s: float, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is expelled again and again ends, and says why; now and then that happens, and rebalances are nothing."""
    now = [1_000.0]
    monkeypatch.setattr("stream.joiner.faust_service.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("stream.joiner.faust_service.LEAVE_S", 0.0)
    monkeypatch.setattr("threading.excepthook", threading.excepthook)  # what is set is put back

    async def story() -> BaseException | None:
        paper = Paper()
        paper.member_id = member
        service = service_on(paper, tmp_path)
        for _ in range(5):
            await service._on_revoked(None, {TopicPartition("events", 0)})
            now[0] += pause_s
        return service.failure

    failure = asyncio.run(story())
    assert ("another is named 0" in str(failure)) if ends else failure is None


def test_revoked_partitions_are_forgotten_and_not_committed(tmp_path: Path) -> None:
    """State of a partition that goes away is dropped, and a commit that was on its way for it is not stored."""

    async def story() -> None:
        paper = Paper(confirming=False)
        service = service_on(paper, tmp_path)
        await take(service, message(0, page("r"), Tick(T + 5_000)))
        await take(service, message(0, page("s"), Tick(T + 5_000), partition=1))
        task = asyncio.create_task(service.commit())
        await asyncio.sleep(0)
        await service._on_revoked(None, {TopicPartition("events", 0)})
        for future in paper.futures:
            future.set_result(None)
        await task
        assert set(service.share.owned) == {1}
        assert committed(paper) is None
        assert committed(paper, 1) is not None

    asyncio.run(story())


@pytest.mark.parametrize("assigned", [False, True], ids=["revoked", "assigned-anew"])
def test_a_state_that_a_revocation_has_overtaken_is_not_kept(tmp_path: Path, assigned: bool) -> None:
    """A partition that goes away while its commit is asked for leaves nothing behind: its commit may move on."""

    async def story() -> None:
        paper = Paper()
        service = service_on(paper, tmp_path)
        ask = service._committed

        async def slow(partition: int) -> Any:
            found = await ask(partition)
            await service._on_revoked(None, {TopicPartition("events", partition)})
            paper.consumer_generation_id += assigned
            return found

        service._committed = slow  # type: ignore[method-assign]
        await take(service, message(0, page("r")))
        assert service.share.owned == {}

    asyncio.run(story())


def test_ticks_are_written_into_silent_partitions_that_are_read_to_their_end(tmp_path: Path) -> None:
    """A Tick needs silence, an open page, and no lag; its time is the last event's plus the silence."""

    async def story() -> None:
        paper = Paper()
        service = service_on(paper, tmp_path, idle_ms=500)
        await take(service, message(0, page("r")))
        heard = service.share.owned[0].heard_at
        paper.ends[0] = 1
        await service.tick(heard + 0.4)
        assert paper.sent == []
        paper.ends[0] = 2
        await service.tick(heard + 0.6)
        assert paper.sent == []
        paper.ends[0] = 1
        await service.tick(heard + 0.6)
        assert paper.sent == [("events", encode_record([Tick(T + 600)]))]
        await take(service, message(1, Tick(T + 1_000)))
        paper.ends[0] = 2
        await service.tick(heard + 9_000)
        assert len([topic for topic, _ in paper.sent if topic == "events"]) == 1

    asyncio.run(story())


def test_a_partition_that_ends_with_a_marker_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction's marker is nobody's record: where nothing else is behind the last one, silence is ticked."""

    async def story() -> None:
        paper, gaps, at = Paper(), Gaps(), TopicPartition("events", 0)
        monkeypatch.setattr("stream.joiner.faust_service.gaps", gaps)
        service = service_on(paper, tmp_path)
        gaps.note(at, 0, [0], 1)
        await take(service, message(0, page("r")))
        paper.ends[0], late = 2, service.share.owned[0].heard_at + 9.0
        await service.tick(late)
        assert paper.sent == []
        gaps.note(at, 1, [], 2)  # the marker was read
        await service.tick(late)
        assert len(paper.sent) == 1
        gaps.note(at, 2, [2], 4)  # a record that is on its way, and a marker
        paper.ends[0] = 4
        await service.tick(late + 9.0)
        assert len(paper.sent) == 1

    asyncio.run(story())


class Read:
    """What aiokafka has fetched of a partition: some offsets hold a record."""

    def __init__(self, position: int, end: int, records: set[int]) -> None:
        self.next_fetch_offset = position
        self._end, self._records = end, records

    def __iter__(self) -> "Read":
        return self

    def __next__(self) -> Any:
        while self.next_fetch_offset < self._end:
            self.next_fetch_offset += 1
            if self.next_fetch_offset - 1 in self._records:
                return SimpleNamespace(offset=self.next_fetch_offset - 1)
        raise StopIteration


def test_what_aiokafka_hands_over_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is cut in the middle, where nothing but markers was fetched, and not where it is refused."""
    make_app(Settings(kafka="127.0.0.1:1", local=tmp_path))
    monkeypatch.setattr("stream.joiner.faust_service.gaps", gaps := Gaps())
    at = TopicPartition("events", 0)
    state = SimpleNamespace(paused=False, position=3)
    state.consumed_to = lambda position: setattr(state, "position", position)
    assignment = SimpleNamespace(active=True, state_value=lambda _: state)

    def fetched(end: int, *records: int) -> FetchResult:
        read = Read(state.position, end, set(records))
        return FetchResult(at, assignment=assignment, partition_records=read, backoff=0)

    one = fetched(9, 4, 5, 7)
    assert [[record.offset for record in one.getall(2)], [record.offset for record in one.getall()]] == [[4, 5], [7]]
    assert fetched(11).getall() == []
    assert [record.offset for record in fetched(12, 11).getall()] == [11]
    assert [gaps.begin(at, offset) for offset in (4, 5, 7, 11)] == [3, 5, 6, 8]
    assert (gaps.end(at, 12), gaps.end(at, 13)) == (12, 13)
    state.paused = True
    assert fetched(20, 19).getall() == []
    assert gaps.end(at, 20) == 20


def test_an_event_from_the_future_becomes_a_dead_letter(tmp_path: Path) -> None:
    """An event far ahead of its own arrival moves no watermark; what came with it is taken in."""

    async def story() -> None:
        paper = Paper()
        service = service_on(paper, tmp_path, ahead_ms_max=60_000)
        await take(service, message(0, page("r"), Tick(CAME + 60_001)))
        assert service.share.owned[0].joiner.watermark_ms == T
        assert service.share.owned[0].joiner.open_pages == 1
        ((topic, value),) = paper.sent
        letter = decode_entity(value or b"", DeadLetter)
        assert (topic, letter.error, letter.offset) == (EVENTS_DLQ.name, "FromTheFuture", 0)

    asyncio.run(story())


def kafka_clients(tmp_path: Path) -> tuple[Any, Any]:
    """The consumer and the producer that Faust makes of its settings; neither is started."""

    async def made() -> tuple[Any, Any]:
        app = make_app(Settings(kafka="127.0.0.1:1", local=tmp_path))
        consumer = app.consumer._thread._create_worker_consumer(app.transport)  # type: ignore[attr-defined]
        return consumer, app.producer._new_producer()  # type: ignore[attr-defined]

    return asyncio.run(made())


READS = {
    "fetch_max_wait_ms": FETCH_WAIT_MS,  # Faust's own can't be set: the patch must reach the consumer
    "max_partition_fetch_bytes": 4 * 1024 * 1024,
    "session_timeout_ms": 10_000,  # so long do a dead worker's partitions wait
    "heartbeat_interval_ms": 2_000,
    "rebalance_timeout_ms": 15_000,
    "group_instance_id": "joiner-0",
    "auto_offset_reset": "earliest",
}


@pytest.mark.parametrize(("name", "value"), READS.items(), ids=list(READS))
def test_the_consumer_is_set_up_as_it_works(tmp_path: Path, name: str, value: object) -> None:
    """What was found by killing it reaches aiokafka: otherwise time is lost when reading, restarting, or sharing."""
    consumer, _ = kafka_clients(tmp_path)
    assert getattr(consumer, f"_{name}") == value


def test_the_producer_waits_for_nothing_and_takes_whole_records(tmp_path: Path) -> None:
    """A batch goes out at once, by Faust's own default, and the largest dead letter fits a request."""
    _, producer = kafka_clients(tmp_path)
    assert producer._message_accumulator._linger_time == 0
    assert producer._message_accumulator._batch_size == BATCH_BYTES
    assert producer._request_timeout_ms == 1_200_000  # Faust's own, too: a broker may be away for so long
    letter = dead_letter(bytes(2 * ORIGINAL_BYTES_MAX), "BadEvent", "why" * 1_000, Record("events", 0, 0, 0, None, b""))
    assert len(letter.value or b"") < producer._max_request_size


SET_UP = {
    "stream_recovery_delay": 0.0,  # Faust's own default
    "topic_disable_leader": True,
    "topic_allow_declare": False,
    "web_enabled": False,  # on by default, on all interfaces
}


@pytest.mark.parametrize(("name", "value"), SET_UP.items(), ids=list(SET_UP))
def test_faust_is_set_up_as_it_works(tmp_path: Path, name: str, value: object) -> None:
    """No waiting after a rebalance, no topics of Faust's own, and no data for everyone on the network."""
    assert getattr(make_app(Settings(kafka="127.0.0.1:1", local=tmp_path)).conf, name) == value


def test_a_worker_is_the_same_member_after_a_restart(tmp_path: Path) -> None:
    """Membership is static per worker: who comes back has its partitions at once, others are others."""
    names = [
        make_app(Settings(kafka="127.0.0.1:1", local=tmp_path, worker=worker)).conf.consumer_group_instance_id
        for worker in ("a", "a", "b")
    ]
    assert names[0] == names[1] != names[2]
    assert names[0]


def test_compressed_topics_can_be_read() -> None:
    """aiokafka finds what it needs for each codec: without, a compressed topic ends the worker."""
    assert [has() for has in (codec.has_gzip, codec.has_snappy, codec.has_lz4, codec.has_zstd)] == [True] * 4


def test_faust_has_no_way_to_commit(tmp_path: Path) -> None:
    """An ack over a hole can't be stored: whatever is acked to Faust, its commit refuses."""

    async def story() -> bool:
        app = make_app(Settings(kafka="127.0.0.1:1", local=tmp_path))
        refused = app.consumer._thread.commit({TopicPartition("events", 0): 40})  # type: ignore[attr-defined]
        return bool(await asyncio.wait_for(refused, 10.0))

    assert asyncio.run(story()) is False


@pytest.mark.parametrize("hindered", ["", "queue", "suspended", "flow", "before the agent"])
def test_a_record_is_handed_on_at_once_only_where_nothing_can_hinder_it(hindered: str) -> None:
    """With a full queue, or a flow that is suspended, Faust's own way is taken: it ends when the flow does."""

    async def story() -> tuple[list[str], str]:
        done: list[str] = []
        suspended = asyncio.Event()
        queue: asyncio.Queue[int] = asyncio.Queue(1)

        async def slowly(*coros: Any, timeout: Any) -> str:
            for coro in coros:
                coro.close()
            return "slowly"

        async def hand_on() -> None:
            done.append("handed on")

        consumer = SimpleNamespace(wait_first=slowly, suspend_flow=suspended)
        active = hindered != "flow"
        app: Any = SimpleNamespace(consumer=consumer, flow_control=SimpleNamespace(is_active=lambda: active))
        spare_tasks(app, lambda: queue if hindered != "before the agent" else None)
        if hindered == "queue":
            queue.put_nowait(1)
        if hindered == "suspended":
            suspended.set()
        return done, await consumer.wait_first(hand_on(), suspended.wait())

    assert asyncio.run(story()) == (([], "slowly") if hindered else (["handed on"], None))


def test_faust_waits_for_one_thing_as_before(tmp_path: Path) -> None:
    """Its consumer waits for its flow to go on by the same method, with one thing and a timeout."""

    async def story() -> bool:
        app = make_app(Settings(kafka="127.0.0.1:1", local=tmp_path))
        spare_tasks(app, lambda: asyncio.Queue(1))
        app.flow_control.resume()
        going = asyncio.Event()
        asyncio.get_running_loop().call_soon(going.set)
        return bool((await app.consumer.wait(going, timeout=10.0)).result)  # type: ignore[attr-defined]

    assert asyncio.run(story()) is True


def test_records_of_one_commit_may_need_many_batches(tmp_path: Path) -> None:
    """What doesn't fit into a batch goes into the next, in order; the commit waits for all of them."""

    async def story() -> None:
        paper = Paper(confirming=False)
        service = service_on(paper, tmp_path)
        for k in range(8):
            await service._take(message(k, page(f"r{k}", T + 2_000 * k)))
        await service._outbox.flush()
        told = [decode_examples(value or b"")[0][0].page.request_id for _, value in paper.sent]
        assert told == [f"r{k}" for k in range(7)]
        assert len(paper.futures) == 3
        task = asyncio.create_task(service.commit())
        for future in paper.futures:
            await asyncio.sleep(0)
            assert committed(paper) is None
            future.set_result(None)
        await task
        assert committed(paper) is not None

    asyncio.run(story())
