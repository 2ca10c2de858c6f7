"""The joiner's shell: the rules of its commits one by one, then the whole on real Kafka, killed on the way."""

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import NewTopic

from stream.app import FETCH_WAIT_MS, JoinerService, ShellRules, make_app
from stream.errors import LogError, LogGap
from stream.events import (
    DeadLetter,
    Examples,
    History,
    Impression,
    Install,
    SourceEvent,
    Tick,
    decode_entity,
    decode_events,
    decode_examples,
    encode_record,
)
from stream.health import run_file
from stream.histories import read_histories
from stream.join import LabelRules
from stream.kafka_log import KafkaLog
from stream.log import START, Record, partition_of
from stream.settings import Settings
from stream.topics import EVENTS, EVENTS_DLQ, EXAMPLES, HISTORIES, TOPICS
from tests.stream.join_oracle import net_of, offline
from thalweg.stack import Stack

RULES = LabelRules(policy="eager", window_ms=1_000, known_ms=1_000)
QUICK = LabelRules(policy="eager", window_ms=400, known_ms=400)  # on real Kafka: soon committed
T = 1_700_000_000_000  # event and ingest time of the rules' tests
PARTITIONS = {EVENTS.name: 2, EXAMPLES.name: 1, HISTORIES.name: 2}


# --- The rules, with a broker of paper ----------------------------------------------------------------------


class Paper:
    """Stands in for Faust's app: keeps what is sent and committed; confirms when told."""

    def __init__(self, confirming: bool = True) -> None:
        self.sent: list[tuple[str, bytes | None]] = []
        self.futures: list[asyncio.Future[None]] = []
        self.stored: dict[TopicPartition, Any] = {}
        self.confirming = confirming
        self.ends: dict[int, int] = {}
        self.consumer_generation_id = 1
        self.producer = self
        self._consumer = SimpleNamespace(commit=self.commit, _coordinator=self)
        self.consumer = SimpleNamespace(_thread=self, highwater=lambda at: self.ends.get(at.partition))

    async def send(self, topic: str, key: Any, value: bytes | None, partition: int, *_: Any) -> "asyncio.Future[None]":
        """Faust's producer."""
        self.sent.append((topic, value))
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

    async def fetch_committed_offsets(self, wanted: list[Any]) -> dict[Any, Any]:
        """The group's commits."""
        return {at: self.stored[at] for at in wanted if at in self.stored}


def service_on(paper: Paper, tmp_path: Path, **shell: Any) -> JoinerService:
    """A service whose Faust is of paper."""
    settings = Settings(kafka="127.0.0.1:1", local=tmp_path)
    service = JoinerService(settings, RULES, ShellRules(**shell), PARTITIONS, None)
    service.app = paper  # type: ignore[assignment]  # what the service uses of it
    return service


def message(offset: int, *events: SourceEvent, raw: bytes | None = None, partition: int = 0) -> Any:
    """A record as Faust hands it over."""
    value = encode_record(events) if raw is None else raw
    return SimpleNamespace(
        partition=partition, offset=offset, timestamp=T / 1000, key=None, value=value, generation_id=1
    )


def page(request_id: str, time_ms: int = T, user: str = "u", items: str = "ab") -> Impression:
    """A page; `items` one letter each."""
    return Impression(request_id, time_ms, user, list(items))


def committed(paper: Paper, partition: int = 0) -> tuple[int, dict[str, int]] | None:
    """(offset, metadata) of the group's commit."""
    found = paper.stored.get(TopicPartition("events", partition))
    return None if found is None else (found.offset, json.loads(found.metadata))


def test_a_commit_waits_until_the_broker_has_confirmed(tmp_path: Path) -> None:
    """Nothing is committed while an example that came of an earlier record is on its way."""

    async def story() -> None:
        paper = Paper(confirming=False)
        service = service_on(paper, tmp_path)
        events: list[SourceEvent] = [page("r"), Install("u", "a", T, "i"), Tick(T + 5_000)]
        for offset, event in enumerate(events):
            await service._take(message(offset, event))
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
        await service._take(message(0, page("r"), Tick(T + 5_000)))
        paper.futures[0].set_exception(OSError("refused"))
        await service.commit()
        assert committed(paper) is None
        assert isinstance(service.failure, LogError)

    asyncio.run(story())


def test_a_commit_stays_behind_open_pages_in_strict_order(tmp_path: Path) -> None:
    """The commit is the oldest record that is needed, though later ones are done with."""

    async def story() -> None:
        paper = Paper()
        service = service_on(paper, tmp_path)
        await service._take(message(0, Tick(T - 5_000)))
        await service._take(message(1, page("late", T)))
        await service._take(message(2, page("early", T - 1_900)))
        await service._take(message(3, Tick(T + 1_500)))
        await service.commit()
        assert committed(paper) == (1, {"watermark_ms": T - 5_000, "finished_ms": T - 500})

    asyncio.run(story())


def test_a_hole_in_the_records_ends_the_service(tmp_path: Path) -> None:
    """A record that isn't the next one is never taken: what is between them would be lost without a word."""

    async def story() -> None:
        service = service_on(Paper(), tmp_path)
        await service._take(message(0, page("r")))
        with pytest.raises(LogGap):
            await service._take(message(2, page("s")))
        tolerant = service_on(Paper(), tmp_path, accept_gap=True)
        await tolerant._take(message(0, page("r")))
        await tolerant._take(message(2, page("s")))
        assert tolerant.owned[0].joiner.open_pages == 2

    asyncio.run(story())


def test_a_gap_between_commit_and_log_start_ends_the_service(tmp_path: Path) -> None:
    """If the first record read isn't the committed one, retention has taken what was between."""

    async def story() -> None:
        paper = Paper()
        await service_on(paper, tmp_path)._take(message(0, page("r")))
        paper.stored[TopicPartition("events", 0)] = SimpleNamespace(offset=5, metadata="")
        with pytest.raises(LogGap, match="--accept-gap"):
            await service_on(paper, tmp_path)._take(message(7, page("s")))

    asyncio.run(story())


def test_a_restart_reads_on_with_the_watermark_of_the_commit(tmp_path: Path) -> None:
    """The watermark stored with the commit decides again what is late; records behind the commit are skipped."""

    async def story() -> None:
        paper = Paper()
        first = service_on(paper, tmp_path)
        await first._take(message(0, page("r"), Tick(T + 9_000)))
        await first.commit()
        second = service_on(paper, tmp_path)
        await second._take(message(0, page("r")))
        await second._take(message(1, page("r")))
        joiner = second.owned[0].joiner
        assert (joiner.watermark_ms, joiner.counts.late, joiner.open_pages) == (T + 9_000, 1, 0)

    asyncio.run(story())


def test_revoked_partitions_are_forgotten_and_not_committed(tmp_path: Path) -> None:
    """State of a partition that goes away is dropped, and a commit that was on its way for it is not stored."""

    async def story() -> None:
        paper = Paper(confirming=False)
        service = service_on(paper, tmp_path)
        await service._take(message(0, page("r"), Tick(T + 5_000)))
        await service._take(message(0, page("s"), Tick(T + 5_000), partition=1))
        task = asyncio.create_task(service.commit())
        await asyncio.sleep(0)
        await service._on_revoked(None, {TopicPartition("events", 0)})
        for future in paper.futures:
            future.set_result(None)
        await task
        assert set(service.owned) == {1}
        assert committed(paper) is None
        assert committed(paper, 1) is not None

    asyncio.run(story())


@pytest.mark.parametrize("assigned", [False, True], ids=["revoked", "assigned-anew"])
def test_a_state_that_a_revocation_has_overtaken_is_not_kept(tmp_path: Path, assigned: bool) -> None:
    """A partition that goes away while its commit is asked for leaves nothing behind: its commit may move on."""

    async def story() -> None:
        paper = Paper()
        service = service_on(paper, tmp_path)
        begin = service._begin

        async def slow(partition: int) -> Any:
            begun = await begin(partition)
            await service._on_revoked(None, {TopicPartition("events", partition)})
            paper.consumer_generation_id += assigned
            return begun

        service._begin = slow  # type: ignore[method-assign]
        await service._take(message(0, page("r")))
        assert service.owned == {}

    asyncio.run(story())


def test_ticks_are_written_into_silent_partitions_that_are_read_to_their_end(tmp_path: Path) -> None:
    """A Tick needs silence, an open page, and no lag; its time is the last event's plus the silence."""

    async def story() -> None:
        paper = Paper()
        service = service_on(paper, tmp_path, idle_ms=500)
        await service._take(message(0, page("r")))
        heard = service.owned[0].heard_at
        paper.ends[0] = 1
        await service.tick(heard + 0.4)
        assert paper.sent == []
        paper.ends[0] = 2
        await service.tick(heard + 0.6)
        assert paper.sent == []
        paper.ends[0] = 1
        await service.tick(heard + 0.6)
        assert paper.sent == [("events", encode_record([Tick(T + 600)]))]
        await service._take(message(1, Tick(T + 1_000)))
        paper.ends[0] = 2
        await service.tick(heard + 9_000)
        assert len([topic for topic, _ in paper.sent if topic == "events"]) == 1

    asyncio.run(story())


def test_an_event_from_the_future_becomes_a_dead_letter(tmp_path: Path) -> None:
    """An event far ahead of its own arrival moves no watermark; what came with it is taken in."""

    async def story() -> None:
        paper = Paper()
        service = service_on(paper, tmp_path, ahead_ms_max=60_000)
        await service._take(message(0, page("r"), Tick(T + 60_001)))
        assert service.owned[0].joiner.watermark_ms == T
        assert service.owned[0].joiner.open_pages == 1
        ((topic, value),) = paper.sent
        letter = decode_entity(value or b"", DeadLetter)
        assert (topic, letter.error, letter.offset) == (EVENTS_DLQ.name, "FromTheFuture", 0)

    asyncio.run(story())


def test_faust_waits_no_longer_than_told_for_a_fetch(tmp_path: Path) -> None:
    """The patch of Faust's fixed fetch wait reaches the consumer that is created."""

    async def story() -> int:
        app = make_app(Settings(kafka="127.0.0.1:1", local=tmp_path))
        consumer = app.consumer._thread._create_worker_consumer(app.transport)  # type: ignore[attr-defined]
        return int(consumer._fetch_max_wait_ms)

    assert asyncio.run(story()) == FETCH_WAIT_MS


# --- On real Kafka ------------------------------------------------------------------------------------------


class World:
    """Topics of one test on the shared stack, and joiners that work on them."""

    def __init__(self, stack: Stack, prefix: str, local: Path) -> None:
        self.settings = Settings(kafka=stack.kafka, redis=stack.redis, topic_prefix=prefix, local=local, partitions=2)
        admin = KafkaAdminClient(bootstrap_servers=stack.kafka)
        admin.create_topics([NewTopic(prefix + t.name, t.partitions or 2, 1, topic_configs=t.config()) for t in TOPICS])
        admin.close()
        self.log = KafkaLog(self.settings)

    def joiner(self, worker: str = "0", **shell: Any) -> "subprocess.Popen[bytes]":
        """Start a joiner process."""
        settings = {
            "kafka": self.settings.kafka,
            "redis": self.settings.redis,
            "topic_prefix": self.settings.topic_prefix,
            "local": str(self.settings.local),
            "worker": worker,
        }
        told = {"settings": settings, "rules": asdict(QUICK), "shell": shell}
        out = (self.settings.local / f"joiner-{worker}.log").open("ab")
        script = Path(__file__).with_name("joiner_process.py")
        return subprocess.Popen([sys.executable, str(script), json.dumps(told)], stderr=out, stdout=out)

    def health(self, path: str, worker: str = "0") -> str:
        """What a joiner answers on one of its paths; empty when it doesn't."""
        try:
            port = json.loads(run_file(self.settings.model_copy(update={"worker": worker}), "joiner").read_text())[
                "port"
            ]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=2) as answer:
                return str(answer.read().decode())
        except (OSError, ValueError):
            return ""

    def send(self, *events: Impression | Install) -> None:
        """One record for each user's partition."""
        for partition in range(2):
            part = [event for event in events if partition_of(event.user, 2) == partition]
            if part:
                self.log.send(EVENTS.name, partition, encode_record(part))

    def all_of(self, topic: str) -> list[Record]:
        """Every record that the topic holds now."""
        ends = self.log.ends(topic)
        reader = self.log.reader(topic, dict.fromkeys(ends, START))
        found: list[Record] = []
        try:
            while any(at < ends[partition] for partition, at in reader.positions().items()):
                found += reader.poll(1.0)
        finally:
            reader.close()
        return found

    def examples(self) -> list[Examples]:
        """Everything that was said so far."""
        return [said for record in self.all_of(EXAMPLES.name) for said in decode_examples(record.value or b"")[0]]

    def oracle(self) -> dict[tuple[str, int], int]:
        """Net labels of the offline join over what stands in `events`, ticks of the joiner included."""
        net: dict[tuple[str, int], int] = {}
        records = self.all_of(EVENTS.name)
        for partition in range(2):
            log = [e for r in records if r.partition == partition for e in decode_events(r.value or b"")[0]]
            net |= offline(log, QUICK)
        return net

    def commits(self) -> dict[int, Any]:
        """The group's commits: {partition: offset and metadata}."""
        admin = KafkaAdminClient(bootstrap_servers=self.settings.kafka)
        try:
            found = admin.list_group_offsets([self.settings.topic("joiner")])
            return {at.partition: stored for of in found.values() for at, stored in of.items()}
        finally:
            admin.close()


def until(holds: Callable[[], bool], within_s: float = 30.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.05)


@pytest.fixture
def world(stack: Stack, topic_prefix: str, tmp_path: Path) -> Iterator[World]:
    """Topics and a log of this test's own."""
    made = World(stack, topic_prefix, tmp_path)
    yield made
    made.log.close()


@contextmanager
def running(world: World, worker: str = "0", **shell: Any) -> "Iterator[subprocess.Popen[bytes]]":
    """A joiner that is at work, and gone afterwards."""
    process = world.joiner(worker, **shell)
    try:
        until(lambda: "at work" in world.health("readyz", worker))
        yield process
    finally:
        process.kill()
        process.wait()


def test_what_comes_in_goes_out(world: World) -> None:
    """Labels, dead letters, histories in topic and (wiped, too) Redis, metrics, each in place; SIGTERM ends it."""
    cache = redis.Redis.from_url(world.settings.redis)
    prefix = world.settings.topic_prefix
    now = int(time.time() * 1000)
    with running(world) as process:
        world.send(page("r", now), page("s", now, user="v"))
        world.log.send(EVENTS.name, 0, b"rubbish")
        world.log.send(EVENTS.name, 0, None, b"a tombstone")
        world.send(Install("u", "a", now, "i"), Install("v", "a", now, "j"), Install("u", "b", now + 1, "k"))
        world.send(Install("v", "a", now, "j", retracted=True))
        until(lambda: len(net_of(world.examples())) == 4)
        until(lambda: read_histories(cache, ["u", "v"], 10, prefix) == {"u": ["a", "b"], "v": []})
        assert net_of(world.examples()) == world.oracle()
        assert [decode_entity(r.value or b"", DeadLetter).original for r in world.all_of(EVENTS_DLQ.name)] == [
            b"rubbish",
            b"",
        ]
        kept = {record.key: record.value for record in world.all_of(HISTORIES.name)}
        assert kept[b"v\x00a"] is None
        assert decode_entity(kept[b"u\x00a"] or b"", History) == History("u", "a", now)
        cache.delete(*cache.keys(f"{prefix}{{thalweg}}:histor*"))
        until(lambda: read_histories(cache, ["u", "v"], 10, prefix) == {"u": ["a", "b"], "v": []})
        assert world.health("livez") == "ok\n"
        assert 'thalweg_joiner_dead_letters_total{reason="undecodable"} 2.0' in world.health("metrics")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert not run_file(world.settings, "joiner").exists()


def stream_of(seed: int, pages: int) -> Iterator[list[Impression | Install]]:
    """Small groups of pages and installs: some early, repeated, out of order, taken back."""
    rng = random.Random(seed)
    later: list[Install] = []
    for k in range(pages):
        now = int(time.time() * 1000)
        user = f"u{rng.randrange(150)}"
        shown = page(f"r{k}", now - rng.randrange(40), user, "".join(rng.sample("abcdefgh", 4)))
        group: list[Impression | Install] = [shown]
        if rng.random() < 0.3:
            install = Install(user, rng.choice(shown.items), shown.time_ms + rng.randrange(300), f"i{k}")
            if rng.random() < 0.2:
                group.insert(0, install)
            else:
                later.append(install)
            if rng.random() < 0.2:
                later.append(Install(user, install.item, install.time_ms + 5, install.install_id, retracted=True))
        if rng.random() < 0.05:
            group.append(shown)
        while later and rng.random() < 0.4:
            group.append(later.pop(rng.randrange(len(later))))
        yield group
    yield list(later)


def flow(world: World, seed: int, pages: int, per_s: int) -> Iterator[int]:
    """Send the groups of `stream_of` at an even pace; yields how many were sent."""
    started = time.monotonic()
    for sent, group in enumerate(stream_of(seed, pages)):
        world.send(*group)
        time.sleep(max(0.0, sent / per_s - (time.monotonic() - started)))
        yield sent
    world.log.flush()


def test_killed_with_kill_9_again_and_again(world: World) -> None:
    """kill -9 in mid-stream, several times: no label is missing, none is wrong, and every commit is our own."""
    kills, rng = 4, random.Random(7)
    process = world.joiner(idle_ms=300)
    killed_at: list[int] = []
    kill_at, sent = 50, 0
    try:
        for sent in flow(world, 1, 30_000, per_s=250):
            said = world.log.ends(EXAMPLES.name)[0] if sent % 20 == 0 else 0
            if said >= kill_at and len(killed_at) < kills:  # it is at work, and has said much since the last kill
                process.kill()
                process.wait()
                killed_at.append(sent)
                process = world.joiner(idle_ms=300)
                kill_at = world.log.ends(EXAMPLES.name)[0] + rng.randrange(50, 400)
            if len(killed_at) == kills and sent >= killed_at[-1] + 300:
                break
        assert len(killed_at) == kills
        world.log.flush()
        until(lambda: len(net_of(world.examples())) == 4 * (sent + 1), 60.0)
        assert net_of(world.examples()) == world.oracle()
        until(lambda: len(world.commits()) == 2)
        assert all("finished_ms" in json.loads(stored.metadata) for stored in world.commits().values())
        assert all(stored.offset > 0 for stored in world.commits().values())
    finally:
        process.kill()
        process.wait()


def test_a_second_worker_takes_its_share(world: World) -> None:
    """A second worker joins under load: partitions change hands, labels stay right."""
    pages = 3_000
    second = None
    shared_at = 0
    with running(world, "a", idle_ms=300):
        try:
            for sent in flow(world, 2, pages, per_s=300):
                if sent == 300:
                    second = world.joiner("b", idle_ms=300)
                if sent % 50 == 0 and not shared_at and "1 partitions at work" in world.health("readyz", "b"):
                    shared_at = sent
            assert 0 < shared_at < pages
            assert "1 partitions at work" in world.health("readyz", "a")
            until(lambda: len(net_of(world.examples())) == 4 * pages, 60.0)
            assert net_of(world.examples()) == world.oracle()
        finally:
            if second is not None:
                second.kill()
                second.wait()
