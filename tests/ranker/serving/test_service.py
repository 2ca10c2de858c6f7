"""The whole ranker: its threads on a log in memory."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from ranker.serving import service as module
from ranker.serving.served_model import ModelSource
from ranker.serving.service import KafkaOptions, RankerService
from stream.events.codec import encode_record
from stream.events.topics import ITEMS, REPLIES, REQUESTS, REQUESTS_DLQ
from stream.events.types import RankReply, RankRequest
from stream.history.profiles import UserProfile
from stream.log.memory_log import MemoryLog
from stream.log.protocol import Log
from stream.runtime.clock import now_ms
from stream.runtime.errors import LogError, LogUnavailable, SettingsError, StoreUnavailable
from stream.snapshots.manifest import Decision
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.version_files import VersionFiles
from tests.support.ranker_world import Caller, toy, write_items
from tests.support.waiting import wait_until

PATIENCE_S = 60.0


@pytest.fixture
def memory() -> MemoryLog:
    """The ranker's topics in memory."""
    topics = (REQUESTS, REPLIES, REQUESTS_DLQ, ITEMS)
    return MemoryLog({topic.name: 1 if topic is REQUESTS_DLQ else 2 for topic in topics}, now_ms)


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


def ranker(store: MemoryStore, files: VersionFiles | None = None) -> RankerService:
    """A service of one model."""
    return RankerService({"m": ModelSource(store, files)}, nothing_installed, threads=2)


@pytest.fixture
def service() -> Iterator[RankerService]:
    """A service on an empty store in memory."""
    made = ranker(MemoryStore("m"))
    yield made
    made.stop.set()


def test_it_answers_before_and_after_the_first_snapshot(memory: MemoryLog) -> None:
    """Without a model by popularity; with one, by it, without a restart."""
    store, model = MemoryStore("m"), toy()
    write_items(memory)
    running = Running(ranker(store), lambda: memory)
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
    running = Running(ranker(store), lambda: memory)
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
    named = RankRequest(f"r{caller.asked}", "u1", candidates=[gone], deadline_ms=60_000)
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
    running = Running(ranker(silent, files), lambda: memory)
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
    running = Running(service, lambda: MemoryLog({REPLIES.name: 1}, lambda: 1))
    running.thread.join(PATIENCE_S)
    assert "thalweg apply-topics" in str(running.failure)
    assert not service.live()[0]


def test_a_loop_that_hangs_is_not_live(
    memory: MemoryLog, service: RankerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that runs but doesn't poll any more is noticed; once it polls, all is well."""
    monkeypatch.setattr(module, "HUNG_S", 0.5)
    write_items(memory)
    caller, goes_on = Caller(memory), threading.Event()
    answer = service.models["m"].ranker.answer

    def hang(*args: Any) -> RankReply:
        assert goes_on.wait(PATIENCE_S)
        return answer(*args)

    monkeypatch.setattr(service.models["m"].ranker, "answer", hang)
    running = Running(service, lambda: memory)
    wait_until(lambda: service.ready()[0])
    caller.ask(1)
    wait_until(lambda: "requests for m hangs" in service.live()[1])
    assert not service.live()[0]
    goes_on.set()
    wait_until(caller.answered)
    wait_until(lambda: service.live()[0])
    running.end()


def test_a_gap_is_skipped(memory: MemoryLog, service: RankerService) -> None:
    """Requests that retention took before a ranker came don't end it: the rest is answered."""
    caller = Caller(memory)
    caller.partitions = 1
    caller.ask(3)
    group = memory.group_reader(REQUESTS.name, "ranker-m", "0")
    group.commit({0: 1})
    group.close()
    memory.truncate(REQUESTS.name, 0, 2)
    write_items(memory)
    running = Running(service, lambda: memory)
    wait_until(lambda: caller.answered() or bool(caller.replies))
    assert [r.request_id for r in caller.replies] == ["r3"]
    running.end()
    assert running.failure is None


def test_several_models_in_one_ranker(memory: MemoryLog) -> None:
    """Each request is answered once, by the model that it names, or the first one."""
    store = MemoryStore("m")
    toy().publish(store)
    write_items(memory)
    sources = {"m": ModelSource(store), "n": ModelSource(MemoryStore("n"))}
    running = Running(RankerService(sources, nothing_installed, threads=1), lambda: memory)
    wait_until(lambda: running.service.ready()[1].startswith("ready (m: version 1, n: no model yet"))
    caller = Caller(memory)
    for model in ("", "m", "n", "n"):
        caller.ask(1, model)
    wait_until(caller.answered)
    assert sorted((r.request_id, r.version) for r in caller.replies) == [("r1", 1), ("r2", 1), ("r3", 0), ("r4", 0)]
    assert [REGISTRY.get_sample_value("thalweg_ranker_version", {"model": model}) for model in "mn"] == [1, None]
    assert REGISTRY.get_sample_value("thalweg_ranker_staleness_seconds", {"model": "m"}) is not None
    running.end()
    assert running.failure is None


def test_a_missing_topic_for_replies_ends_it_before_it_warms_up(
    memory: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It's the caller's topic: `thalweg apply-topics` doesn't create it."""
    warmed: list[object] = []
    monkeypatch.setattr(module, "compile_kernels", warmed.append)
    options = KafkaOptions(reply_topics=["nowhere"])
    service = RankerService({"m": ModelSource(MemoryStore("m"), None)}, nothing_installed, threads=1, options=options)
    with pytest.raises(SettingsError, match=r"nowhere, which doesn't exist: create it with Kafka's own tools"):
        service.run(lambda: memory)
    assert not warmed
