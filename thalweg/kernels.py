"""`python -m thalweg.kernels`: compiles every numba kernel once, by running the loop in miniature, in one process.

Compiled kernels are kept beside the sources (`__pycache__`), so services start without compiling.
"""

from pathlib import Path

import msgspec
import numpy as np

from learner.chain import Cutter
from learner.checkpoint import restore, take
from learner.model import Model
from producers.features import FeatureMaker
from ranker.follow import Follower
from ranker.model import score_features
from ranker.rank import Ranker
from ranker.score import Scorer
from ranker.shelf import Shelf
from stream.events import Examples, Impression, Install, Item, RankRequest, User
from stream.memory_store import MemoryStore
from stream.spec import Spec, WarmStart, load_spec

SPEC = Path(__file__).resolve().parents[1] / "specs" / "movielens.toml"
PAGES = 200
USERS = 7
ITEMS = 20


def miniature(spec: Spec, pages: int = PAGES) -> float:
    """Some pages through features, join, learner, snapshot and ranker; returns how far learner and ranker differ.

    So all kernels run with the types that they have in services.
    """
    deep = msgspec.structs.replace(spec.deep, warm_start=WarmStart(every=pages // 2, window=pages // 2))
    spec = msgspec.structs.replace(spec, deep=deep)
    told = play(spec, pages)
    model = Model(spec, reread=lambda offset: ([examples] for examples in told[offset:]))
    store, cutter, shelf = MemoryStore(spec.name), Cutter(model), Shelf()
    for event in world():
        if isinstance(event, Item):
            shelf.put(event.item, event)
        else:
            shelf.users[event.user] = event.attributes
    follower, scorer = Follower(store, spec.name, shelf, lambda: 0), Scorer(2)
    ranker, version = Ranker(shelf, follower, scorer, lambda: 0), 0
    token = store.take_token()
    for offset, examples in enumerate(told):
        model.learn([examples], offset)
        if offset % (pages // 8) == pages // 16:
            cut = cutter.cut(version + 1, version, token, offset + 1, 0, {}, deep=True)
            store.put_blobs(cut.blobs)
            store.publish(cut.manifest)
            version += 1
            follower.step()
    restore(spec, take(model, len(told), token, version))
    reply = ranker.answer(RankRequest("r", "1"), ["1", "2"], 0.0)
    scorer.close()
    assert follower.served is not None, "nothing was published"
    again = score_features(follower.served.version, reply.features, len(reply.items))
    return float(np.abs(again - np.array(reply.scores)).max())


def world() -> list[Item | User]:
    """A few items and users."""
    items = [
        Item(str(i), {"genres": ["a", "b"][: 1 + i % 2], "year": 1990.0 + i}, popularity=float(i)) for i in range(ITEMS)
    ]
    users = [User(str(u), {"age": 20.0 + u, "gender": "F", "occupation": "x"}) for u in range(USERS)]
    return [*items, *users]


def play(spec: Spec, pages: int) -> list[Examples]:
    """What a joiner tells of so many pages, a third of them with an install."""
    maker = FeatureMaker(spec, 1)
    told: list[Examples] = []
    for entity in world():
        maker.take(entity)
    for n in range(pages):
        time_ms = 1_000_000_000_000 + n * 60_000
        user, shown = str(n % USERS), [str(n % ITEMS), str((n + 1) % ITEMS)]
        told += maker.take(Impression(f"p{n}", time_ms, user, shown)).examples
        if n % 3 == 0:
            told += maker.take(Install(user, shown[0], time_ms + 1, f"i{n}", f"p{n}")).examples
    return told


if __name__ == "__main__":
    apart = miniature(load_spec(SPEC))
    assert apart <= 1e-5, f"learner and ranker are {apart} apart: see the tests of parity"
