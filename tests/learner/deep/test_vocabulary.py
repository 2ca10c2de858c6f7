"""Embedding rows: given, forgotten, used again; restored and published as they are."""

from pathlib import Path

import numpy as np
import pytest

from learner.checkpoints.checkpoint import restore, take
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.deep.joint_step import unique_rows
from learner.deep.vocabulary import Vocabulary
from learner.deep.vocabulary_kernels import count_sightings, look_up
from learner.publishing.version_builder import VersionBuilder, serving_deep_logits, serving_wide_logits
from learner.training.model import Model
from ranker.versions.model import score_features
from ranker.versions.version_loader import load_version
from stream.events.types import WINDOW_CLOSED, Examples, Impression, Item
from stream.features.page_features import Catalogue, Layout, build_page
from stream.snapshots.memory_store import MemoryStore
from stream.spec.spec import Spec
from stream.tables.dtypes import U64
from stream.tables.table_runs import values_of
from tests.support.assembled_versions import assembled, learned_state
from tests.support.learned_models import assert_same, learned
from tests.support.learner_world import records, small_spec

HOUR_MS = 3_600_000


def ids(*numbers: int) -> U64:
    """As an array."""
    return np.array(numbers, np.uint64)


def forgetful_spec() -> Spec:
    """The small spec; its pages are 10 s apart, and an id that isn't seen for 100 s is forgotten."""
    return small_spec(**{"min_count = 2": 'min_count = 2\nexpire = "100s"'})


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgetting is looked after every 32 examples."""
    monkeypatch.setattr("learner.deep.vocabulary.EVICT_EXAMPLES", 32)


def test_an_id_gets_its_row_at_its_min_count_th_sighting() -> None:
    """Before, it shares row 0; a new row's start is a hash of its key, whatever came before it."""
    first, second = Vocabulary(4, 3, 1_000), Vocabulary(4, 3, 1_000)
    first.count(ids(5, 5))
    assert first.rows == 1
    first.count(ids(5))
    assert first.rows == 2
    second.count(ids(9, 9, 9, 5, 5, 5))
    np.testing.assert_array_equal(first.vectors[1], second.vectors[2])
    assert 0 < np.abs(first.vectors[1]).max() <= 0.02


def sighted(vocabulary: Vocabulary, numbers: U64, pages: U64, lists: int = 1) -> None:
    """Count these ids on these pages, one in each list after the other."""
    state, n = vocabulary.prepare(numbers), len(numbers)
    slots, rows = np.full((2, n), -1, np.int64)
    look_up(state, numbers, np.arange(n + 1), slots, rows)
    assert n % lists == 0
    count_sightings(state, numbers, slots, rows, np.full(n, 1_000, np.int64), pages)


def looked_up(vocabulary: Vocabulary, numbers: U64, offsets: list[int]) -> list[int]:
    """The row that each id of these lists reads."""
    slots, rows = np.full((2, len(numbers)), -1, np.int64)
    look_up(vocabulary.prepare(numbers), numbers, np.array(offsets), slots, rows)
    found: list[int] = rows.tolist()
    return found


def test_a_page_counts_once() -> None:
    """However many of its items have the id, and if its examples come after those of up to two other pages."""
    vocabulary = Vocabulary(4, 3, 1_000, unseen=ids(0))
    sighted(vocabulary, ids(*[5] * 10), ids(*[7] * 10))
    for page in (8, 7, 8, 7):
        sighted(vocabulary, ids(5), ids(page))
    assert vocabulary.pending == 1
    assert vocabulary.assigned == 0
    sighted(vocabulary, ids(5), ids(0))
    assert vocabulary.assigned == 0, "page 0: a correction, which doesn't count"
    sighted(vocabulary, ids(5, 5), ids(9, 9))
    assert vocabulary.assigned == 1


def test_each_column_has_a_row_for_unseen_ids() -> None:
    """An id without a row reads its column's, and a new row starts there, give or take a hash of the id."""
    vocabulary = Vocabulary(4, 2, 1_000, HOUR_MS, unseen=ids(101, 102))
    assert vocabulary.rows == 3
    assert (vocabulary.assigned, vocabulary.pending) == (0, 0)
    assert looked_up(vocabulary, ids(5, 6, 7), [0, 1, 3]) == [1, 2, 2]
    assert looked_up(vocabulary, ids(5, 6, 7, 8), [0, 1, 1, 3, 4]) == [1, 1, 1, 2]
    vocabulary.embeddings[1, :4], vocabulary.embeddings[2, :4] = 3.0, -3.0
    for page in (1, 2):
        sighted(vocabulary, ids(5, 6), ids(page, page), lists=2)
    found = vocabulary.embeddings[vocabulary.rows_of(ids(5, 6)), :4]
    assert (np.abs(found - [[3.0], [-3.0]]) <= 0.02).all()
    assert len(np.unique(found)) == 8
    vocabulary.evict(100 * HOUR_MS)
    assert vocabulary.assigned == 0
    assert vocabulary.rows_of(ids(101, 102)).tolist() == [1, 2], "these never expire"


def test_a_model_of_an_earlier_build_shares_its_row_for_unseen_ids() -> None:
    """Each column's starts as the shared one was, so predictions go on as they were."""
    old = Vocabulary(4, 2, 1_000)
    old.count(ids(5, 5, 6))
    old.embeddings[0] = 0.25
    vocabulary = Vocabulary(4, 2, 1_000, unseen=ids(101, 102))
    rows = old.table.rows()
    vocabulary.restore(rows, old.embeddings[old.rows_of(ids(5))], old.embeddings[0], old.free_rows())
    assert vocabulary.rows_of(ids(5, 6, 101, 102)).tolist() == [1, 0, 2, 3]
    assert (vocabulary.embeddings[2:4] == 0.25).all()
    assert set(vocabulary.take_changed().tolist()) == {101, 102}
    assert vocabulary.live().tolist() == [0, 1, 2, 3]


def test_an_id_that_wasnt_seen_for_long_loses_its_row() -> None:
    """And its sightings; the row goes to the next new id, with a vector of that id's own and no AdaGrad sums."""
    vocabulary = Vocabulary(4, 2, 1_000, HOUR_MS)
    vocabulary.count(ids(5, 5, 6, 6, 7), 0)
    start = vocabulary.vectors[1].copy()
    vocabulary.embeddings[1:3] = 3.0
    vocabulary.count(ids(6), HOUR_MS // 2)
    vocabulary.evict(HOUR_MS + 1)
    assert vocabulary.rows_of(ids(5, 6, 7)).tolist() == [0, 2, 0]
    assert (len(vocabulary), len(vocabulary.table)) == (2, 1)
    vocabulary.count(ids(8, 8, 5), HOUR_MS + 1)
    assert vocabulary.rows_of(ids(8, 5)).tolist() == [1, 0], "5 starts to be counted again"
    assert not vocabulary.embeddings[1, 4:].any()
    assert not np.array_equal(vocabulary.vectors[1], start)
    fresh = Vocabulary(4, 2, 1_000)
    fresh.count(ids(8, 8))
    np.testing.assert_array_equal(vocabulary.vectors[1], fresh.vectors[1])


def test_over_the_bound_those_go_that_were_not_seen_for_longest() -> None:
    """Rows are never more than max_rows: ids wait until there's room, and the least recently seen make it."""
    vocabulary = Vocabulary(2, 1, 1_000)
    for at in range(1_100):
        vocabulary.count(ids(at + 1), at)
    assert len(vocabulary) == 1_001
    assert vocabulary.rows_of(ids(1_050)).tolist() == [0]
    vocabulary.evict(1_100)
    assert len(vocabulary) == 876, "seven eighths, and the row of unseen ids"
    assert vocabulary.rows_of(ids(125, 126)).tolist() == [0, 126]
    vocabulary.count(ids(1_050), 1_100)
    assert vocabulary.rows_of(ids(1_050)).tolist() == [1], "the lowest free row"


def test_of_those_of_one_time_the_least_ids_go() -> None:
    """With a row or waiting for one: as many as have to, not none and not all."""
    for min_count, left in ((1, 876), (2, 1)):
        vocabulary = Vocabulary(2, min_count, 1_000)
        vocabulary.count(np.arange(1_000, 0, -1).astype(np.uint64), 5)
        vocabulary.evict(5)
        assert len(vocabulary) == left
        assert len(vocabulary.table) == 875
        assert sorted(vocabulary.table.rows()[:, 0].tolist()) == list(range(126, 1_001))


def crowd(spec: Spec, step_ms: int) -> list[list[Examples]]:
    """Records of one example whose item has 20 tags that nobody has seen before."""
    layout, made = Layout(spec), list[list[Examples]]()
    for n in range(200):
        catalogue = Catalogue(layout)
        catalogue.put(Item("i", {"tags": [f"{n} {t}" for t in range(20)]}))
        words = build_page(layout, layout.user("u", {}, [], {}), catalogue, catalogue.rows(["i"]))
        page = Impression(f"r{n}", 1_000_000 + step_ms * n, "u", ["i"], features=words.tobytes())
        made.append([Examples(page, [n + 1], [0], [n % 2], [1.0], [WINDOW_CLOSED], [5])])
    return made


@pytest.mark.parametrize("step_ms", [0, 1_000])
@pytest.mark.parametrize("min_count", [1, 10])
def test_however_many_ids_an_example_brings_they_are_bounded(min_count: int, step_ms: int) -> None:
    """Those with a row and those that wait for one, at one time too; a learner that is restored has the same."""
    spec = small_spec(**{"min_count = 2": f"min_count = {min_count}\nmax_rows = 1000"})
    log, model, used, waiting = crowd(spec, step_ms), Model(spec), list[int](), list[int]()
    for offset, record in enumerate(log):
        model.learn(record, offset)
        assert model.deep
        used.append(model.deep.vocabulary.assigned)
        waiting.append(model.deep.vocabulary.pending)
        if offset == 120:
            again = restore(spec, take(model, offset + 1, 1, 1))
    assert max(used) <= 1_000
    assert max(waiting) <= 1_000
    assert max(used[-50:] if min_count == 1 else waiting[-50:]) > 800, "what was seen last is still there"
    assert_same(learned(spec, log, again, 121), model)


def test_ids_that_were_never_published_leave_nothing_behind() -> None:
    """While nothing is published rows come and go; only those that were published are reported as gone."""
    vocabulary = Vocabulary(2, 1, 1_000)
    vocabulary.count(ids(1, 2, 3))
    assert vocabulary.take_changed().tolist() == [1, 2, 3]
    for at in range(4, 20_000, 100):
        vocabulary.count(np.arange(at, at + 100).astype(np.uint64), at)
        if vocabulary.over_high_water:
            vocabulary.evict(at)
    assert vocabulary.evicted > 18_000
    assert np.concatenate(vocabulary.tombstones).tolist() == [1, 2, 3]
    restored = Vocabulary(2, 1, 1_000, expire_ms=1)
    rows, embeddings = vocabulary.table.rows(), vocabulary.embeddings
    restored.restore(rows, values_of(rows, embeddings), embeddings[0], vocabulary.free_rows())
    published = restored.keys[restored.live()]
    restored.evict(10**9)
    assert restored.take_changed().tolist() == np.sort(published[published != 0]).tolist(), "it may have been published"


def test_unique_rows_are_those_of_a_sort() -> None:
    """Distinct rows in order of appearance, and the index of each, also when hashes collide."""
    random = np.random.default_rng(0)
    for _ in range(50):
        rows = random.integers(0, 40, random.integers(1, 200)) << int(random.integers(0, 40))
        unique, inverse = unique_rows(rows)
        assert unique.tolist() == list(dict.fromkeys(rows.tolist()))
        np.testing.assert_array_equal(unique[inverse], rows)


@pytest.mark.parametrize("stop", range(60, 100, 3))
def test_forgetting_is_restored(sweeps: None, tmp_path: Path, stop: int) -> None:
    """Wherever a learner is killed, it goes on bit for bit, though rows were forgotten and used again."""
    spec = forgetful_spec()
    log = records(spec, 330)
    whole = learned(spec, log)
    assert whole.deep
    assert whole.deep.vocabulary.evicted > 20, "rows were forgotten"
    files = CheckpointFiles(tmp_path)
    files.write(take(learned(spec, log[:stop]), stop, 1, 1))
    found = files.newest()
    assert found
    assert_same(learned(spec, log, restore(spec, found), stop), whole)


def test_a_ranker_forgets_with_the_learner(sweeps: None) -> None:
    """It scores pages of long ago as the learner does, whose ids lost their rows to others since.

    Over more versions than a chain has small deltas, so that tombstones pass through merged ones and new bases.
    """
    spec = forgetful_spec()
    log = records(spec, 300)
    model, store = Model(spec), MemoryStore(spec.name)
    builder, token, checked = VersionBuilder(model), store.take_token(), 0
    assert model.deep
    for offset, record in enumerate(log):
        model.learn(record, offset)
        version = offset + 1
        cut = builder.build(version, version - 1, token, version, 0, {}, deep=True)
        store.put_blobs(cut.blobs)
        store.publish(cut.manifest)
        assert assembled(store, cut.manifest)[2] == learned_state(model)[2], "key by key"
        if version % 20:
            continue
        found = load_version(store, spec.name, version)
        for page in (examples.page for old in log[:version:5] for examples in old):
            words = np.frombuffer(page.features, np.uint64).copy()
            logits = (serving_wide_logits(model, words) + serving_deep_logits(model, words)).astype(np.float64)
            scores = score_features(found, page.features, len(page.items))
            np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-5)
            checked += 1
    assert model.deep.vocabulary.evicted > 20
    assert checked > 100
