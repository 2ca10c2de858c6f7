"""The player: puts a source's events into the topics, open loop, at a given pace."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from producers.clock import Clock
from producers.features import FeatureMaker
from producers.outbox import Outbox
from producers.source import Broken, Pause, Sourced, WorldEvent, first_pages
from stream.events.codec import encode
from stream.events.topics import EVENTS, ITEMS, USERS
from stream.events.types import Impression, Item, SourceEvent, Tick, User
from stream.features.statistics import Statistics
from stream.joiner.label_rules import label_rules
from stream.log.protocol import Log, partition_of
from stream.runtime.errors import BadEvent
from stream.spec.spec import Spec

REPORT_S: Final = 1.0
AHEAD_S: Final = 0.005  # a page may be so early: waking up for each would cost more than the page
SAID_MAX: Final = 20  # broken lines that are named; all are counted


@dataclass(frozen=True)
class Pace:
    """How fast: `rate` pages/s (None: as fast as it goes); how long an event may wait for others of its record."""

    rate: float | None = None
    linger_ms: int = 10

    def __post_init__(self) -> None:
        assert self.rate is None or self.rate > 0, self.rate
        assert self.linger_ms >= 0, self.linger_ms


@dataclass
class Played:
    """What has been played so far. `broken`: lines and events that couldn't be."""

    pages: int = 0
    installs: int = 0
    ticks: int = 0
    items: int = 0
    users: int = 0
    broken: int = 0
    examples: int = 0  # that the joiner tells for these events
    positives: int = 0
    late_ms_max: int = 0  # how far behind its pace the replay has been
    last_ms: int = 0  # greatest event time


@dataclass(frozen=True)
class ReplayResult:
    """What was played, how long it took, and the statistics of all its labels."""

    played: Played
    seconds: float
    statistics: Statistics


def replay(
    log: Log,
    source: Iterable[Sourced],
    *,
    spec: Spec,
    pace: Pace,
    limit: int | None = None,
    clock: Clock,
    say: Callable[[str], None],
    progress: Callable[[Played], None] = lambda played: None,
    stop: Callable[[], bool] = lambda: False,
) -> ReplayResult:
    """Play `source` into the topics until its end, `limit` pages or `stop`; then tick, so that all windows close.

    Pages without features get them as a ranker would have made them. While no broker answers it waits and tries
    again. `say` gets lines for a person, `progress` the counts about once a second. Raises LogError.
    """
    if limit is not None:
        source = first_pages(source, limit, label_rules(spec).window_ms)
    player = _Player(log, FeatureMaker(spec, log.partitions(EVENTS.name)), pace, clock, say, progress, stop)
    started_s = clock.now_s()
    for event in source:
        if stop():
            break
        player.play(event)
    player.close_windows(label_rules(spec).window_ms + label_rules(spec).lateness_ms + 1)
    player.outbox.settle()
    progress(player.played)
    return ReplayResult(player.played, clock.now_s() - started_s, player.maker.statistics)


class _Player:
    def __init__(
        self,
        log: Log,
        maker: FeatureMaker,
        pace: Pace,
        clock: Clock,
        say: Callable[[str], None],
        progress: Callable[[Played], None],
        stop: Callable[[], bool],
    ) -> None:
        self.maker, self.played = maker, Played()
        self.outbox = Outbox(log, clock, pace.linger_ms / 1_000, say, stop)
        self._pace, self._clock, self._say, self._progress, self._stop = pace, clock, say, progress, stop
        self._parts = {topic: log.partitions(topic) for topic in (EVENTS.name, ITEMS.name, USERS.name)}
        self._first_page_s: float | None = None
        self._reported_s = clock.now_s()

    def play(self, event: Sourced) -> None:
        """One event, at its time."""
        if isinstance(event, Broken):
            self._refuse(event)
        elif isinstance(event, Pause):
            self.outbox.send_due()
        else:
            if isinstance(event, Impression):
                self._wait_for_turn()
            try:
                self._put(event)
            except BadEvent as bad:
                self._refuse(Broken(f"page {event.request_id}" if isinstance(event, Impression) else "event", str(bad)))
        if self._clock.now_s() >= self._reported_s + REPORT_S:
            self._reported_s = self._clock.now_s()
            self._progress(self.played)

    def close_windows(self, after_ms: int) -> None:
        """Tick so far after the last event that every window is over; but never into the future."""
        at_ms = min(self.played.last_ms + after_ms, self._clock.wall_ms())
        if at_ms > self.played.last_ms > 0:
            self._put(Tick(at_ms))

    def _put(self, event: WorldEvent) -> None:
        """Into its topic, by way of the feature maker."""
        taken = self.maker.take(event)
        played, event = self.played, taken.event
        if isinstance(event, Item):
            played.items += 1
            self._put_entity(ITEMS.name, event.item, event)
        elif isinstance(event, User):
            played.users += 1
            self._put_entity(USERS.name, event.user, event)
        else:
            played.last_ms = max(played.last_ms, event.time_ms)
            self._put_event(event)
        for examples in taken.examples:
            played.examples += len(examples.labels)
            played.positives += sum(examples.labels)

    def _put_entity(self, topic: str, key: str, entity: Item | User) -> None:
        self.outbox.send(topic, partition_of(key, self._parts[topic]), encode(entity), key.encode())

    def _put_event(self, event: SourceEvent) -> None:
        raw, partitions = encode(event), self._parts[EVENTS.name]
        if isinstance(event, Tick):
            self.played.ticks += 1
            for partition in range(partitions):
                self.outbox.gather(partition, raw)
            return
        self.outbox.gather(partition_of(event.user, partitions), raw)
        if isinstance(event, Impression):
            self.played.pages += 1
        else:
            self.played.installs += 1

    def _wait_for_turn(self) -> None:
        """Until the next page is due, counted from the first one: what came late doesn't push the rest back."""
        clock, outbox = self._clock, self.outbox
        if self._first_page_s is None:
            self._first_page_s = clock.now_s()
        outbox.send_due()
        if self._pace.rate is None:
            return
        due_s = self._first_page_s + self.played.pages / self._pace.rate
        self.played.late_ms_max = max(self.played.late_ms_max, round((clock.now_s() - due_s) * 1_000))
        if due_s - clock.now_s() <= AHEAD_S:
            return
        while (now_s := clock.now_s()) < due_s and not self._stop():
            clock.sleep(max(0.0, min(due_s, outbox.due_s) - now_s))
            outbox.send_due()

    def _refuse(self, broken: Broken) -> None:
        self.played.broken += 1
        if self.played.broken <= SAID_MAX:
            self._say(f"{broken.where} left out: {broken.reason}")
        elif self.played.broken == SAID_MAX + 1:
            self._say("more broken lines follow: from here on they are only counted")
