"""What the demo measures, and how: freshness, open-loop latency, replies recomputed, rates, screens."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from producers.store.rankers import LogRankers
from stream.events.codec import decode_requests, encode_record
from stream.events.topics import EVENTS, ITEMS, REPLIES, REQUESTS
from stream.events.types import EXPIRED, FAILED, SHED, Impression, RankReply
from stream.log.memory_log import MemoryLog
from stream.log.protocol import START, partition_of
from stream.runtime.settings import Settings
from stream.snapshots.manifest import Manifest, PartVersion
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.payload import digest_of
from stream.spec.spec_file import load_spec
from thalweg.demo.caller import Caller
from thalweg.demo.freshness import DemoFreshness, percentile
from thalweg.demo.monitor import DemoMonitor, RateMeter
from thalweg.demo.open_loop_client import UNANSWERED_S, OpenLoopClient, RequestOutcome
from thalweg.demo.rescore import rescore
from thalweg.demo.screen import Screen, ScreenState, line, panel
from thalweg.demo.services import DemoServices, Interrupts
from thalweg.kernels import miniature
from thalweg.room_kernels import SPEC
from thalweg.views.tables import moves_table

DIGEST = digest_of(b"")


def manifest(version: int, parent: int, ingest_ms: list[int], deep_version: int = 0) -> Manifest:
    """A manifest without contents."""
    parts = {"deep": PartVersion([DIGEST], version=deep_version)} if deep_version else {}
    return Manifest("m", version, parent, "", b"", 1, {0: 0}, 0, 0, 0, 0, {}, parts, ingest_ms)


@pytest.fixture
def store() -> MemoryStore:
    """Versions 1, 2 and 4, each with its installs."""
    found = MemoryStore("m")
    token = found.take_token()
    for one in (manifest(1, 0, [100]), manifest(2, 1, [150, 160]), manifest(4, 2, [300])):
        found.publish(msgspec.structs.replace(one, token=token))
    return found


def test_an_install_is_served_by_the_first_answer_of_a_version_that_has_it(store: MemoryStore) -> None:
    """What a skipped version learned counts with the next version that answers; nothing counts twice."""
    fresh = DemoFreshness(store)
    fresh.add_reply(1, 1_000, 900)
    assert (fresh.served_ms, fresh.servable_ms) == ([900.0], [800.0])
    fresh.add_reply(4, 2_000, 1_500)
    fresh.add_reply(4, 3_000, 1_500)
    fresh.add_reply(2, 3_000, 1_500)  # an old reply that comes late
    assert sorted(fresh.served_ms) == [900.0, 1_700.0, 1_840.0, 1_850.0]
    assert fresh.version == 4


def test_an_install_is_served_by_the_deep_part_that_has_it() -> None:
    """It may come later than wide and statistics: with the first answer whose deep part was cut since."""
    store = MemoryStore("m")
    token = store.take_token()
    store.put_blobs({DIGEST: b""})
    for version, installs, deep in ((1, [100], 1), (2, [200], 1), (3, [300, 310], 1), (4, [400], 3), (5, [500], 5)):
        store.publish(msgspec.structs.replace(manifest(version, version - 1, installs, deep), token=token))
    fresh = DemoFreshness(store)
    waits = []
    for version, now_ms in ((1, 1_000), (3, 2_000), (4, 3_000), (4, 4_000), (5, 5_000)):
        fresh.add_reply(version, now_ms, now_ms)
        waits.append(sorted(fresh.served_deep_ms))
    first, third = [900.0], [900.0, 2_690.0, 2_700.0, 2_800.0]
    assert waits == [first, first, third, third, sorted([*third, 4_600.0, 4_500.0])]
    assert len(fresh.served_ms) == 6


def test_without_a_deep_part_nothing_is_served_by_it(store: MemoryStore) -> None:
    """Nor is it known where publishers of the first release don't say: no figure, rather than a wrong one."""
    fresh = DemoFreshness(store)
    for version in (1, 4):
        fresh.add_reply(version, 1_000, 900)
    assert (len(fresh.served_ms), fresh.served_deep_ms) == (4, [])


def test_percentiles_are_exact_and_of_nothing_nothing() -> None:
    """The p-th percentile is interpolated between values; without any it is None, not 0."""
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0
    assert percentile([], 50) is None


def world(log: MemoryLog, stop: threading.Event, delay_s: float, silent: int) -> Iterator[None]:
    """A ranker that answers after `delay_s`, but for every `silent`-th request (0: answers all)."""
    reader = log.reader(REQUESTS.name, dict.fromkeys(range(2), START))
    number = 0
    while not stop.is_set():
        for record in reader.poll(0.01):
            for request in decode_requests(record.value or b"")[0]:
                number += 1
                if silent and number % silent == 0:
                    continue
                time.sleep(delay_s)
                reply = RankReply(request.request_id, request.user, ["a"], [0.5], 1, time_ms=request.time_ms)
                log.send(REPLIES.name, partition_of(request.request_id, 2), encode_record([reply]))
    yield


@pytest.fixture
def memory_log() -> MemoryLog:
    """All topics that a caller needs, two partitions each."""
    return MemoryLog({t.name: 2 for t in (EVENTS, REQUESTS, REPLIES, ITEMS)}, lambda: 7)


def asked(
    log: MemoryLog, delay_s: float, silent: int, rps: float, count: int, appears: str = "u"
) -> list[RequestOutcome]:
    """What a client observes of the first `count` requests and those under way; `appears`: who is seen meanwhile."""
    stop = threading.Event()
    ranker = threading.Thread(target=lambda: list(world(log, stop, delay_s, silent)))
    ranker.start()
    client = OpenLoopClient(log, LogRankers(log), rps, sample_every=2)
    client.start()
    if appears:
        log.send(EVENTS.name, 0, encode_record([Impression("p", 1_000, appears, ["a"])]))
    seen: list[RequestOutcome] = []
    while len(seen) < count:
        seen += client.take()
        time.sleep(0.01)
    client.stop()
    while client.running:
        time.sleep(0.01)
    seen += client.take()
    client.close()
    stop.set()
    ranker.join()
    return seen


def test_an_open_loop_asks_on_while_answers_are_slow(memory_log: MemoryLog) -> None:
    """A ranker that takes longer than the gap between requests shows in rising latencies: no request is held back."""
    seen = asked(memory_log, delay_s=0.02, silent=0, rps=200.0, count=10)
    latency_ms = [one.latency_ms for one in seen]
    assert latency_ms[9] > latency_ms[0] + 5 * (20 - 5)
    assert {one.user for one in seen} == {"u"}
    assert sum(one.reply is not None for one in seen) == len(seen) // 2


def test_who_appeared_before_it_began_is_asked_for(memory_log: MemoryLog) -> None:
    """A replay that was over when the client came is asked for too, whatever partition its users are of."""
    memory_log.send(EVENTS.name, 1, encode_record([Impression("p", 1_000, "early", ["a"])]))
    seen = asked(memory_log, delay_s=0.0, silent=0, rps=100.0, count=3, appears="")
    assert {one.user for one in seen} == {"early"}


def test_a_demo_is_done_when_what_was_learned_has_answered(tmp_path: Path, store: MemoryStore) -> None:
    """A replay that was learned before anybody was asked isn't over yet: its figures would be of nothing. Nor is one
    whose last version hasn't answered, or that has none yet."""
    with Interrupts() as interrupts:
        monitor = DemoMonitor(DemoServices(Settings(local=tmp_path), interrupts, print), DemoFreshness(store), 1, "")
    monitor.examples_wanted = 1.0
    assert not monitor.done
    monitor.examples = 1
    done = []
    for wanted, answered in ((0, 0), (2, 0), (2, 1), (2, 2)):
        monitor.version_wanted = wanted
        monitor.add([RequestOutcome("u", 1.0, version=answered)])
        done.append(monitor.done)
    assert done == [False, False, False, True]


def test_requests_that_the_ranker_refused_count_apart(tmp_path: Path, store: MemoryStore) -> None:
    """What it shed or found expired, beside all errors: a busy machine sheds, a bug doesn't."""
    with Interrupts() as interrupts:
        monitor = DemoMonitor(DemoServices(Settings(local=tmp_path), interrupts, print), DemoFreshness(store), 1, "")
        kinds = SHED, EXPIRED, FAILED, ""  # the last one: nobody answered
        monitor.add([RequestOutcome("u", 1.0, error="why", kind=kind) for kind in kinds])
        monitor.update()
    assert (monitor.state.figures["rank_errors"], monitor.state.figures["rank_shed"]) == (4, 2)


def test_what_nobody_answers_is_an_error(memory_log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request without a reply is counted, not forgotten."""
    monkeypatch.setattr("thalweg.demo.open_loop_client.UNANSWERED_S", 0.2)
    seen = asked(memory_log, delay_s=0.0, silent=2, rps=100.0, count=8)
    assert UNANSWERED_S > 0.2
    assert {one.error for one in seen} == {"", "no answer within 0.2 s"}


def test_a_page_that_was_seen_says_what_was_ranked(memory_log: MemoryLog) -> None:
    """The impression carries the time it was seen and the reply's request id, version, scores and features, unread."""
    reply = RankReply("r", "u", ["a", "b"], [0.9, 0.1], 7, features=b"opaque", time_ms=5_000)
    caller = Caller(memory_log, lambda: 6_000)
    caller.record_impression(reply)
    caller.close()
    reader = memory_log.reader(EVENTS.name, dict.fromkeys(range(2), START))
    (record,) = reader.poll(1.0)
    (page,) = msgspec.msgpack.decode(record.value or b"", type=list[Impression])
    assert page == Impression("r", 6_000, "u", ["a", "b"], "", 7, [0.9, 0.1], [], b"opaque")
    assert record.partition == partition_of("u", 2)


def test_an_install_has_the_logs_append_time(memory_log: MemoryLog) -> None:
    """Freshness counts from when the log took the install, not from when it was sent."""
    caller = Caller(memory_log)
    assert caller.install("u", "a", "r") == 7
    caller.close()


def test_a_reply_that_its_version_doesnt_explain_is_found() -> None:
    """Replies are scored again from what they carry: an altered score, or another version's number, is mixed."""
    store, replies = miniature(load_spec(SPEC))
    right = rescore(store, store.model, replies)
    assert (right.checked, right.mixed, right.unavailable) == (len(replies), 0, 0)
    altered = msgspec.structs.replace(replies[2], scores=[replies[2].scores[0] + 2e-5, *replies[2].scores[1:]])
    misnamed = msgspec.structs.replace(replies[3], version=replies[5].version)
    gone = msgspec.structs.replace(replies[0], version=99)
    wrong = rescore(store, store.model, [altered, misnamed, gone])
    assert (wrong.checked, wrong.mixed, wrong.unavailable) == (2, 2, 1)


def test_rates_are_of_the_last_moments() -> None:
    """A count that stopped growing has the rate 0 from the next update on."""
    rates = RateMeter()
    assert rates.update({"a": 0.0}, 0.0) == {"a": 0.0}
    assert rates.update({"a": 100.0}, 1.0) == {"a": 100.0}
    assert rates.update({"a": 400.0}, 3.0) == {"a": 150.0}
    assert rates.update({"a": 400.0}, 4.0) == {"a": 0.0}


def test_the_screen_stands_before_anything_is_known() -> None:
    """What isn't known is a dash; without a terminal there's a plain line and no control codes."""
    console = Console(width=150, record=True, force_terminal=False)
    with Screen(console) as screen:
        screen.show(ScreenState(phase="replaying"))
    deep_ms = {"freshness_deep_p50_ms": 987.0, "freshness_deep_p99_ms": 1_234.0}
    figures: dict[str, float | None] = {"auc_arrival": 0.75, **deep_ms}
    console.print(panel(ScreenState(phase="replaying", figures=figures)))
    said = console.export_text()
    assert "987 / 1,234 ms" in said
    assert line(ScreenState(phase="replaying")) in said
    assert "0.7500" in said
    assert "\x1b" not in said


def test_moves_are_told_item_by_item() -> None:
    """Who rose, who fell, who is new, and what was installed."""
    before = RankReply("r", "u", ["a", "b", "c"], [0.9, 0.8, 0.7], 1)
    after = RankReply("r", "u", ["c", "b", "d"], [0.9, 0.8, 0.7], 2)
    console = Console(width=150, record=True, force_terminal=False)
    console.print(moves_table(before, after, "a", {"c": "Sea"}))
    rows = [row for row in console.export_text().splitlines() if row.startswith("│")]
    assert "← installed" in rows[0]
    assert "Sea" in rows[0]
    assert "▲ 2" in rows[0]
    assert "▲" not in rows[1]
    assert "▼" not in rows[1]
    assert "new" in rows[2]
