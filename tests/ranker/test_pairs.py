"""What is kept of pairs of items changes no statistic: of no version, in no order of asking."""

import numpy as np
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from ranker.model import Version
from ranker.pairs import ROOM, Pairs
from ranker.versions import Loader
from stream.memory_store import MemoryStore
from stream.spec_file import parse_spec
from stream.table import U64
from tests.ranker.models import COLUMNS, ToyModel

SPEC = parse_spec(f"""
name = "m"
parts = ["wide"]
{COLUMNS}
[statistics]
akin = {{ kind = "likeness", by = ["user.id", "item.id"], neighbours = 9 }}
alike = {{ kind = "likeness", by = ["user.id", "item.id"], prior = 3, neighbours = 4 }}
seen = {{ kind = "count", by = ["item.id"] }}
[wide]
features = ["item.id"]
""")
TIME_MS = 5_000_000


def ranked(version: Version, page: U64) -> U64:
    """The page as a request leaves it: its statistics written, its items admitted."""
    words = page.copy()
    run = version.begin(words, TIME_MS)
    for first in range(0, len(run.logits), 4):
        version.score(run, first, min(first + 4, len(run.logits)))
    return words


@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from(["base", "delta", "delta", "delta", "merged"]), max_size=7))
@how(max_examples=40)
def test_every_version_has_its_own_likenesses(seed: int, steps: list[str]) -> None:
    """Pages ranked by all versions in any order, over and over, have the words that the publisher had for each."""
    model, store = ToyModel(SPEC, seed), MemoryStore("m")
    loader, versions = Loader(store, "m"), list[tuple[Version, list[U64]]]()
    pages = [model.page(9) for _ in range(6)]
    for step in ["base", *steps]:
        model.learn(3)
        model.publish(store, step)
        expected = [page.copy() for page in pages]
        for words in expected:
            model.statistics.fill(words, TIME_MS)
        versions.append((loader.load(model.number, versions[-1][0] if versions else None), expected))
        for _ in range(4):
            version, expected = versions[model.rng.integers(len(versions))]
            for page, words in zip(pages, expected, strict=True):
                assert (ranked(version, page) == words).all()
    for version, expected in versions:
        for page, words in zip(pages, expected, strict=True):
            assert (ranked(version, page) == words).all()


def test_pairs_are_read_once() -> None:
    """What was read is kept, also by the next version, for whom only what changed is read anew."""
    model, store = ToyModel(SPEC, 3), MemoryStore("m")
    model.learn(8)
    model.publish(store, "base")
    loader = Loader(store, "m")
    first = loader.load(1)
    page = model.page(9, time_ms=TIME_MS)
    assert (ranked(first, page) == page).all()  # it admits the items
    assert (ranked(first, page) == page).all()
    cells = first.pairs.square.cells
    kept = cells.copy()
    assert np.count_nonzero(kept) > 20
    cells.view(np.float32)[..., ::2][kept != 0] = np.nan  # whoever reads a cell now can be seen
    assert (ranked(first, page) != page).any()
    cells[:] = kept
    model.learn(1)
    model.publish(store)
    second = loader.load(2, first)
    assert second.pairs is first.pairs
    model.statistics.fill(page, TIME_MS)
    assert (ranked(second, page) == page).all()
    read_anew = np.count_nonzero((cells != kept) & (kept != 0))
    assert 0 < read_anew < np.count_nonzero(kept)


def test_a_square_has_room_for_so_many_items() -> None:
    """Who comes later has no place; a table without likenesses keeps nothing; a new base begins anew."""
    model, store = ToyModel(SPEC, 1), MemoryStore("m")
    model.publish(store, "base")
    loader = Loader(store, "m")
    version = loader.load(1)
    pairs = version.pairs
    pairs.admit(np.arange(1, ROOM, dtype=np.uint64))
    pairs.admit(np.arange(1, 2 * ROOM, dtype=np.uint64))
    assert not pairs.has_room
    places = pairs.square.places
    assert sorted(places[places[:, 0] != 0, 1].tolist()) == list(range(1, ROOM + 1))
    page = model.page(9, time_ms=TIME_MS)
    assert (ranked(version, page) == page).all()
    assert not Pairs(version.statistics, 0).has_room
    model.learn(1)
    model.publish(store, "base")
    assert loader.load(2, version).pairs.has_room
