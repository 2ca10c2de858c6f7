"""The whole ranker: its threads on a log in memory, then as a process on real Kafka and Redis."""

import json
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import redis

from ranker.serving.service import RankerService
from ranker.versions.model import score_features
from ranker.versions.version_loader import VersionLoader
from stream.events.codec import decode_replies, encode, encode_record
from stream.events.topics import ITEMS, REPLIES, REQUESTS, REQUESTS_DLQ, USERS
from stream.events.types import RankReply, RankRequest
from stream.history.histories import history_key
from stream.history.profiles import UserProfile
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.log.kafka_log import KafkaLog
from stream.log.memory_log import MemoryLog
from stream.log.protocol import START, Log, Reader, partition_of
from stream.runtime.errors import LogError, LogGap, LogUnavailable, StoreUnavailable
from stream.runtime.health import run_file
from stream.runtime.settings import Settings
from stream.snapshots.manifest import Decision
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.redis_store import RedisStore
from stream.snapshots.version_files import VersionFiles
from tests.support.forked_services import ForkedProcess, Nest
from tests.support.random_models import ToyModel, items, some_spec
from tests.support.waiting import wait_until
from thalweg.stack.stack import Stack

PATIENCE_S = 60.0


def toy() -> ToyModel:
    """A toy model of both parts."""
    return ToyModel(some_spec(np.random.default_rng(5), ["wide", "deep"]), 5)


def write_items(log: Log) -> None:
    """Thirty items, as producers write them."""
    for item in items(30):
        log.send(ITEMS.name, 0, encode(item), item.item.encode())
    log.flush()


class Caller:
    """Asks over a log, and collects all replies."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.partitions = log.partitions(REQUESTS.name)
        self.asked = 0
        self.replies: list[RankReply] = []
        self._reader: Reader = log.reader(REPLIES.name, dict.fromkeys(range(log.partitions(REPLIES.name)), START))

    def ask(self, count: int) -> None:
        """Send `count` requests of some users, one a record."""
        for _ in range(count):
            self.asked += 1
            request = RankRequest(f"r{self.asked}", f"u{self.asked % 7}", k=5)
            self.log.send(REQUESTS.name, partition_of(request.request_id, self.partitions), encode_record([request]))
        self.log.flush()

    def answered(self) -> bool:
        """Whether every request has its reply by now."""
        for record in self._reader.poll(0.05):
            self.replies += decode_replies(record.value or b"")
        return {r.request_id for r in self.replies} == {f"r{n + 1}" for n in range(self.asked)}


@pytest.fixture
def memory() -> MemoryLog:
    """The ranker's topics in memory."""
    topics = (REQUESTS, REPLIES, REQUESTS_DLQ, ITEMS, USERS)
    return MemoryLog({topic.name: 1 if topic is REQUESTS_DLQ else 2 for topic in topics}, lambda: 1)


class Running:
    """A service in a thread; `failure` is what it raised."""

    def __init__(self, service: RankerService, connect: Callable[[], Log]) -> None:
        self.service = service
        self.failure: BaseException | None = None
        self._connect = connect
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.service.run(self._connect)
        except LogError as bad:
            self.failure = bad

    def end(self) -> None:
        """Stop it, and see that it has stopped."""
        self.service.stop.set()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


def nothing_installed(users: Sequence[str]) -> dict[str, UserProfile]:
    """Nobody has anything."""
    return {user: UserProfile([], {}) for user in users}


@pytest.fixture
def service() -> Iterator[RankerService]:
    """A service on an empty store in memory."""
    made = RankerService(MemoryStore("m"), nothing_installed, "m", worker="0", threads=2)
    yield made
    made.stop.set()


def test_it_answers_before_and_after_the_first_snapshot(memory: MemoryLog) -> None:
    """Without a model by popularity; with one, by it, without a restart."""
    store, model = MemoryStore("m"), toy()
    write_items(memory)
    running = Running(RankerService(store, nothing_installed, "m", worker="0", threads=2), lambda: memory)
    caller = Caller(memory)
    wait_until(lambda: running.service.ready()[0])
    caller.ask(3)
    wait_until(caller.answered)
    assert {(r.version, tuple(r.notes)) for r in caller.replies} == {(0, ("no_model",))}
    model.publish(store)
    wait_until(lambda: "version 1" in running.service.ready()[1])
    caller.ask(3)
    wait_until(caller.answered)
    assert {r.version for r in caller.replies[3:]} == {1}
    running.end()
    assert running.failure is None


def test_an_item_that_is_deleted_is_not_retrieved_any_more(memory: MemoryLog) -> None:
    """A tombstone takes an item out of the answers of a live ranker; who names it still has it ranked."""
    store = MemoryStore("m")
    toy().publish(store)
    write_items(memory)
    running = Running(RankerService(store, nothing_installed, "m", worker="0", threads=2), lambda: memory)
    caller = Caller(memory)
    wait_until(lambda: running.service.ready() == (True, "ready (version 1)"))
    caller.ask(1)
    wait_until(caller.answered)
    first = caller.replies[-1]
    assert len(first.items) == 5
    gone = first.items[0]
    memory.send(ITEMS.name, 0, None, gone.encode())

    def not_retrieved() -> bool:
        caller.ask(1)
        wait_until(caller.answered)
        return gone not in caller.replies[-1].items

    wait_until(not_retrieved)
    assert caller.replies[-1].scored == 29
    caller.asked += 1
    named = RankRequest(f"r{caller.asked}", "u1", candidates=[gone])
    memory.send(REQUESTS.name, 0, encode_record([named]))
    wait_until(caller.answered)
    assert caller.replies[-1].items == [gone]
    assert {(r.version, r.error) for r in caller.replies} == {(1, "")}
    running.end()
    assert running.failure is None


class SilentStore(MemoryStore):
    """Takes long to say that it doesn't answer, as a host that is down does."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.asked, self.enough = threading.Event(), threading.Event()

    def decision(self) -> Decision:
        """See SnapshotStore."""
        self.asked.set()
        self.enough.wait(PATIENCE_S)
        raise StoreUnavailable("no answer")


def test_the_first_request_finds_all_items(memory: MemoryLog, tmp_path: Path) -> None:
    """A ranker is ready once its items are in order, though the store that it asks for news is silent."""
    store, files = MemoryStore("m"), VersionFiles(tmp_path)
    manifest = toy().publish(store)
    files.save(store, manifest)
    write_items(memory)
    silent = SilentStore("m")
    running = Running(RankerService(silent, nothing_installed, "m", worker="0", threads=2, files=files), lambda: memory)
    caller = Caller(memory)
    wait_until(lambda: running.service.ready()[0])
    assert silent.asked.is_set()
    caller.ask(1)
    wait_until(caller.answered)
    silent.enough.set()
    running.end()
    assert running.failure is None
    assert [(r.version, r.scored) for r in caller.replies] == [(1, 30)]


def test_a_broker_that_comes_late_is_waited_for(memory: MemoryLog, service: RankerService) -> None:
    """Without a broker the service isn't ready and says why; when there is one, it becomes so by itself."""
    there = threading.Event()

    def connect() -> Log:
        if not there.is_set():
            raise LogUnavailable("no broker, as the test wants")
        return memory

    running = Running(service, connect)
    wait_until(lambda: "no broker" in service.ready()[1])
    assert not service.ready()[0]
    there.set()
    wait_until(lambda: service.ready()[0])
    running.end()


def test_a_missing_topic_ends_it(service: RankerService) -> None:
    """What waiting won't mend ends the service with the error that says what to do."""
    running = Running(service, lambda: MemoryLog({}, lambda: 1))
    running.thread.join(PATIENCE_S)
    assert "thalweg apply-topics" in str(running.failure)
    assert not service.live()[0]


@pytest.mark.parametrize("accept_gap", [False, True])
def test_a_gap_ends_it_unless_accepted(memory: MemoryLog, accept_gap: bool) -> None:
    """Requests that retention took are named; with `accept_gap` the rest is answered."""
    caller = Caller(memory)
    caller.partitions = 1
    caller.ask(3)
    group = memory.group_reader(REQUESTS.name, "ranker", "0")
    group.commit({0: 1})
    group.close()
    memory.truncate(REQUESTS.name, 0, 2)
    write_items(memory)
    service = RankerService(MemoryStore("m"), nothing_installed, "m", worker="0", threads=1, accept_gap=accept_gap)
    running = Running(service, lambda: memory)
    if accept_gap:
        wait_until(lambda: caller.answered() or bool(caller.replies))
        assert [r.request_id for r in caller.replies] == ["r3"]
    else:
        running.thread.join(PATIENCE_S)
        assert isinstance(running.failure, LogGap)
    running.end()


class World:
    """The shared stack under a prefix of one test's own, with a ranker process."""

    def __init__(self, nest: Nest, stack: Stack, prefix: str, local: Path) -> None:
        self._nest = nest
        self.settings = Settings(kafka=stack.kafka, redis=stack.redis, topic_prefix=prefix, local=local, partitions=2)
        apply_topics(self.settings, plan_topics(self.settings))
        self.log = KafkaLog(self.settings)
        self.store = RedisStore(self.settings, "m")

    def ranker(self) -> ForkedProcess:
        """Start a ranker process."""
        given = self.settings.model_dump(include={"kafka", "redis", "topic_prefix"}) | {
            "local": str(self.settings.local)
        }
        return self._nest.run("ranker", [json.dumps(given)], {}, self.settings.local / "ranker.log")

    def health(self, path: str) -> str:
        """What the ranker answers on one of its paths; empty when it doesn't."""
        try:
            port = json.loads(run_file(self.settings, "ranker").read_text())["port"]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=2) as answer:
                return str(answer.read().decode())
        except (OSError, ValueError):
            return ""


@pytest.fixture
def world(nest: Nest, stack: Stack, topic_prefix: str, tmp_path: Path) -> Iterator[World]:
    """A world on the shared stack."""
    made = World(nest, stack, topic_prefix, tmp_path)
    yield made
    made.log.close()
    made.store.close()


def test_on_real_kafka_and_redis(world: World) -> None:
    """Under swaps each reply is of one version that recomputes it, less what the user has; SIGTERM ends it."""
    model = toy()
    write_items(world.log)
    with redis.Redis.from_url(world.settings.redis) as client:
        client.zadd(history_key("u3", world.settings.topic_prefix), {"i7": 1.0, "i8": 2.0})
    model.publish(world.store)
    process = world.ranker()
    try:
        wait_until(lambda: world.health("readyz").startswith("ready (version"))
        caller = Caller(world.log)
        for n in range(20):
            caller.ask(25)
            model.learn()
            newest = model.publish(world.store).version
            if n % 5 == 4:  # whoever asks from now on is answered by this one or a later one
                wait_until(lambda: f"(version {newest}" in world.health("readyz"))  # noqa: B023  # called at once
        wait_until(caller.answered)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, (world.settings.local / "ranker.log").read_text()
    finally:
        process.kill()
        process.wait()
    assert len(caller.replies) == 500
    assert len({r.version for r in caller.replies}) > 3
    loader = VersionLoader(world.store, "m")
    versions = {number: loader.load(number) for number in {r.version for r in caller.replies}}
    for reply in caller.replies:
        assert (reply.error, reply.items == []) == ("", False)
        scores = score_features(versions[reply.version], reply.features, len(reply.items))
        assert np.abs(scores - reply.scores).max() <= 1e-5
    known = [r for r in caller.replies if r.user == "u3" and "no_history" not in r.notes]
    assert known
    assert not any({"i7", "i8"} & set(reply.items) for reply in known)
