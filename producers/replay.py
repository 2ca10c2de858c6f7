"""Replays a source's events into the topics, open loop, at a given rate."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from producers.batching_producer import BatchingProducer
from producers.clock import Clock
from producers.features import FeatureBuilder, JoinedEvent, PreparedEvent
from producers.source import InvalidEvent, Pause, SourceElement, WorldEvent, first_pages
from stream.events.codec import encode
from stream.events.topics import EVENTS, ITEMS, NAMES, USERS
from stream.events.types import Erase, Impression, Install, Item, RetiredItem, SourceEvent, Tick, User
from stream.features.new_values import NewValues
from stream.features.statistics import Statistics
from stream.joiner.label_rules import label_rules
from stream.log.format_level import check_erasable
from stream.log.protocol import Log, partition_of
from stream.runtime.errors import BadEvent
from stream.spec.spec import Spec

REPORT_S: Final = 1.0
EARLY_S: Final = 0.005  # a page may be this early: waking up for each one costs more than the page
JOINED_EVENTS: Final = 64  # at once, where they are due already
REPORTED_MAX: Final = 20  # invalid events that are reported one by one; all are counted


@dataclass(frozen=True)
class ReplayOptions:
    """`rate`: pages/s (None: unlimited). `linger_ms`: how long an event may wait for others of its record. `limit`:
    pages to replay (None: all)."""

    rate: float | None = None
    linger_ms: int = 10
    limit: int | None = None

    def __post_init__(self) -> None:
        assert self.rate is None or self.rate > 0, self.rate
        assert self.linger_ms >= 0, self.linger_ms


@dataclass
class ReplayCounts:
    """Counts of what was replayed so far. `broken`: invalid lines and events."""

    pages: int = 0
    installs: int = 0
    ticks: int = 0
    items: int = 0
    users: int = 0
    broken: int = 0
    erased: int = 0  # users
    retired: int = 0  # items
    examples: int = 0  # that the joiner emits for these events
    positives: int = 0
    late_ms_max: int = 0  # the furthest that the replay was behind its rate
    last_ms: int = 0  # greatest event time


@dataclass(frozen=True)
class ReplayResult:
    """Counts, duration, and the statistics of all emitted labels."""

    played: ReplayCounts
    seconds: float
    statistics: Statistics


def replay(
    log: Log,
    source: Iterable[SourceElement],
    *,
    spec: Spec,
    options: ReplayOptions,
    clock: Clock,
    notify: Callable[[str], None],
    progress: Callable[[ReplayCounts], None] = lambda played: None,
    stop: Callable[[], bool] = lambda: False,
) -> ReplayResult:
    """Replay `source` into the topics until its end, the limit or `stop`; then tick, so that all windows close.

    Pages without features get those that a ranker would have logged. While no broker answers, it waits and retries.
    `notify` is called with messages for a person, `progress` with the counts about once a second. Raises LogError.
    """
    rules = label_rules(spec)
    if options.limit is not None:
        source = first_pages(source, options.limit, rules.window_ms)
    player = _Player(log, FeatureBuilder(spec, log.partitions(EVENTS.name)), options, clock, notify, progress, stop)
    started_s = clock.now_s()
    for event in source:
        if stop():
            break
        player.play(event)
    player.put_prepared()
    player.close_windows(rules.window_ms + rules.lateness_ms + 1)
    player.producer.flush()
    progress(player.played)
    return ReplayResult(player.played, clock.now_s() - started_s, player.features.statistics)


class _Player:
    def __init__(
        self,
        log: Log,
        features: FeatureBuilder,
        options: ReplayOptions,
        clock: Clock,
        notify: Callable[[str], None],
        progress: Callable[[ReplayCounts], None],
        stop: Callable[[], bool],
    ) -> None:
        self.features, self.played = features, ReplayCounts()
        self.producer = BatchingProducer(log, clock, options.linger_ms / 1_000, notify, stop)
        self._rate, self._clock, self._notify, self._progress, self._stop = options.rate, clock, notify, progress, stop
        self._partitions_of = log.partitions
        self._partitions = {topic: log.partitions(topic) for topic in (EVENTS.name, ITEMS.name, USERS.name)}
        self._values = NewValues(clock.wall_ms)
        self._prepared: list[PreparedEvent] = []
        self._pages = 0  # put or prepared
        self._first_page_s: float | None = None
        self._reported_s = clock.now_s()

    def play(self, event: SourceElement) -> None:
        """Write one event when it's due."""
        if isinstance(event, InvalidEvent):
            self._reject(event)
        elif isinstance(event, Pause):
            self.put_prepared()
            self.producer.send_due()
        elif isinstance(event, RetiredItem):
            self.put_prepared()  # the item may be described before
            self.played.retired += 1
            self.features.retire(event.item)
            self._put_entity(ITEMS.name, event.item, None)
        else:
            self._prepare(event)
        if self._clock.now_s() >= self._reported_s + REPORT_S:
            self._reported_s = self._clock.now_s()
            self.put_prepared()
            self._progress(self.played)

    def close_windows(self, after_ms: int) -> None:
        """Tick `after_ms` after the last event, when every window has closed; but never into the future."""
        at_ms = min(self.played.last_ms + after_ms, self._clock.wall_ms())
        if at_ms > self.played.last_ms > 0:
            self._prepare(Tick(at_ms))
            self.put_prepared()

    def put_prepared(self) -> None:
        """Join and write the events that were prepared: many at once cost less."""
        prepared, self._prepared = self._prepared, []
        for joined in self.features.join(prepared):
            self._put(joined)
        for key, value in self._values.take():
            self.producer.send(NAMES.name, 0, value, key)

    def _prepare(self, event: WorldEvent) -> None:
        if isinstance(event, Erase):
            check_erasable(self._partitions_of)
        if isinstance(event, Impression):
            self._wait_until_due()
        try:
            self._prepared.append(self.features.prepare(event))
        except BadEvent as error:
            location = f"page {event.request_id}" if isinstance(event, Impression) else "event"
            self._reject(InvalidEvent(location, str(error)))
            return
        if isinstance(event, Impression):
            self._pages += 1
            if not event.features:  # else a ranker has named them
                self._values.note(self.features.layout, event.context)
        if len(self._prepared) == JOINED_EVENTS:
            self.put_prepared()

    def _put(self, joined: JoinedEvent) -> None:
        played, event = self.played, joined.event
        if isinstance(event, Item):
            played.items += 1
            self._put_entity(ITEMS.name, event.item, event)
        elif isinstance(event, User):
            played.users += 1
            self._put_entity(USERS.name, event.user, event)
        else:
            played.last_ms = max(played.last_ms, event.time_ms)
            self._put_event(event)
        for examples in joined.examples:
            played.examples += len(examples.labels)
            played.positives += sum(examples.labels)

    def _put_entity(self, topic: str, key: str, entity: Item | User | None) -> None:
        """A record of a compacted topic; None: its tombstone."""
        value = None if entity is None else encode(entity)
        self.producer.send(topic, partition_of(key, self._partitions[topic]), value, key.encode())

    def _put_event(self, event: SourceEvent) -> None:
        raw, partitions = encode(event), self._partitions[EVENTS.name]
        if isinstance(event, Tick):
            self.played.ticks += 1
            for partition in range(partitions):
                self.producer.append(partition, raw)
            return
        self.producer.append(partition_of(event.user, partitions), raw)
        if isinstance(event, Erase):
            self.played.erased += 1
            self._put_entity(USERS.name, event.user, None)
        self.played.pages += isinstance(event, Impression)
        self.played.installs += isinstance(event, Install)

    def _wait_until_due(self) -> None:
        """Wait for the next page's due time, which is counted from the first page: a late page delays no other."""
        clock, producer = self._clock, self.producer
        if self._first_page_s is None:
            self._first_page_s = clock.now_s()
        producer.send_due()
        if self._rate is None:
            return
        due_s = self._first_page_s + self._pages / self._rate
        self.played.late_ms_max = max(self.played.late_ms_max, round((clock.now_s() - due_s) * 1_000))
        if due_s - clock.now_s() <= EARLY_S:
            return
        self.put_prepared()
        while (now_s := clock.now_s()) < due_s and not self._stop():
            clock.sleep(max(0.0, min(due_s, producer.due_s) - now_s))
            producer.send_due()

    def _reject(self, event: InvalidEvent) -> None:
        self.played.broken += 1
        if self.played.broken <= REPORTED_MAX:
            self._notify(f"{event.location} left out: {event.reason}")
        elif self.played.broken == REPORTED_MAX + 1:
            self._notify("more invalid lines follow: from here on they are only counted")
