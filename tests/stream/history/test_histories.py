"""The copy of histories in Redis."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from stream.events.codec import encode_record
from stream.events.topics import EVENTS, EVENTS_DLQ, EXAMPLES, HISTORIES
from stream.events.types import Install
from stream.history import history_writer
from stream.history.histories import (
    COMPLETE,
    decode_changes,
    history_key,
    marker_key,
    rebuild_histories,
    wipe_histories,
)
from stream.history.history_writer import HistoryWriter
from stream.joiner.join import Joiner
from stream.joiner.label_rules import LabelRules
from stream.joiner.labels import HistoryChange
from stream.joiner.metrics import Tally
from stream.joiner.output_records import history_record
from stream.joiner.poison_detector import PoisonDetector
from stream.joiner.record_processor import JoinerOptions, PartitionState, RecordProcessor
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.log.kafka_log import KafkaLog
from stream.log.memory_log import MemoryLog
from stream.log.protocol import Log, Record
from stream.runtime.errors import LogUnavailable
from stream.runtime.settings import Settings
from tests.support.plain_writer import written
from tests.support.redis_histories import read_histories
from tests.support.waiting import wait_until
from thalweg.cli.main import app
from thalweg.stack.stack import Stack


def test_the_newest_installs_are_kept_and_read_newest_last(
    cache: redis.Redis, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded per user: the oldest go first; a late one finds its place by its time; retractions are taken out."""
    monkeypatch.setattr("stream.history.histories.MEMBERS_MAX", 4)
    writer = HistoryWriter(cache, topic_prefix)
    for k in (5, 1, 4, 2, 3, 6):
        writer.put("u", f"i{k}", k)
    writer.put("u", "i5", None)
    writer.put("v", "x", 1)
    writer.close(10)
    assert read_histories(cache, ["u", "nobody", "v"], 2, topic_prefix) == {"u": ["i4", "i6"], "nobody": [], "v": ["x"]}
    assert read_histories(cache, ["u"], 0, topic_prefix) == {"u": []}
    assert cache.keys(f"{topic_prefix}*v") == [history_key("v", topic_prefix).encode()]


def test_an_install_read_again_changes_nothing(cache: redis.Redis, topic_prefix: str) -> None:
    """Writing the same again, or an older time of the same item, leaves the newest."""
    for times in ((5, 9), (5,), (9,)):
        writer = HistoryWriter(cache, topic_prefix)
        for at in times:
            writer.put("u", "a", at)
        writer.close(10)
    assert cache.zrange(history_key("u", topic_prefix), 0, -1, withscores=True) == [(b"a", 9.0)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers check the copy often, retry soon, and wait for nobody."""
    for name, seconds in (("RETRY_S", 0.01), ("CHECK_S", 0.01), ("SETTLE_S", 0.0)):
        monkeypatch.setattr(history_writer, name, seconds)


class Flaky:
    """A Redis whose pipelines don't answer until told to."""

    def __init__(self, real: redis.Redis) -> None:
        self.real = real
        self.up = False
        self.asked = threading.Event()

    def get(self, key: str) -> object:
        """Answers always."""
        return self.real.get(key)

    def set(self, key: str, value: bytes, *, nx: bool = False, xx: bool = False) -> object:
        """Answers always."""
        return self.real.set(key, value, nx=nx, xx=xx)

    def pipeline(self, transaction: bool) -> object:
        """A pipeline, or no connection."""
        self.asked.set()
        if not self.up:
            raise redis.ConnectionError("gone")
        return self.real.pipeline(transaction=transaction)


def test_what_redis_did_not_take_is_written_when_it_answers(cache: redis.Redis, topic_prefix: str) -> None:
    """While Redis is away changes wait, without blocking whoever brings them; the last one per item counts."""
    flaky = Flaky(cache)
    writer = HistoryWriter(flaky, topic_prefix)
    writer.put("u", "a", 1)
    assert flaky.asked.wait(10)
    writer.put("u", "b", 2)
    writer.put("u", "a", None)
    flaky.up = True
    wait_until(lambda: writer.pending == 0)
    writer.close(10)
    assert read_histories(cache, ["u"], 10, topic_prefix) == {"u": ["b"]}


def test_waiting_changes_are_bounded(cache: redis.Redis, topic_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the bound the oldest changes are dropped and counted."""
    flaky = Flaky(cache)
    monkeypatch.setattr(history_writer, "PENDING_MAX", 3)
    monkeypatch.setattr(history_writer, "RETRY_S", 30.0)
    writer = HistoryWriter(flaky, topic_prefix)
    writer.put("u", "a", 1)
    assert flaky.asked.wait(10)
    for k in range(10):
        writer.put("u", f"i{k}", k)
    assert writer.dropped >= 6
    assert writer.pending <= 4
    writer.close(10)


def topic_of(*installs: Install) -> MemoryLog:
    """A log whose topic `histories` says these."""
    source = MemoryLog({HISTORIES.name: 2}, lambda: 1)
    for install in installs:
        tell(source, install)
    return source


def tell(source: MemoryLog, install: Install) -> None:
    """One more record of the topic."""
    time_ms = None if install.retracted else install.time_ms
    source.send(*history_record(HistoryChange(install.user, install.item, time_ms), 2))


def test_histories_that_redis_lost_are_complete_again(cache: redis.Redis, topic_prefix: str) -> None:
    """At the start, and whenever Redis was emptied, the copy is made from the topic: retractions left out."""
    bad = (HISTORIES.name, 0, b"\xc1", b"k")
    source = topic_of(Install("u", "a", 1, "1"), Install("v", "x\x00y", 1, "2"), Install("u", "b", 2, "3"))
    source.send(*bad)
    for gone in (Install("v", "x\x00y", 2, "2", retracted=True), Install("u", "never", 2, "4", retracted=True)):
        tell(source, gone)
    writer = HistoryWriter(cache, topic_prefix, lambda: source)
    for _ in range(2):
        wait_until(lambda: cache.get(marker_key(topic_prefix)) == COMPLETE)
        assert read_histories(cache, ["u", "v"], 9, topic_prefix) == {"u": ["a", "b"], "v": []}
        cache.delete(*cache.keys(f"{topic_prefix}*"))
    writer.close(10)


def test_what_a_killed_process_had_not_written_is_written_by_the_next(cache: redis.Redis, topic_prefix: str) -> None:
    """A start copies the topic though Redis says it is complete: changes may have died in a queue."""
    cache.set(marker_key(topic_prefix), COMPLETE)
    source = topic_of(Install("u", "a", 1, "1"))
    writer = HistoryWriter(cache, topic_prefix, lambda: source)
    wait_until(lambda: read_histories(cache, ["u"], 9, topic_prefix) == {"u": ["a"]})
    writer.close(10)


def test_changes_that_were_dropped_come_from_the_topic(
    cache: redis.Redis, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once Redis answers again, what the bound of waiting changes has cost is copied from the topic."""
    flaky = Flaky(cache)
    source = topic_of()
    monkeypatch.setattr(history_writer, "PENDING_MAX", 3)
    writer = HistoryWriter(flaky, topic_prefix, lambda: source)
    wait_until(lambda: cache.get(marker_key(topic_prefix)) == COMPLETE)
    flaky.asked.clear()
    for k in range(10):
        tell(source, Install("u", f"i{k}", k, f"{k}"))
        writer.put("u", f"i{k}", k)
        assert flaky.asked.wait(10)
    assert writer.dropped > 0
    flaky.up = True
    wait_until(lambda: read_histories(cache, ["u"], 20, topic_prefix) == {"u": [f"i{k}" for k in range(10)]})
    writer.close(10)


def test_without_a_log_changes_go_on_and_the_copy_is_tried_again(
    cache: redis.Redis, topic_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker that doesn't answer is said once, keeps nobody waiting, and is asked until it answers."""
    source = topic_of(Install("u", "a", 1, "1"))
    asked: list[int] = []

    def opened() -> Log:
        asked.append(1)
        if len(asked) < 4:
            raise LogUnavailable("no broker")
        return source

    writer = HistoryWriter(cache, topic_prefix, opened)
    writer.put("u", "b", 2)
    wait_until(lambda: read_histories(cache, ["u"], 9, topic_prefix) == {"u": ["a", "b"]})
    writer.close(10)
    assert sum("can't be restored" in record.message for record in caplog.records) == 1


def test_a_retraction_during_the_copy_is_not_undone(cache: redis.Redis, topic_prefix: str) -> None:
    """An old install that is copied after its retraction was written goes again: the topic's end counts."""
    source = topic_of(*(Install("u", f"i{k}", k, f"{k}") for k in range(3)))
    ends = source.ends
    asked: list[int] = []

    def counted(topic: str) -> dict[int, int]:
        asked.append(1)
        if len(asked) == 2:  # the first pass begins: the retraction is in Redis, and on its way into the topic
            writer.put("u", "i1", None)
            writer._deliver_some()
        if len(asked) == 3:  # the second begins, of what has come in meanwhile
            tell(source, Install("u", "i1", 9, "1", retracted=True))
        return ends(topic)

    source.ends = counted  # type: ignore[method-assign]
    ready = threading.Event()

    def opened() -> Log:
        assert ready.wait(10)
        return source

    writer = HistoryWriter(cache, topic_prefix, opened)
    ready.set()
    wait_until(lambda: cache.get(marker_key(topic_prefix)) == COMPLETE)
    writer.close(10)
    assert read_histories(cache, ["u"], 9, topic_prefix) == {"u": ["i0", "i2"]}


class Counting:
    """A Redis that counts what it is asked in pipelines: round trips, commands, members written."""

    def __init__(self, real: redis.Redis) -> None:
        self.real = real
        self.trips = self.commands = self.members = 0
        self.after: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)

    def pipeline(self, transaction: bool) -> object:
        """A pipeline that is counted."""
        pipe = self.real.pipeline(transaction=transaction)
        execute = pipe.execute

        def counted() -> object:
            self.trips += 1
            self.commands += len(pipe.command_stack)
            self.members += sum((len(args) - 3) // 2 for args, _ in pipe.command_stack if args[0] == "ZADD")
            done = execute()
            self.after()
            return done

        pipe.execute = counted  # type: ignore[method-assign,assignment]
        return pipe


def test_rebuilding_restores_all_and_tells_how_far_it_is(cache: redis.Redis, topic_prefix: str) -> None:
    """Every user's history is back as the topic has it, though a bad record is in between; progress reaches the end."""
    source = topic_of(*(Install(f"u{k % 7}", f"i{k}", k, f"{k}") for k in range(1_500)))
    source.send(HISTORIES.name, 0, b"\xc1", b"k")
    tell(source, Install("u3", "i3", 2_000, "3", retracted=True))
    told: list[tuple[int, int]] = []
    copied = rebuild_histories(
        cache, source, topic_prefix, wait=lambda: None, on_progress=lambda *far: told.append(far)
    )
    assert copied == 1_502
    assert told[-1] == (1_502, 1_502)
    assert [far for far, _ in told] == sorted(far for far, _ in told)
    assert all(of == 1_502 for _, of in told)
    for user in range(7):
        expected = [f"i{k}" for k in range(1_500) if k % 7 == user and k != 3]
        assert read_histories(cache, [f"u{user}"], 2_000, topic_prefix) == {f"u{user}": expected}
    assert cache.get(marker_key(topic_prefix)) == COMPLETE
    other = f"{topic_prefix}other."
    cache.zadd(history_key("x", other), {"a": 1})
    cache.zadd(history_key("gone", topic_prefix), {"a": 1})
    assert wipe_histories(cache, topic_prefix) == 8
    assert cache.zcard(history_key("x", other)) == 1
    rebuild_histories(cache, source, topic_prefix, wait=lambda: None)
    assert len(cache.keys(f"{topic_prefix}{{thalweg}}:history:*")) == 7


def test_redis_that_is_wiped_during_a_rebuild_is_not_called_complete(cache: redis.Redis, topic_prefix: str) -> None:
    """The marker says complete only if Redis has kept all that was copied; a joiner then makes the copy again."""
    source = topic_of(*(Install("u", f"i{k}", k, f"{k}") for k in range(10)))
    counting = Counting(cache)

    def wipe() -> None:
        cache.delete(*cache.keys(f"{topic_prefix}*"))

    counting.after = wipe
    rebuild_histories(counting, source, topic_prefix, wait=lambda: None)
    assert cache.get(marker_key(topic_prefix)) is None


def test_wiped_in_mid_stream_histories_are_complete_again(cache: redis.Redis, topic_prefix: str) -> None:
    """Changes go on while Redis is emptied twice: in the end it has what the topic has."""
    source = topic_of()
    writer = HistoryWriter(cache, topic_prefix, lambda: source)
    wait_until(lambda: cache.get(marker_key(topic_prefix)) == COMPLETE)
    for k in range(600):
        for install in (Install(f"u{k % 5}", f"i{k}", k, f"{k}"), Install("u0", f"i{k - 50}", k, "", retracted=True)):
            tell(source, install)
            writer.put(install.user, install.item, None if install.retracted else install.time_ms)
        if k in (200, 400):
            wait_until(lambda: writer.pending == 0)
            cache.delete(*cache.keys(f"{topic_prefix}*"))
    expected = {f"u{u}": [f"i{k}" for k in range(600) if k % 5 == u and (u or k > 549)] for u in range(5)}
    wait_until(lambda: read_histories(cache, list(expected), 1_000, topic_prefix) == expected)
    writer.close(10)


@pytest.mark.parametrize("redis_url", ["server"], indirect=True)  # it counts what a pipeline of redis-py has
def test_the_ten_thousandth_install_costs_no_more_than_the_tenth(cache: redis.Redis, topic_prefix: str) -> None:
    """However many installs a user has: two commands a round trip, one member an install, a bounded set in Redis."""
    counting = Counting(cache)
    writer = HistoryWriter(counting, topic_prefix)
    costs: list[int] = []

    def put(begin: int, end: int) -> None:
        for k in range(begin, end):
            writer.put("u", f"i{k}", k)
        wait_until(lambda: writer.pending == 0)

    for begin in (*range(0, 100, 10), *range(9_900, 10_000, 10)):
        if begin == 9_900:
            put(100, 9_900)
        before = (counting.trips, counting.commands, counting.members)
        put(begin, begin + 10)
        trips, commands, members = (
            now - was for now, was in zip((counting.trips, counting.commands, counting.members), before, strict=True)
        )
        assert members == 10
        assert commands == 2 * trips
        assert trips <= 10
        costs.append(commands)
    writer.close(10)
    assert max(costs) <= 20
    assert cache.zcard(history_key("u", topic_prefix)) == 1_000
    assert read_histories(cache, ["u"], 2, topic_prefix) == {"u": ["i9998", "i9999"]}


def test_the_command_rebuilds_from_kafka(
    stack: Stack, redis_url: str, topic_prefix: str, cache: redis.Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`thalweg rebuild histories` needs no joiner, says how many records and users; --wipe removes what was there."""
    settings = Settings(kafka=stack.kafka, redis=redis_url, topic_prefix=topic_prefix, local=tmp_path, partitions=2)
    for name in ("kafka", "redis", "topic_prefix", "local", "partitions"):
        monkeypatch.setenv(f"THALWEG_{name.upper()}", str(getattr(settings, name)))
    apply_topics(settings, plan_topics(settings))
    log = KafkaLog(settings)
    for k in range(20):
        log.send(*history_record(HistoryChange(f"u{k % 3}", f"i{k}", k), 2))
    log.send(*history_record(HistoryChange("u0", "i0", None), 2))
    log.close()
    cache.zadd(history_key("stale", topic_prefix), {"a": 1})
    report = tmp_path / "rebuilt.json"
    for words, users in (([], 4), (["--wipe"], 3)):
        ran = CliRunner().invoke(app, ["rebuild", "histories", *words, "--json", str(report)])
        assert ran.exit_code == 0, ran.output
        figures = json.loads(report.read_text())
        assert (figures["records"], figures["users"]) == (21, users)
    assert read_histories(cache, ["u0", "stale"], 9, topic_prefix) == {
        "u0": ["i3", "i6", "i9", "i12", "i15", "i18"], "stale": [],
    }  # fmt: skip


T = 1_700_000_000_000


def install(at_ms: int, install_id: str = "i", item: str = "a", *, back: bool = False) -> Install:
    """Of user u, so long after T; or the retraction of it."""
    return Install("u", item, T + at_ms, install_id, retracted=back)


@pytest.mark.parametrize(
    ("events", "wanted"),
    [
        ([install(1), install(2, back=True), install(1)], {}),
        ([install(2, back=True), install(1)], {}),
        ([install(1), install(5, "j"), install(6, back=True)], {"a": 5}),
        ([install(1), install(5, "j"), install(6, "j", back=True)], {"a": 1}),
        ([install(50), install(20, "j")], {"a": 50}),
        ([install(1), install(2, item="b", back=True)], {}),
        ([install(1), install(2, back=True), install(3, "j")], {"a": 3}),
        ([install(5, back=True), install(9)], {"a": 9}),
        ([install(1), install(3, "k", "b"), install(1)], {"a": 1, "b": 3}),
        ([install(9_000, "k", "b"), install(1)], {"a": 1, "b": 9_000}),  # late: no label comes of it, but a history
    ],
)
def test_a_history_is_what_the_join_knows(
    events: list[Install], wanted: dict[str, int], cache: redis.Redis, topic_prefix: str
) -> None:
    """Repeated, out of order, taken back before or after: topic and Redis have the newest install that counts."""
    writer = HistoryWriter(cache, topic_prefix)
    partitions = {EVENTS.name: 1, EXAMPLES.name: 1, HISTORIES.name: 1}
    processor = RecordProcessor(JoinerOptions(), partitions, writer, Tally())
    state = PartitionState(Joiner(LabelRules("eager", window_ms=1_000)), 0, 0, PoisonDetector(0))
    source = MemoryLog({HISTORIES.name: 1}, lambda: T)
    for k, event in enumerate(events):
        record = Record(EVENTS.name, 0, k, T + 100_000, None, encode_record([event]))
        for topic, partition, told, key in written(processor, state, [record], partitions):
            if topic == EVENTS_DLQ.name:  # one that came too late: its history is known all the same
                continue
            assert topic == HISTORIES.name
            source.send(topic, partition, told, key)
    wait_until(lambda: writer.pending == 0)
    writer.close(10)
    topic_says = decode_changes(source.reader(HISTORIES.name, {0: 0}).poll(0))
    assert {item: at - T for (_, item), at in topic_says.items() if at is not None} == wanted

    def cached() -> dict[str, int]:
        found: Any = cache.zrange(history_key("u", topic_prefix), 0, -1, withscores=True)
        return {item.decode(): at - T for item, at in found}

    assert cached() == wanted
    wipe_histories(cache, topic_prefix)
    rebuild_histories(cache, source, topic_prefix, wait=lambda: None)
    assert cached() == wanted


def test_what_waits_keeps_that_a_later_time_was_taken_back(cache: redis.Redis, topic_prefix: str) -> None:
    """Changes of one item that wait are one change; it must still lower what Redis has, also after a failure."""
    cache.zadd(history_key("u", topic_prefix), {"a": 9, "b": 9, "c": 9})
    flaky = Flaky(cache)
    writer = HistoryWriter(flaky, topic_prefix)
    for item in ("a", "b", "c"):
        writer.put("u", item, None)
    assert flaky.asked.wait(10)
    for item, newest in (("a", True), ("b", False)):
        writer.put("u", item, 5, newest)
    flaky.up = True
    wait_until(lambda: writer.pending == 0)
    writer.close(10)
    assert cache.zrange(history_key("u", topic_prefix), 0, -1, withscores=True) == [(b"a", 5.0), (b"b", 5.0)]
