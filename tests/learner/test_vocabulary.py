"""Embedding rows: given, forgotten, used again; restored and published as they are."""

from pathlib import Path

import numpy as np
import pytest

from learner.chain import Cutter, serving_deep_logits, serving_wide_logits
from learner.checkpoint import CheckpointFiles, restore, take
from learner.model import Model
from learner.step import seats_of
from learner.vocabulary import Vocabulary
from ranker.model import score_features
from ranker.versions import load_version
from stream.memory_store import MemoryStore
from stream.spec import Spec
from stream.table import U64
from tests.learner.test_model import assert_same, learned
from tests.learner.test_publisher import held, laid_together
from tests.learner.worlds import records, small_spec

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
    monkeypatch.setattr("learner.vocabulary.SWEEP_EXAMPLES", 32)


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


def test_an_id_that_wasnt_seen_for_long_loses_its_row() -> None:
    """And its sightings; the row goes to the next new id, with a vector of that id's own and no AdaGrad sums."""
    vocabulary = Vocabulary(4, 2, 1_000, HOUR_MS)
    vocabulary.count(ids(5, 5, 6, 6, 7), 0)
    start = vocabulary.vectors[1].copy()
    vocabulary.held[1:3] = 3.0
    vocabulary.count(ids(6), HOUR_MS // 2)
    vocabulary.sweep(HOUR_MS + 1)
    assert vocabulary.rows_of(ids(5, 6, 7)).tolist() == [0, 2, 0]
    assert (len(vocabulary), len(vocabulary.table)) == (2, 1)
    vocabulary.count(ids(8, 8, 5), HOUR_MS + 1)
    assert vocabulary.rows_of(ids(8, 5)).tolist() == [1, 0], "5 starts to be counted anew"
    assert not vocabulary.squares[1].any()
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
    vocabulary.sweep(1_100)
    assert len(vocabulary) == 876, "seven eighths, and the row of unseen ids"
    assert vocabulary.rows_of(ids(125, 126)).tolist() == [0, 126]
    vocabulary.count(ids(1_050), 1_100)
    assert vocabulary.rows_of(ids(1_050)).tolist() == [1], "the lowest free row"


def test_ids_that_wait_for_a_row_are_bounded_too() -> None:
    """A stream of ids that are seen once fills no memory."""
    vocabulary = Vocabulary(2, 5, 1_000)
    for at in range(50):
        vocabulary.count(np.arange(100 * at + 1, 100 * at + 101).astype(np.uint64), at)
        vocabulary.sweep(at)
        assert len(vocabulary.table) <= 1_000


def test_seats_are_those_of_a_sort() -> None:
    """Distinct rows in order of appearance, and where each is, also when they collide."""
    random = np.random.default_rng(0)
    for _ in range(50):
        rows = random.integers(0, 40, random.integers(1, 200)) << int(random.integers(0, 40))
        seats, unique = seats_of(rows)
        assert unique.tolist() == list(dict.fromkeys(rows.tolist()))
        np.testing.assert_array_equal(unique[seats], rows)


@pytest.mark.parametrize("stop", range(60, 100, 3))
def test_forgetting_is_restored(sweeps: None, tmp_path: Path, stop: int) -> None:
    """Wherever a learner is killed, it goes on bit for bit, though rows were forgotten and used again."""
    spec = forgetful_spec()
    log = records(spec, 330)
    whole = learned(spec, log)
    assert whole.deep
    assert whole.deep.vocabulary.forgotten > 20, "rows were forgotten"
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
    cutter, token, checked = Cutter(model), store.take_token(), 0
    assert model.deep
    for offset, record in enumerate(log):
        model.learn(record, offset)
        version = offset + 1
        cut = cutter.cut(version, version - 1, token, version, 0, {}, deep=True)
        store.put_blobs(cut.blobs)
        store.publish(cut.manifest)
        assert laid_together(store, cut.manifest)[2] == held(model)[2], "key by key"
        if version % 20:
            continue
        found = load_version(store, spec.name, version)
        for page in (examples.page for old in log[:version:5] for examples in old):
            words = np.frombuffer(page.features, np.uint64).copy()
            logits = (serving_wide_logits(model, words) + serving_deep_logits(model, words)).astype(np.float64)
            scores = score_features(found, page.features, len(page.items))
            np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-5)
            checked += 1
    assert model.deep.vocabulary.forgotten > 20
    assert checked > 100
