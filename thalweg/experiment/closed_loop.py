"""The closed loop in one process: a world, the join, and some arms, on a MemoryLog under a virtual clock.

Time goes in steps of one sync interval. Within a step pages are asked for, ranked by the versions that are live, shown;
what users do is joined as it comes. At its end each model predicts the step's pages, learns what was emitted, and
publishes. So its predictions are those of its version at page time, and a run is a function of its seed.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import msgspec
import numpy as np

from producers.batching_producer import BatchingProducer
from producers.clock import Clock
from producers.features import Histories
from producers.store.arm import Arm, ByModel, ByPopularity, ByScores
from producers.store.storefront import PAGE_ITEMS, ShownPages, Storefront
from producers.store.world import StoreWorld
from ranker.ranking.entity_cache import EntityCache
from stream.events.codec import decode_entity
from stream.events.topics import EVENTS, EVENTS_DLQ, EXAMPLES, HISTORIES, ITEMS, ORGANIC, USERS
from stream.events.types import Item, User, Value
from stream.features.page_features import Layout, words_of
from stream.joiner.label_rules import label_rules
from stream.log.memory_log import MemoryLog
from stream.spec.spec import Spec
from stream.spec.values import PartName
from thalweg.backtest.peers import PeerRates
from thalweg.experiment.arm_models import Ensemble, PeerModel
from thalweg.experiment.arm_rates import peer_rates, spec_of_arm
from thalweg.experiment.memory_joiner import MemoryJoiner
from thalweg.experiment.served_model import ServedModel
from thalweg.experiment.traffic_scores import REFERENCES, ScoredTraffic, TrafficScores
from thalweg.experiment.virtual_clock import VirtualClock

T = TypeVar("T")
PARTS: Final[Mapping[str, list[PartName]]] = {"wide_deep": ["wide", "deep"], "wide": ["wide"], "deep": ["deep"]}
POPULAR, PEER, ENSEMBLE = "popular", "vw", "ensemble"
ARMS: Final = (POPULAR, "wide", "deep", "wide_deep", PEER)
ALL_ARMS: Final = (*ARMS, ENSEMBLE)
RANKED_BY_ALL: Final = 10  # every Nth page is ranked by each learner, whoever serves it
WRITTEN: Final = (EVENTS, EVENTS_DLQ, EXAMPLES, HISTORIES, ORGANIC, ITEMS, USERS)
TOPICS: Final = dict.fromkeys((topic.name for topic in WRITTEN), 1)


@dataclass
class ClosedLoop:
    """A run. `assign`: the arm of a user. `sync_ms`: event time between versions, of both parts.

    `frozen_from`: share of the pages after which nothing is published any more. `on_shown` is called with pages before
    they are learned. Call `run` once.
    """

    spec: Spec
    world: StoreWorld
    arms: Sequence[str]
    assign: Callable[[str], str]
    seed: int = 0
    sync_ms: int = 2_000
    frozen_from: float = 1.0
    on_progress: Callable[[int], None] = lambda pages: None
    on_shown: Callable[[ShownPages], None] = lambda shown: None
    seconds: dict[str, float] = field(default_factory=dict)  # by what they were spent for

    def __post_init__(self) -> None:
        self.clock = VirtualClock(self.world.start_ms)
        self.log = MemoryLog(TOPICS, self.clock.wall_ms)
        self._cache, self._layout = EntityCache(), Layout(self.spec)
        self._attributes: dict[str, dict[str, Value]] = {}  # of users
        members = ("wide", "deep") if ENSEMBLE in self.arms else ()
        self.served: dict[str, ServedModel] = {}
        self._learners: dict[str, ServedModel | PeerModel] = {}
        self._predictors: dict[str, ServedModel | PeerModel | Ensemble] = {}
        for name, parts in PARTS.items():
            if name in (*self.arms, *members):
                self.add_model(name, spec_of_arm(self.spec, name), parts)
        if PEER in self.arms:
            self.add_peer(PEER, peer_rates(self.spec))
        if members:
            self._predictors[ENSEMBLE] = Ensemble([self.served[name] for name in members])
        clock = Clock(self.clock.now_s, _never, self.clock.wall_ms)
        producer = BatchingProducer(self.log, clock, 0.0, notify=print, stop=lambda: False)
        arms, self.histories = [self._arm(name) for name in self.arms], Histories()
        self.front = Storefront(
            self.log, self.world, arms, self.assign, self.spec, producer, self.histories, whole_every=RANKED_BY_ALL
        )
        self.joiner = MemoryJoiner(self.log, label_rules(self.spec))
        self.scores = TrafficScores(self._predictors.keys())
        self._items, self._users = (self.log.reader(topic.name, {0: 0}) for topic in (ITEMS, USERS))

    def add_model(self, name: str, spec: Spec, parts: Sequence[PartName]) -> None:
        """Let a model learn all traffic, at these rates of its own: an arm's, or one that serves nobody."""
        spec = msgspec.structs.replace(spec, name=f"{self.spec.name}-{name}", parts=list(parts))
        model = ServedModel(spec, self.seed, self.log, self._cache, self._attributes, self.clock.wall_ms)
        self.served[name] = self._learners[name] = self._predictors[name] = model

    def add_peer(self, name: str, rates: PeerRates) -> None:
        """Let Vowpal Wabbit learn all traffic at these rates: an arm's, or one that serves nobody."""
        self._learners[name] = self._predictors[name] = PeerModel(self.spec, rates, self.log)

    def run(self, pages: int) -> ScoredTraffic:
        """Play this many pages, and those of their last step. Deterministic."""
        self.front.open()
        self.joiner.step()
        self._read_entities()
        played, until_ms = 0, self.clock.time_ms
        while played < pages:
            until_ms += self.sync_ms
            shown = self._step(until_ms)
            played += sum(len(one.arms) for one in shown)
            self._learn(shown, publish=played < self.frozen_from * pages)
            oldest = min(model.offset for model in self._learners.values())
            self.log.truncate(EXAMPLES.name, 0, oldest)
            self.on_progress(min(played, pages))
        for model in self._learners.values():
            model.close()
        self.front.close()
        return self.scores.table()

    @property
    def versions_rejected(self) -> int:
        """Versions that gates rejected."""
        return sum(model.rejected for model in self.served.values())

    def _step(self, until_ms: int) -> list[ShownPages]:
        """Play until an event time."""
        found = []
        while self._timed("world", lambda: self.front.ask(until_ms, before=self._send)):
            for model in self.served.values():
                self._timed("rank", model.answer)
            shown = self._timed("world", self.front.receive)
            assert shown is not None
            assert not self.front.pending, "every request has a reply"
            self._timed("rank by all", partial(self._rank_by_all, shown))
            self.on_shown(shown)
            found.append(shown)
            self._send(int(shown.pages.times_ms[-1]))
            self._timed("join", self.joiner.step)
        self._send(until_ms)
        self._timed("join", self.joiner.step)
        return found

    def _rank_by_all(self, shown: ShownPages) -> None:
        """Let each learner's live version rank the pages whose replies have all candidates: on the same pages arms
        differ by their rankings alone."""
        for b, page in shown.whole.items():
            words = words_of(page.features, self._layout, len(page.candidates))
            expected = {name: getattr(shown, name)[b] for name in REFERENCES}
            for name, predictor in self._predictors.items():
                order = np.lexsort((page.candidates, -predictor.score(words)))[:PAGE_ITEMS]
                best = page.candidates[order][None]
                expected[name] = self.world.expected_installs(shown.probabilities[b : b + 1], best)[0]
            self.scores.add_ranked(expected)

    def _send(self, until_ms: int) -> None:
        self.clock.time_ms = until_ms
        self.front.send(until_ms)
        self._read_entities()

    def _learn(self, shown: Sequence[ShownPages], *, publish: bool) -> None:
        """Predict the step's pages, learn, publish."""
        words = [words_of(raw, self._layout, PAGE_ITEMS) for one in shown for raw in one.features]
        predictions = {}
        for name, predictor in self._predictors.items():
            found = self._timed(name, partial(predictor.predict, words))
            predictions[name] = np.array(found, np.float32).reshape(len(words), PAGE_ITEMS)
        first = 0
        for one in shown:
            last = first + len(one.arms)
            self.scores.add(one, {name: found[first:last] for name, found in predictions.items()})
            first = last
        for name, learner in self._learners.items():
            self._timed(name, learner.learn)
        for name, model in self.served.items() if publish else ():
            self._timed(f"publish {name}", model.publish)

    def _read_entities(self) -> None:
        while records := self._items.poll(0.0, 10_000):
            for item in (decode_entity(record.value or b"", Item) for record in records):
                self._cache.put(item.item, item)
        while records := self._users.poll(0.0, 10_000):
            for user in (decode_entity(record.value or b"", User) for record in records):
                self._attributes[user.user] = user.attributes

    def _arm(self, name: str) -> Arm:
        """Arms without a ranker get their features from the first model's."""
        if name in self.served:
            return Arm(name, ByModel(), self.served[name].log)
        features = next(iter(self.served.values())).log
        if name == POPULAR:
            return Arm(name, ByPopularity(self._layout), features)
        scorer = self._predictors[name]
        assert not isinstance(scorer, ServedModel)
        return Arm(name, ByScores(self._layout, scorer.score), features)

    def _timed(self, what: str, work: Callable[[], T]) -> T:
        begun = time.perf_counter()
        result = work()
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - begun
        return result


def _never(seconds: float) -> None:
    raise AssertionError("a simulation doesn't wait")
