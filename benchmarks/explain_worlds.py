"""Models to explain, as rankers serve them: one that learned MovieLens, one that learned a simulated app store."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from learner.publishing.version_builder import VersionBuilder
from learner.retraining.schedule import RetrainSchedule
from learner.training.model import Model
from producers.movielens import read_movielens
from producers.source import WorldEvent
from producers.store.arm import selected
from producers.store.parameters import preset
from producers.store.storefront import PAGE_ITEMS, ShownPages
from producers.store.world import StoreWorld
from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.version_watcher import VersionWatcher
from stream.events.types import Item, User
from stream.features.page_features import words_of
from stream.history.profiles import UserProfile
from stream.snapshots.memory_store import MemoryStore
from stream.spec.spec import Spec
from stream.spec.spec_file import load_spec
from stream.tables.dtypes import F32, U64
from thalweg.backtest.backtest import Backtest
from thalweg.backtest.entrants import ExampleLog, ModelEntrant, ShownPage, Step
from thalweg.experiment.closed_loop import ClosedLoop

LAST: Final = 0.1  # share of the pages that explained ones are drawn from
HISTORY: Final = 50  # items
CREATED_MS: Final = 900_000_000_000
NOW_MS: Final = CREATED_MS + 1_000
SEED: Final = 7
ARM: Final = "wide_deep"


class Recorder(ModelEntrant):
    """A model with statistics of its own, which are served; it retains the pages that it's shown."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, spec.parts, SEED)
        self.learning = RetrainSchedule(Model(spec.without_holdout(), SEED))
        self.pages: list[U64] = []

    def play(self, steps: Sequence[Step]) -> list[F32]:
        """Predict and learn."""
        self.pages += [step.words for step in steps if isinstance(step, ShownPage)]
        return super().play(steps)


@dataclass(frozen=True)
class Learned:
    """A model as a ranker serves it; its last pages, of one item each; its users with what they have."""

    watcher: VersionWatcher
    cache: EntityCache
    pages: list[U64]
    users: list[tuple[str, UserProfile]]


def movielens(pages: int, on_progress: Callable[[int], None]) -> Learned:
    """The model of MovieLens after this many pages."""
    spec = load_spec(Path("specs/movielens.toml"))
    entrant, users, cache = Recorder(spec), dict[str, User](), EntityCache()

    def events() -> Iterator[WorldEvent]:
        for event in read_movielens(Path(".data/movielens")):
            if isinstance(event, Item):
                cache.put(event.item, event)
            elif isinstance(event, User):
                users[event.user] = event
            yield event

    course = Backtest(spec, [entrant], ExampleLog())
    course.on_progress = lambda one: on_progress(one.pages)
    course.run(events(), pages)
    watcher = published(entrant.model, course.log.newest + 1, cache)
    newest = course.maker.histories.newest
    profiles = [(name, UserProfile(newest(name, HISTORY), one.attributes)) for name, one in users.items()]
    return Learned(watcher, cache, entrant.pages[-int(pages * LAST) :], profiles)


def store(pages: int, on_progress: Callable[[int], None]) -> Learned:
    """The model of the store that it serves itself, after this many pages; of each page an item by chance."""
    spec, shown, random = load_spec(Path("specs/store.toml")), list[bytes](), np.random.default_rng(SEED)

    def keep(one: ShownPages) -> None:
        shown.extend(one.features)

    world = StoreWorld(preset("usual"), SEED)
    loop = ClosedLoop(spec, world, [ARM], lambda user: ARM, SEED, on_progress=on_progress, on_shown=keep)
    loop.run(pages)
    watcher = published(loop.served[ARM].model, loop.served[ARM].offset, EntityCache())
    assert watcher.served is not None
    layout, drawn = watcher.served.version.plan.layout, random.integers(PAGE_ITEMS, size=int(pages * LAST))
    chosen = zip(shown[-len(drawn) :], drawn, strict=True)
    return Learned(
        watcher, EntityCache(), [words_of(selected(layout, raw, np.array([at])), layout, 1) for raw, at in chosen], []
    )


def published(model: Model, offset: int, cache: EntityCache) -> VersionWatcher:
    """A watcher that serves the model."""
    name = model.spec.name
    snapshots = MemoryStore(name)
    built = VersionBuilder(model).build(1, 0, snapshots.take_token(), offset, CREATED_MS, {}, deep=True)
    snapshots.put_blobs(built.blobs)
    snapshots.publish(built.manifest)
    return served(snapshots, name, cache)


def served(snapshots: MemoryStore, model: str, cache: EntityCache) -> VersionWatcher:
    """A watcher that serves the store's version."""
    watcher = VersionWatcher(snapshots, model, cache, lambda: NOW_MS)
    is_served = watcher.step()
    assert is_served, watcher.rejection
    return watcher
