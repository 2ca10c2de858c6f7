"""The closed loop in one process: a world, the join, and some arms, on a MemoryLog under a virtual clock.

Time goes in steps of one sync interval. Within a step pages are asked for, ranked by the versions that are live, shown;
what users do is joined as it comes. At its end each learner predicts the step's pages, learns what was emitted, and
publishes. So a learner's predictions are those of its version at page time, and a run is a function of its seed.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec
import numpy as np

from producers.batching_producer import BatchingProducer
from producers.clock import Clock
from producers.features import Histories
from producers.store.arm import Arm, ByModel, ByPopularity, ByScores, Policy
from producers.store.storefront import PAGE_ITEMS, ShownPages, Storefront
from producers.store.world import StoreWorld
from ranker.ranking.entity_cache import EntityCache
from stream.events.codec import decode_entity, decode_examples
from stream.events.topics import EVENTS, EXAMPLES, HISTORIES, ITEMS, ORGANIC, REPLIES, REQUESTS, USERS
from stream.events.types import Item, User
from stream.features.page_features import Layout, words_of
from stream.joiner.label_rules import label_rules
from stream.log.memory_log import MemoryLog
from stream.spec.spec import PartName, Spec, duration_ms
from stream.tables.dtypes import F32, U64
from thalweg.backtest.peers import PeerRates, VowpalWabbit
from thalweg.experiment.memory_joiner import MemoryJoiner
from thalweg.experiment.served_model import ServedModel
from thalweg.experiment.traffic_scores import ScoredTraffic, TrafficScores
from thalweg.experiment.virtual_clock import VirtualClock

T = TypeVar("T")
MODELS: Final[dict[str, list[PartName]]] = {"wide": ["wide"], "deep": ["deep"], "wide_deep": ["wide", "deep"]}
POPULAR, PEER = "popular", "vw"
ARMS: Final = ("popular", "wide", "deep", "wide_deep", "vw")
REFERENCE: Final = ("wide_deep", "wide", "deep")  # the first one that runs gives features to arms without a model
TOPICS: Final = dict.fromkeys(
    (topic.name for topic in (EVENTS, EXAMPLES, HISTORIES, ORGANIC, ITEMS, USERS, REQUESTS, REPLIES)), 1
)


class PeerModel:
    """Vowpal Wabbit on the log: learns each record of `examples`, scores pages."""

    def __init__(self, spec: Spec, examples: MemoryLog) -> None:
        self.name = PEER
        self._vw = VowpalWabbit(spec, PeerRates())
        self._reader = examples.reader(EXAMPLES.name, {0: 0})

    @property
    def oldest_needed_offset(self) -> int:
        """The next one in `examples`."""
        return self._reader.positions()[0]

    def predict(self, pages: Sequence[U64]) -> list[F32]:
        """P(Y=1) of each page's items, float32 [n] each."""
        return [self._vw.predict(words, 0) for words in pages]

    def score(self, words: U64) -> F32:
        """P(Y=1) of a page's items, float32 [n]."""
        return self._vw.score(words)

    def learn(self) -> None:
        """Learn all records that wait."""
        while records := self._reader.poll(0.0, 1_000):
            for record in records:
                events, _ = decode_examples(record.value or b"")
                self._vw.learn(events, [0] * len(events))

    def publish(self) -> None:
        """It is always live."""

    def answer(self) -> None:
        """No requests come to it."""

    def close(self) -> None:
        """Finish."""
        self._vw.close()


class Ensemble:
    """Parts that are trained apart: their log-odds are averaged when they predict, and never before."""

    def __init__(self, members: Sequence[ServedModel]) -> None:
        self._members = members

    def predict(self, pages: Sequence[U64]) -> list[F32]:
        """P(Y=1) of each page's items, float32 [n] each."""
        return [_mean_odds(found) for found in zip(*(member.predict(pages) for member in self._members), strict=True)]

    def score(self, words: U64) -> F32:
        """P(Y=1) of a page's items as it is served, float32 [n], by the members' live versions."""
        return _mean_odds([member.score(words) for member in self._members])


def _mean_odds(predictions: Sequence[F32]) -> F32:
    p = np.clip(np.array(predictions, np.float64), 1e-9, 1 - 1e-9)
    mean = np.log(p / (1 - p)).mean(0)
    return (1 / (1 + np.exp(-mean))).astype(np.float32)


@dataclass
class ClosedLoop:
    """A run. `sync_ms`: event time between versions; 0: the spec's own `publish.every`. Call `run` once."""

    spec: Spec
    world: StoreWorld
    arms: Sequence[str]
    assign: Callable[[str], str]  # the arm of a user
    seed: int = 0
    sync_ms: int = 0
    frozen_from: float = 1.0  # share of the pages after which nothing is published any more
    learners: Sequence[str] = ()  # that learn without serving
    on_progress: Callable[[int], None] = lambda pages: None
    seconds: dict[str, float] = field(default_factory=dict)  # by what they were spent for

    def __post_init__(self) -> None:
        self.sync_ms = self.sync_ms or duration_ms(self.spec.publish.every)
        self.clock = VirtualClock(self.world.start_ms)
        self.log = MemoryLog(TOPICS, self.clock.wall_ms)
        self.cache = EntityCache()
        learning = [name for name in (*self.arms, *self.learners) if name != POPULAR]
        self.models: dict[str, ServedModel | PeerModel] = {name: self._model(name) for name in dict.fromkeys(learning)}
        reference = next(model for name in REFERENCE if isinstance(model := self.models.get(name), ServedModel))
        self._layout = Layout(self.spec)
        arms = [Arm(name, self._policy(name), self._log_of(name, reference)) for name in self.arms]
        producer = BatchingProducer(self.log, Clock(self.clock.now_s, _never, self.clock.wall_ms), 0.0, print, bool)
        self.front = Storefront(self.log, self.world, arms, self.assign, self.spec, producer, Histories())
        self.joiner = MemoryJoiner(self.log, label_rules(self.spec))
        self.scores = TrafficScores([*self.models], self.world.examination)
        self._entities = [
            (self.log.reader(topic, {0: 0}), kind) for topic, kind in ((ITEMS.name, Item), (USERS.name, User))
        ]

    def run(self, pages: int) -> ScoredTraffic:
        """Play this many pages. Deterministic."""
        self.front.open()
        played, begun_ms = 0, self.clock.time_ms
        while played < pages:
            until_ms = self.clock.time_ms - (self.clock.time_ms - begun_ms) % self.sync_ms + self.sync_ms
            shown = self._step(until_ms)
            played += sum(len(one.arms) for one in shown)
            self._learn(shown, publish=played < self.frozen_from * pages)
            self._truncate()
            self.on_progress(min(played, pages))
        for model in self.models.values():
            model.close()
        self.front.close()
        return self.scores.table()

    @property
    def versions_rejected(self) -> int:
        """Versions that gates rejected."""
        return sum(model.rejected for model in self.models.values() if isinstance(model, ServedModel))

    def _step(self, until_ms: int) -> list[ShownPages]:
        """Play until an event time."""
        found = []
        while self._timed("world", lambda: self.front.ask(until_ms)):
            self._timed("rank", self._answer)
            shown = self._timed("world", self.front.receive)
            assert shown is not None
            assert not self.front.pending, "every request has a reply"
            found.append(shown)
            self.clock.time_ms = int(shown.pages.times_ms[-1])
            self._timed("world", lambda: self.front.send(self.clock.time_ms))
            self._timed("join", self.joiner.step)
        self.clock.time_ms = until_ms
        self.front.send(until_ms)
        self._timed("join", self.joiner.step)
        self._read_entities()
        return found

    def _answer(self) -> None:
        for model in self.models.values():
            model.answer()

    def _learn(self, shown: Sequence[ShownPages], *, publish: bool) -> None:
        """Predict the step's pages, learn, publish."""
        words = [words_of(raw, self._layout, PAGE_ITEMS) for one in shown for raw in one.features]
        predictions = {}
        for name, model in self.models.items():
            found = self._timed(name, lambda model=model: model.predict(words) if words else [])  # type: ignore[misc]
            predictions[name] = np.array(found, np.float32).reshape(len(words), PAGE_ITEMS)
            self._timed(name, model.learn)
            if publish:
                self._timed(f"publish {name}", model.publish)
        first = 0
        for one in shown:
            last = first + len(one.arms)
            self.scores.add(one, {name: found[first:last] for name, found in predictions.items()})
            first = last

    def _read_entities(self) -> None:
        for reader, kind in self._entities:
            while records := reader.poll(0.0, 10_000):
                for record in records:
                    entity = decode_entity(record.value or b"", kind)
                    if isinstance(entity, Item):
                        self.cache.put(entity.item, entity)
                    else:
                        self.cache.users[entity.user] = entity.attributes

    def _truncate(self) -> None:
        """Drop what nobody will read again."""
        self.log.truncate(EXAMPLES.name, 0, min(model.oldest_needed_offset for model in self.models.values()))

    def _model(self, name: str) -> ServedModel | PeerModel:
        if name == PEER:
            return PeerModel(self.spec, self.log)
        spec = msgspec.structs.replace(self.spec, name=f"{self.spec.name}-{name}", parts=MODELS[name])
        return ServedModel(spec, self.seed, self.log, self.cache, self.clock.wall_ms)

    def _policy(self, name: str) -> Policy:
        if name == POPULAR:
            return ByPopularity(self._layout)
        model = self.models[name]
        return ByScores(self._layout, model.score) if isinstance(model, PeerModel) else ByModel()

    def _log_of(self, name: str, reference: ServedModel) -> MemoryLog:
        model = self.models.get(name)
        return model.log if isinstance(model, ServedModel) else reference.log

    def _timed(self, what: str, work: Callable[[], T]) -> T:
        begun = time.perf_counter()
        result = work()
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - begun
        return result


def _never(seconds: float) -> None:
    raise AssertionError("a simulation doesn't wait")
