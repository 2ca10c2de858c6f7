"""Items' parts of the first layer: kept, bounded, and never other than what they'd be if computed again."""

import numpy as np
import pytest

from ranker.kernels import item_activation_cache as parts
from ranker.versions.model import Version, score_features
from ranker.versions.version_loader import VersionLoader, load_version
from stream.snapshots.memory_store import MemoryStore
from tests.support.random_models import ToyModel, some_spec


@pytest.fixture
def model() -> ToyModel:
    """A model whose deep part reads items."""
    model = ToyModel(some_spec(np.random.default_rng(4), ["wide", "deep"]), 5)
    assert {"item.tags", "item.year"} <= {*model.encoder.deep_lists, *model.encoder.deep_numbers}
    return model


def kept(version: Version) -> int:
    """How many parts a version has."""
    assert version.tower is not None
    return version.tower.items.live.table.count - 1


def test_what_is_kept_changes_no_bit(model: ToyModel) -> None:
    """Scores are the same with all parts there, with none, and when there's room for few of them."""
    store = MemoryStore("m")
    model.publish(store)
    pages = [model.page(n) for n in (1, 30, 12, 40)]
    once = [score_features(load_version(store, "m", 1), p.tobytes(), int(p[1])).tolist() for p in pages]
    version = load_version(store, "m", 1)
    for _ in range(3):
        assert [score_features(version, p.tobytes(), int(p[1])).tolist() for p in pages] == once


def test_the_number_of_parts_is_bounded(model: ToyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the bound those stay that were used most; scores don't change."""
    store = MemoryStore("m")
    model.publish(store)
    free = load_version(store, "m", 1)
    monkeypatch.setattr(parts, "ITEMS_MAX", 12)
    monkeypatch.setattr("ranker.versions.model.BATCH_ITEMS", 4)
    tight = load_version(store, "m", 1)
    for _ in range(30):
        page = model.page(20)
        assert (score_features(tight, page.tobytes(), 20) == score_features(free, page.tobytes(), 20)).all()
        assert kept(tight) <= 12
    assert kept(free) > 12


def test_a_part_that_another_thread_is_putting_is_missing(model: ToyModel) -> None:
    """Its key is there before its number: until then nothing is scored by it."""
    store = MemoryStore("m")
    model.publish(store)
    version, page = load_version(store, "m", 1), model.page(4)
    score_features(version, page.tobytes(), 4)
    run = version.begin(page.copy())
    assert version._score(run, 0, 4, version._live)
    heads = version._live.table.heads
    heads[heads[:, 0] != 0, 1] = 0
    assert not version._score(run, 0, 4, version._live)


def test_the_next_deep_version_begins_with_the_hottest(model: ToyModel) -> None:
    """Before the swap the new version has the parts that were used, computed by its own weights."""
    store = MemoryStore("m")
    loader = VersionLoader(store, "m")
    model.publish(store)
    first = loader.load(1)
    page = model.page(30)
    score_features(first, page.tobytes(), 30)
    model.learn()
    model.publish(store, golden=[], examples=0)
    second = loader.load(2, first)
    assert kept(second) >= kept(first) > 10
    before = kept(second)
    scores = score_features(second, page.tobytes(), 30)
    assert kept(second) == before
    assert (scores == score_features(load_version(store, "m", 2), page.tobytes(), 30)).all()
