"""A log whose pages a ranker filled: rules and exploration of a spec, a version that learned earlier pages."""

import random
import time
from typing import NamedTuple

from learner.publishing.version_builder import VersionBuilder
from learner.training.model import Model
from producers.features import FeatureBuilder, Histories
from producers.source import WorldEvent
from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.rank import Ranker
from ranker.ranking.score import Scorer
from ranker.ranking.version_watcher import VersionWatcher
from ranker.versions.model import Version
from stream.events.types import Impression, Install, Item, RankRequest, User, Value
from stream.history.profiles import UserProfile
from stream.snapshots.memory_store import MemoryStore
from stream.spec.spec import Spec
from tests.support.backtest_world import START_MS

SPEC = """
name = "shop"
[user]
id = "category"
age = { type = "number", bands = [18, 40] }
history = { of = "item.id", last = 5 }
[item]
id = "category"
tags = "categories"
[context]
device = "category"
[statistics]
item_rate = { kind = "rate", by = ["item.id"] }
[wide]
alpha = 0.1
features = ["item.id"]
crosses = [["user.age_band", "item.tags"]]
[deep]
features = ["item.id", "item.tags", "statistics.*"]
embedding_dim = 4
min_count = 1
hidden_units = [4]
[label]
policy = "eager"
window = "8s"
"""
RULES = """
[rules]
hero = { kind = "pin", item = "i5", position = 2 }
varied = { kind = "cap", of = "item.tags", count = 2 }
grown = { kind = "forbid", of = "item.tags", values = ["t3"], where = { "user.age_band" = ["0"] } }
phone = { kind = "boost", of = "item.tags", values = ["t1"], factor = 3.0, where = { "context.device" = ["phone"] } }
mixed = { kind = "diversity", by = ["item.tags"], strength = 0.5 }
"""
EXPLORE = {
    "epsilon": '[explore]\nkind = "epsilon"\nepsilon = 0.4\n',
    "thompson": '[explore]\nkind = "thompson"\nscale = 2.0\nprior = 0.5\n',
}
ITEMS, USERS, PLACES = 14, 10, 4


def drawn_pages(first: int, count: int) -> list[WorldEvent]:
    """Pages of four items drawn at random, with installs."""
    draw, events = random.Random(1), list[WorldEvent]()
    for n in range(first, first + count):
        shown, at_ms = draw.sample(range(ITEMS), PLACES), START_MS + 3_000 * n
        events.append(Impression(f"p{n}", at_ms, f"u{n % USERS}", [f"i{i}" for i in shown]))
        events += [
            Install(f"u{n % USERS}", f"i{i}", at_ms + 1_000, f"{n}-{i}", f"p{n}")
            for i in shown
            if draw.random() < 0.02 * i
        ]
    return events


ENTITIES: list[WorldEvent] = [
    *(Item(f"i{i}", {"tags": [f"t{i % 4}", f"s{i % 3}"][: 1 + i % 2]}, "", float(ITEMS - i)) for i in range(ITEMS)),
    *(User(f"u{u}", {"age": 10.0 + 7 * u}) for u in range(USERS)),
]


class RankedLog(NamedTuple):
    """Events whose later pages a ranker filled, and the version by which it did."""

    events: list[WorldEvent]
    version: Version


def ranked_log(spec: Spec, learned: int = 80, ranked: int = 60) -> RankedLog:
    """The first pages are drawn and learned; a ranker of the version that this gives fills the later ones."""
    events = [*ENTITIES, *drawn_pages(0, learned)]
    builder, model, store = FeatureBuilder(spec, 1), Model(spec.without_holdout()), MemoryStore(spec.name)
    for offset, event in enumerate(events):
        if examples := builder.process(event).examples:
            model.learn(examples, offset)
    cut = VersionBuilder(model).build(1, 0, store.take_token(), 1, 0, {}, deep=True)
    store.put_blobs(cut.blobs)
    store.publish(cut.manifest)
    cache, histories = EntityCache(), Histories()
    attributes = dict[str, dict[str, Value]]()
    for event in events:
        if isinstance(event, Item):
            cache.put(event.item, event)
        elif isinstance(event, User):
            attributes[event.user] = event.attributes
        elif isinstance(event, Install):
            histories.update(event)
    watcher = VersionWatcher(store, spec.name, cache, lambda: START_MS)
    assert watcher.step(), watcher.rejection
    assert watcher.served is not None
    ranker, draw = Ranker(cache, watcher, Scorer(1), lambda: START_MS), random.Random(2)
    for n in range(learned, learned + ranked):
        user, at_ms = f"u{n % USERS}", START_MS + 3_000 * n
        profile = UserProfile(histories.newest(user, 100), attributes[user])
        request = RankRequest(f"p{n}", user, PLACES, at_ms, {"device": ["phone", "desktop"][n % 3 == 0]})
        reply = ranker.answer(request, lambda one=profile: one, time.monotonic())  # type: ignore[misc]
        events.append(Impression(f"p{n}", at_ms, user, reply.items, "", 1, reply.scores, reply.propensities,
                                 reply.features, request.context))  # fmt: skip
        if draw.random() < 0.2:
            installed = Install(user, reply.items[0], at_ms + 1_000, f"r{n}", f"p{n}")
            histories.update(installed)
            events.append(installed)
    return RankedLog(events, watcher.served.version)
