"""`python -m thalweg.kernels`: compiles every numba kernel by running the whole loop in miniature, in one process.

Compiled kernels are cached beside the sources (`__pycache__`), so services start without compiling. A second process
compiles the ranker's meanwhile.
"""

from multiprocessing import get_context

import msgspec
import numpy as np

from learner.checkpoints.checkpoint import restore, take
from learner.jit_warmup import compile_kernels as compile_learner
from learner.publishing.version_builder import VersionBuilder
from learner.training.model import Model
from learner.wide.ftrl import WIDTH
from producers.features import FeatureBuilder
from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.rank import Ranker
from ranker.ranking.score import Scorer
from ranker.ranking.version_watcher import VersionWatcher
from stream.events.types import Examples, Impression, Install, Item, Organic, RankReply, RankRequest, Tick, User
from stream.features.page_features import Layout
from stream.features.statistics import Statistics, StatisticsProgram
from stream.history.profiles import UserProfile
from stream.joiner.join import Joiner
from stream.joiner.label_rules import LabelRules
from stream.snapshots.memory_store import MemoryStore
from stream.spec.columns import ALL_INSTALLS, ORGANIC_INSTALLS, Statistic
from stream.spec.spec import Spec
from stream.spec.spec_file import load_spec
from stream.tables.eviction import Evictor
from stream.tables.hash_table import HashTable
from thalweg.demo.rescore import rescore
from thalweg.room_kernels import SPEC, compile_joiner, compile_ranker

PAGES = 200
USERS = 7
ITEMS = 20


def miniature(spec: Spec, pages: int = PAGES) -> tuple[MemoryStore, list[RankReply]]:
    """Some pages through features, join, learner, snapshots and ranker; returns the versions and a reply by each.

    All kernels run with the same types as in services.
    """
    examples = joined(spec, pages)
    model = Model(spec)
    store, builder, pools = MemoryStore(spec.name), VersionBuilder(model), EntityCache()
    for entity in entities():
        if isinstance(entity, Item):
            pools.put(entity.item, entity)
    profile = UserProfile(["1", "2"], {"age": 21.0, "gender": "F", "occupation": "x"})
    follower, scorer = VersionWatcher(store, spec.name, pools, lambda: 0), Scorer(2)
    ranker, token = Ranker(pools, follower, scorer, lambda: 0), store.take_token()
    replies: list[RankReply] = []
    for offset, one in enumerate(examples):
        model.learn([one], offset)
        if offset % (pages // 8) == pages // 16:
            version = len(replies) + 1
            cut = builder.build(version, version - 1, token, offset + 1, 0, {}, deep=True)
            store.put_blobs(cut.blobs)
            store.publish(cut.manifest)
            follower.step()
            replies.append(ranker.answer(RankRequest(f"r{version}", "1"), lambda: profile, 0.0))
    restore(spec, take(model, len(examples), token, len(replies)))
    grow_and_evict()
    learn_organic(spec)
    compile_joiner()
    scorer.close()
    return store, replies


def grow_and_evict() -> None:
    """What a table does only in a long run: it grows, and keys are evicted."""
    table = HashTable(WIDTH)
    table.put(np.ones((1, WIDTH), np.uint64))
    table.stamp()
    table.reserve_for(np.arange(1, 2_000, dtype=np.uint64))
    Evictor(1).step(table, 1, 0)


def learn_organic(spec: Spec) -> None:
    """What happens only under a spec with statistics of organic installs."""
    statistics = {
        "counted": Statistic("count", by=["item.id"], of=ORGANIC_INSTALLS),
        "together": Statistic("lift", by=["user.id", "item.id"], of=ALL_INSTALLS),
    }
    spec = msgspec.structs.replace(spec, statistics=statistics)
    Statistics(StatisticsProgram(spec, Layout(spec))).learn_organic([Organic("u", "i", 1, "x")])


def entities() -> list[Item | User]:
    """A few items and users."""
    items = [
        Item(str(i), {"genres": ["a", "b"][: 1 + i % 2], "year": 1990.0 + i}, popularity=float(i)) for i in range(ITEMS)
    ]
    users = [User(str(u), {"age": 20.0 + u, "gender": "F", "occupation": "x"}) for u in range(USERS)]
    return [*items, *users]


def joined(spec: Spec, pages: int) -> list[Examples]:
    """The examples of this many pages, a third of them with an install."""
    # Two pages that close at once: the joiner hashes their ids together.
    Joiner(LabelRules()).feed([Impression(name, 1, "u", ["i"]) for name in "ab"] + [Tick(10_000)], 0, 10_000)
    maker = FeatureBuilder(spec, 1)
    examples: list[Examples] = []
    for entity in entities():
        maker.process(entity)
    for n in range(pages):
        time_ms = 1_000_000_000_000 + n * 60_000
        user, shown = str(n % USERS), [str(n % ITEMS), str((n + 1) % ITEMS)]
        examples += maker.process(Impression(f"p{n}", time_ms, user, shown)).examples
        if n % 3 == 0:
            examples += maker.process(Install(user, shown[0], time_ms + 1, f"i{n}", f"p{n}")).examples
    return examples


if __name__ == "__main__":
    ranker_process = get_context("spawn").Process(target=compile_ranker)
    ranker_process.start()
    compile_learner(load_spec(SPEC))
    ranker_process.join()
    if ranker_process.exitcode != 0:
        raise SystemExit("the ranker's kernels weren't compiled: its error is above")
    store, replies = miniature(load_spec(SPEC))
    counts = rescore(store, store.model, replies)
    assert counts.checked == len(replies) > 0 == counts.mixed, f"learner and ranker differ: {counts}"
