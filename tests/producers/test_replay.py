"""The player: what it writes, when, and what it says when something is wrong."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.replay import ReplayOptions, ReplayResult, replay
from producers.source import PAUSE, InvalidEvent, SourceElement, WorldEvent
from stream.events.codec import decode_entity, decode_events
from stream.events.topics import NAMES, TOPICS
from stream.events.types import Examples, FeatureName, Impression, Install, Item, SourceEvent, Tick, User
from stream.joiner.join import Joiner
from stream.joiner.label_rules import label_rules
from stream.log.memory_log import MemoryLog
from stream.log.protocol import Record, partition_of
from stream.runtime.errors import LogUnavailable
from stream.spec.spec import Spec
from tests.support.producer_worlds import START_MS, Hands, install, page, statistics_of, tick, tiny_spec, worlds

PARTITIONS = 3


def memory() -> MemoryLog:
    """A log with all topics, in memory."""
    return MemoryLog({topic.name: topic.partitions or PARTITIONS for topic in TOPICS}, lambda: 7)


def play(log: MemoryLog, source: Iterable[SourceElement], hands: Hands | None = None, **options: Any) -> ReplayResult:
    """Replay `source` into `log` under a clock that only sleeping moves."""
    hands = hands or Hands()
    given: dict[str, Any] = {"spec": tiny_spec(), "options": ReplayOptions(), "notify": lambda line: None}
    return replay(log, source, clock=hands.clock(), **{**given, **options})


def records(log: MemoryLog, topic: str = "events") -> list[Record]:
    """All records of a topic."""
    reader = log.reader(topic, log.starts(topic))
    found: list[Record] = []
    while more := reader.poll(0):
        found += more
    return found


def written(log: MemoryLog) -> dict[int, list[SourceEvent]]:
    """The events per partition, as a joiner takes them."""
    events: dict[int, list[SourceEvent]] = {p: [] for p in range(PARTITIONS)}
    for record in records(log):
        good, bad = decode_events(record.value or b"")
        assert bad == []
        events[record.partition] += good
    return events


def bare(event: SourceEvent) -> SourceEvent:
    """The event without features."""
    return msgspec.structs.replace(event, features=b"") if isinstance(event, Impression) else event


def user_partition(event: WorldEvent) -> int | None:
    """Where an event of a user belongs."""
    return partition_of(event.user, PARTITIONS) if isinstance(event, Impression | Install) else None


def joined(spec: Spec, log: MemoryLog) -> list[Examples]:
    """What joiners emit that read the log."""
    joiners = [Joiner(label_rules(spec)) for _ in range(PARTITIONS)]
    return [
        examples
        for record in records(log)
        for examples in joiners[record.partition].feed(decode_events(record.value or b"")[0], record.offset, 4 * 10**12)
    ]


@given(worlds)
def test_everything_is_written_once_in_order(world: list[WorldEvent]) -> None:
    """Each event stands in its user's partition, in the source's order; a tick in every one; entities by key."""
    log = memory()
    play(log, world)
    times = [e.time_ms for e in world if not isinstance(e, Item | User)]
    end = [Tick(max(times) + 2_001)] if times else []
    for partition, events in written(log).items():
        expected = [e for e in world if isinstance(e, Tick) or user_partition(e) == partition]
        assert list(map(bare, events)) == expected + end
        assert all(e.features for e in events if isinstance(e, Impression))
    for topic, kind, key in (("items", Item, "item"), ("users", User, "user")):
        found = [(r.key, decode_entity(r.value or b"", kind), r.partition) for r in records(log, topic)]
        given = Counter(getattr(e, key).encode() for e in world if isinstance(e, kind))
        assert Counter(name for name, _, _ in found) == given
        assert all(p == partition_of(getattr(e, key), PARTITIONS) for _, e, p in found)


@given(worlds, st.sampled_from(["wait", "eager", "fake_negative"]))
def test_its_statistics_are_those_of_whoever_learns_the_log(world: list[WorldEvent], policy: str) -> None:
    """Joining the written records and learning all examples gives the statistics that the replay kept."""
    spec, log = tiny_spec(policy), memory()
    result = play(log, world, spec=spec)
    emitted = joined(spec, log)
    expected = statistics_of(spec, emitted).rows()
    kept = result.statistics.rows()
    expected, kept = expected[np.argsort(expected[:, 0])], kept[np.argsort(kept[:, 0])]
    assert (expected[:, 0] == kept[:, 0]).all()
    np.testing.assert_allclose(kept[:, 1:].copy().view(np.float64), expected[:, 1:].copy().view(np.float64), atol=1e-9)
    assert result.played.examples == sum(len(examples.ids) for examples in emitted)
    assert result.played.positives == sum(sum(examples.labels) for examples in emitted)


def test_records_keep_their_bounds() -> None:
    """A record has at most 64 events and half a MiB, however fast the source is."""
    log = memory()
    wide = [f"{i:0400}" for i in range(100)]
    source = [page(f"s{n}", n) for n in range(200)]
    source += [Impression(f"w{n}", START_MS + 1_000 + n, "u", wide) for n in range(40)]
    play(log, source)
    sizes = [(len(decode_events(r.value or b"")[0]), len(r.value or b"")) for r in records(log)]
    assert max(n for n, _ in sizes) == 64
    assert 256 * 1024 < max(size for _, size in sizes) <= 512 * 1024 + 8


def test_the_pace_is_kept_by_the_clock() -> None:
    """Page n is played at start + n / rate: installs take no turn, and what takes time isn't added up."""
    hands = Hands()
    asked: list[float] = []

    def source() -> Iterable[SourceElement]:
        for n in range(70):
            asked.append(hands.now_s)
            yield page(f"r{n}", n)
            yield install(f"i{n}", n, request_id=f"r{n}")
            hands.now_s += 0.003  # the source's own work
            if n == 20:
                hands.now_s += 0.2  # a hiccup

    play(memory(), source(), hands, options=ReplayOptions(100.0))
    # A page is asked for when the one before was played, and 3 ms more.
    due = [1_000 + (n - 1) / 100 + 0.003 for n in range(70)]
    assert asked[1:21] == pytest.approx(due[1:21], abs=1e-6)
    assert asked[21] > due[21] + 0.1
    assert asked[60:] == pytest.approx(due[60:], abs=1e-6)


def test_how_late_it_was_is_told() -> None:
    """`late_ms_max` is the furthest that a page was behind its turn."""
    hands = Hands()

    def source() -> Iterable[SourceElement]:
        yield page("r0", 0)
        hands.now_s += 0.5
        yield page("r1", 1)

    assert play(memory(), source(), hands, options=ReplayOptions(10.0)).played.late_ms_max == 400


def test_an_event_waits_no_longer_than_the_linger() -> None:
    """At a slow pace a page is in the log `linger_ms` after it was played, before the next one is due."""
    hands, log = Hands(), memory()
    found: list[tuple[float, int]] = []
    real = log.send

    def send(topic: str, partition: int, value: bytes | None, key: bytes | None = None) -> None:
        found.append((hands.now_s, len(decode_events(value or b"")[0])))
        real(topic, partition, value, key)

    log.send = send  # type: ignore[method-assign]
    play(log, [page("r0", 0), page("r1", 0), page("r2", 0)], hands, options=ReplayOptions(1.0, linger_ms=10))
    assert [n for _, n in found[:2]] == [1, 1]
    assert [at for at, _ in found[:2]] == pytest.approx([1_000.01, 1_001.01], abs=1e-6)


def test_a_pause_sends_what_has_waited() -> None:
    """A live source that has nothing to say for now doesn't keep what it said."""
    hands, log = Hands(), memory()

    def source() -> Iterable[SourceElement]:
        yield page("r0", 0)
        yield PAUSE
        assert records(log) == []
        hands.now_s += 0.02
        yield PAUSE
        assert len(records(log)) == 1
        yield page("r1", 0)

    assert play(log, source(), hands).played.pages == 2


def test_the_last_tick_never_lies_in_the_future() -> None:
    """Windows that are still open when the source ends are left to the joiner."""
    log = memory()
    play(log, [page("r0", 0)], Hands(wall_ms=START_MS + 500))
    assert {events[-1] for events in written(log).values()} == {tick(500)}
    log = memory()
    play(log, [page("r0", 0)], Hands(wall_ms=START_MS))
    assert Tick not in {type(event) for events in written(log).values() for event in events}


def test_broken_pieces_are_named_counted_and_left_out() -> None:
    """The first twenty are named with location and reason, all are counted, valid ones are replayed."""
    log, said = memory(), list[str]()
    source: list[SourceElement] = [InvalidEvent(f"line {n}", "no") for n in range(30)]
    source += [Impression("bad", START_MS, "u", ["a"], features=b"12345678" * 3), page("r0", 0)]
    played = play(log, source, notify=said.append).played
    assert (played.broken, played.pages) == (31, 1)
    assert said[0] == "line 0 left out: no"
    assert len(said) == 21
    said.clear()
    play(memory(), source[-2:], notify=said.append)
    assert len(said) == 1
    assert said[0].startswith("page bad left out: features were made for another spec")


def test_limit_and_stop() -> None:
    """Both end the replay as the source's end does: with ticks."""
    source = [page(f"r{n}", n * 10_000) for n in range(9)]
    log = memory()
    assert play(log, source, options=ReplayOptions(limit=4)).played.pages == 4
    assert {events[-1] for events in written(log).values()} == {tick(30_000 + 2_001)}
    log, asked = memory(), iter([False, False, True])
    assert play(log, source, stop=lambda: next(asked, True)).played.pages == 2
    assert {events[-1] for events in written(log).values()} == {tick(10_000 + 2_001)}


class Flaky(MemoryLog):
    """A log that is away at the given calls; what was sent since the last good flush is lost then."""

    def __init__(self, away: set[int]) -> None:
        super().__init__({topic.name: topic.partitions or PARTITIONS for topic in TOPICS}, lambda: 7)
        self.away, self.calls = away, 0
        self.waiting: list[tuple[str, int, bytes | None, bytes | None]] = []

    def send(self, topic: str, partition: int, value: bytes | None, key: bytes | None = None) -> None:
        """Take it, or be away."""
        self._call()
        self.waiting.append((topic, partition, value, key))

    def flush(self, timeout_s: float = 10.0) -> None:
        """Write what was taken, or be away."""
        self._call()
        for sent in self.waiting:
            super().send(*sent)
        self.waiting.clear()

    def _call(self) -> None:
        self.calls += 1
        if self.calls in self.away:
            self.waiting.clear()
            raise LogUnavailable("no Kafka broker answers at nowhere:1")


@given(st.sets(st.integers(1, 40), max_size=8))
def test_nothing_is_lost_while_the_log_is_away(away: set[int]) -> None:
    """Whatever the log lost is sent again in order; the replay says so in one line, waits ever longer, goes on."""
    log, hands, said = Flaky(away), Hands(), list[str]()
    source: list[Impression | Install] = []
    for n in range(60):
        source += [page(f"r{n}", 1_000 * n, user=f"u{n % 7}"), install(f"i{n}", 1_000 * n)]
    play(log, source, hands, options=ReplayOptions(20.0), notify=said.append)
    for partition, events in written(log).items():
        once = [bare(event) for at, event in enumerate(events) if event not in events[:at]]
        assert once == [*(e for e in source if user_partition(e) == partition), tick(59_000 + 2_001)]
    met = {call for call in away if call <= log.calls}
    assert sum("the replay waits" in line for line in said) == sum("answers again" in line for line in said)
    assert bool(said) == bool(met)


def test_waiting_for_the_log_ends_when_told_to_stop() -> None:
    """A replay that is stopped while no broker answers raises what the log said."""
    hands = Hands()
    with pytest.raises(LogUnavailable, match="nowhere"):
        play(Flaky(set(range(1, 10_000))), [page("r0", 0)], hands, stop=lambda: len(hands.slept) >= 6)
    assert hands.slept == [0.5, 1.0, 2.0, 5.0, 5.0, 5.0]


def test_progress_comes_about_once_a_second() -> None:
    """The counts are reported while it plays, and at its end."""
    reports: list[int] = []
    source = [page(f"r{n}", n) for n in range(50)]
    play(memory(), source, options=ReplayOptions(10.0), progress=lambda played: reports.append(played.pages))
    assert reports == [11, 21, 31, 41, 50]


def test_values_of_contexts_are_named() -> None:
    """Whoever computes a page's features names what only the page's context says, each value once."""
    log = memory()
    play(log, [page(f"r{n}", n, device=device) for n, device in enumerate(("tv", "car", "tv"))])
    found = [decode_entity(record.value or b"", FeatureName) for record in records(log, NAMES.name)]
    assert found == [FeatureName("context.device", "tv"), FeatureName("context.device", "car")]
    ranked = [one for events in written(log).values() for one in events if isinstance(one, Impression)]
    again = memory()
    play(again, [msgspec.structs.replace(one, context={"device": "fridge"}) for one in ranked])
    assert len(ranked) == 3
    assert records(again, NAMES.name) == []
