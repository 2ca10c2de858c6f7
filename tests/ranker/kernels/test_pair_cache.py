"""What is kept of pairs of items changes no statistic and no score: of no version, in no order of asking."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

import ranker.kernels.pair_cache
import stream.tables.delta_table
from ranker.kernels.pair_cache import NO_EPOCH, CellPool, PairCache, TableCells
from ranker.versions.model import Version
from ranker.versions.version_loader import VersionLoader, load_version
from stream.features.encoder import one_page
from stream.snapshots.memory_store import MemoryStore
from stream.spec.spec_file import parse_spec
from stream.tables.dtypes import U64
from tests.support.random_models import COLUMNS, ToyModel

SPEC = parse_spec(f"""
name = "m"
parts = ["wide"]
{COLUMNS}
[statistics]
akin = {{ kind = "likeness", by = ["user.id", "item.id"], neighbours = 9 }}
alike = {{ kind = "likeness", by = ["user.id", "item.id"], prior = 3, neighbours = 4 }}
together = {{ kind = "lift", of = "installs", by = ["user.id", "item.id"], prior = 3, neighbours = 6 }}
seen = {{ kind = "count", by = ["item.id"] }}
[wide]
features = ["item.id"]
crosses = [["user.history", "item.id"], ["item.id", "user.likes"]]
[label]
organic = "examples"
""")
TIME_MS = 5_000_000


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    """Squares of which all cells can be looked at, and that begin again soon; tables that are folded soon."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream.tables.delta_table, "ROOM_MIN", 16)
        patch.setattr(stream.tables.delta_table, "LATEST_MAX", 32)
        patch.setattr(ranker.kernels.pair_cache, "ROOM", 64)
        patch.setattr(ranker.kernels.pair_cache, "EPOCHS", 3)
        patch.setattr(ranker.kernels.pair_cache, "RENEW_PAGES", 20)
        yield


def ranked(version: Version, page: U64) -> tuple[bytes, bytes]:
    """The page as a request leaves it, its statistics written and its items admitted; and its logits."""
    words = page.copy()
    run = version.begin(words, TIME_MS)
    for first in range(0, len(run.logits), 4):
        version.score(run, first, min(first + 4, len(run.logits)))
    return words.tobytes(), run.logits.tobytes()


def expected(model: ToyModel, pages: list[U64]) -> list[tuple[bytes, list[float]]]:
    """The pages with the statistics that the publisher has now; and what their items score."""
    found = []
    for page in pages:
        words = page.copy()
        model.statistics.fill(words, TIME_MS)
        found.append((words.tobytes(), model.scores(words)))
    return found


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from(["base", "delta", "delta", "delta", "merged"]), max_size=7),
    st.sampled_from([8, 64]),
)
@how(max_examples=20)
def test_every_version_has_its_own_pairs(seed: int, steps: list[str], room: int) -> None:
    """Ranked by all versions in any order, over and over, pages have the words and scores that each had at first.

    However often slots are evicted meanwhile.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranker.kernels.pair_cache, "ROOM", room)
        patch.setattr(ranker.kernels.pair_cache, "RENEW_PAGES", 20 if room == 64 else 2)
        check_versions(seed, steps)


def check_versions(seed: int, steps: list[str]) -> None:
    """Versions of these steps, each asked several times."""
    model, store = ToyModel(SPEC, seed), MemoryStore("m")
    loader, versions = VersionLoader(store, "m"), list[Version]()
    pages = [model.page(9) for _ in range(6)]
    wanted: list[list[tuple[bytes, list[float]]]] = []
    logits: dict[tuple[int, int], bytes] = {}

    def agrees(v: int) -> None:
        for n, (page, (words, scores)) in enumerate(zip(pages, wanted[v], strict=True)):
            got, said = ranked(versions[v], page)
            assert got == words
            assert said == logits.setdefault((v, n), said)
            assert np.allclose(1 / (1 + np.exp(-np.frombuffer(said, np.float32))), scores, atol=1e-5)

    for step in ["base", *steps]:
        model.learn(3)
        model.publish(store, step)
        wanted.append(expected(model, pages))
        previous = versions[model.rng.integers(len(versions) or 1) :][:1]  # what came after it might have been refused
        versions.append(loader.load(model.number, *previous))
        for _ in range(4):
            agrees(int(model.rng.integers(len(versions))))
    for v in range(len(versions)):
        agrees(v)


@pytest.mark.parametrize("kept", ["likenesses", "weights"])
def test_pairs_are_read_once(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read is kept, also by the next version, for whom only what changed is read again."""
    monkeypatch.setattr(stream.tables.delta_table, "ROOM_MIN", 1_024)
    monkeypatch.setattr(stream.tables.delta_table, "LATEST_MAX", 1_024)
    model, store = ToyModel(SPEC, 3), MemoryStore("m")
    model.learn(8)
    model.publish(store, "base")
    loader = VersionLoader(store, "m")
    first = loader.load(1)
    page = model.page(9, time_ms=TIME_MS)
    ranked(first, page)  # it admits the items
    said = ranked(first, page)
    cells = getattr(first.pairs.live, kept).matrix.cells
    before = cells.copy()
    assert np.count_nonzero(before) > 10
    cells.view(np.float32)[..., ::2][before != 0] = 7.0  # whoever reads a cell now can be seen
    assert ranked(first, page) != said
    cells[:] = before
    model.learn(1)
    for key in model.encoder.wide_keys(one_page(page)).keys[:20].tolist():
        model.wide[key] = 0.5
        model.fresh["wide"].add(key)
    model.publish(store)
    second = loader.load(2, first)
    assert getattr(second.pairs.live, kept) is getattr(first.pairs.live, kept)
    ((words, scores),) = expected(model, [page])
    got, logits = ranked(second, page)
    assert got == words
    assert np.allclose(1 / (1 + np.exp(-np.frombuffer(logits, np.float32))), scores, atol=1e-5)
    read_anew = np.count_nonzero((cells != before) & (before != 0))
    assert 0 < read_anew < np.count_nonzero(before)


def test_what_was_read_holds_on_when_a_table_is_laid_out_anew() -> None:
    """Unless the memory is, too: its cells are others, though epochs have the same numbers."""
    model, store = ToyModel(SPEC, 1), MemoryStore("m")
    model.learn(2)
    model.publish(store, "base")
    table = load_version(store, "m", 1).wide
    cells, held = TableCells(CellPool(1), table), []
    for _ in range(7):
        later = table.compacted()
        followed = cells.follow(later)
        same = followed.matrix.cells is cells.matrix.cells
        held.append(same)
        assert followed.matrix.previous_epoch == (cells.matrix.epoch if same else NO_EPOCH)
        assert cells.follow(later.compacted()).matrix.previous_epoch == NO_EPOCH  # who skips one knows nothing
        table, cells = later, followed
    assert set(held) == {True, False}


def test_a_matrix_has_room_for_a_bounded_number_of_items() -> None:
    """Later ones have no slot; without matrices nobody asks for one; a new base keeps slots, and no cells."""
    model, store = ToyModel(SPEC, 1), MemoryStore("m")
    model.publish(store, "base")
    loader = VersionLoader(store, "m")
    version = loader.load(1)
    pairs = version.pairs.live
    version.pairs.admit(np.arange(1, 60, dtype=np.uint64))
    version.pairs.admit(np.arange(1, 200, dtype=np.uint64))
    heads = pairs.slots.heads
    assert sorted(heads[heads[:, 0] != 0, 1].tolist()) == list(range(1, 65))
    page = model.page(9, time_ms=TIME_MS)
    assert ranked(version, page)[0] == page.tobytes()
    nothing = PairCache(TableCells(CellPool(0), version.wide), TableCells(CellPool(0), version.statistics))
    assert (version.pairs.is_used, nothing.is_used) == (True, False)
    model.learn(1)
    model.publish(store, "base")
    later = loader.load(2, version).pairs.live
    assert (later.slots, later.weights is pairs.weights) == (pairs.slots, False)


def test_items_that_nobody_asks_for_any_more_keep_none_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Junk takes every slot; some pages later all are evicted, and what is asked for has slots and cells again."""
    monkeypatch.setattr(ranker.kernels.pair_cache, "RENEW_PAGES", 5)
    model, store = ToyModel(SPEC, 3), MemoryStore("m")
    model.learn(8)
    model.publish(store, "base")
    version = load_version(store, "m", 1)
    page = model.page(9, time_ms=TIME_MS)
    cells = version.pairs.live.weights.matrix.cells
    for n in range(40):
        version.pairs.admit(np.arange(1 + 1_000 * n, 1_001 + 1_000 * n, dtype=np.uint64))
    assert version.pairs.live.number == 8
    assert version.pairs.live.weights.matrix.cells.nbytes == cells.nbytes
    for _ in range(5):
        version.pairs.admit(np.arange(1, 1_000, dtype=np.uint64))
        said = ranked(version, page)
        assert said == ranked(version, page)
    assert version.pairs.live.number > 8
    slots, weights = version.pairs.live.slots, version.pairs.live.weights.matrix
    assert len(version.begin(page.copy(), TIME_MS).user.slots) > 0
    assert (version.begin(page.copy(), TIME_MS).user.slots >= 0).all()
    assert np.count_nonzero(weights.cells >> np.uint64(56) == weights.epoch) > 0
    later = version.pairs.follow(version.wide, version.statistics).live
    assert later.slots is slots, "the next version goes on with the newest generation"


def test_a_page_that_began_before_its_slots_were_evicted_scores_the_same() -> None:
    """Its user's items count as items without a slot: other items have those slots by now."""
    model, store = ToyModel(SPEC, 5), MemoryStore("m")
    model.learn(8)
    model.publish(store, "base")
    version, page = load_version(store, "m", 1), model.page(9, time_ms=TIME_MS)
    said = ranked(version, page)
    words = page.copy()
    run = version.begin(words, TIME_MS)
    version.score(run, 0, 4)
    for n in range(ranker.kernels.pair_cache.RENEW_PAGES + 2):
        version.pairs.admit(np.arange(1 + 70 * n, 70 + 70 * n, dtype=np.uint64))
    other = model.page(9, time_ms=TIME_MS)
    ranked(version, other)
    ranked(version, other)
    assert version.pairs.live.number > run.generation
    version.score(run, 4, len(run.logits))
    assert (words.tobytes(), run.logits.tobytes()) == said
