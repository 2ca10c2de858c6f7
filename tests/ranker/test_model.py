"""What a version scores, and that building it from its predecessor changes nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from ranker.model import Version, score_features
from ranker.versions import Loader, load_version
from stream.errors import BadEvent
from stream.memory_store import MemoryStore
from tests.ranker.models import ToyModel, some_spec

SEEDS = st.integers(0, 2**32 - 1)
PARTS = st.sampled_from([["wide", "deep"], ["wide"], ["deep"]])
STEPS = st.lists(st.sampled_from(["base", "delta", "delta", "merged"]), min_size=1, max_size=8)


def toy(seed: int, parts: list[str]) -> tuple[ToyModel, MemoryStore]:
    """A random model and a store for it."""
    return ToyModel(some_spec(np.random.default_rng(seed), parts), seed), MemoryStore("m")


@given(SEEDS, PARTS, STEPS)
@how(max_examples=40)
def test_a_version_scores_as_the_formula_says(seed: int, parts: list[str], steps: list[str]) -> None:
    """Over random specs and chains of contents, probabilities equal the formula in float64 within 1e-5."""
    model, store = toy(seed, parts)
    loader, version = Loader(store, "m"), None
    for step in steps:
        model.learn(2)
        model.publish(store, step)
        version = loader.load(model.number, version)
        page = model.page(9)
        assert np.abs(score_features(version, page.tobytes(), 9) - model.scores(page)).max() <= 1e-5


@given(SEEDS, STEPS)
@how(max_examples=25)
def test_statistics_of_a_version_are_the_learners(seed: int, steps: list[str]) -> None:
    """A page filled from a version's layers has the very words that the publisher's own table gives."""
    model, store = toy(seed, ["wide"])
    loader, version = Loader(store, "m"), None
    for step in steps:
        model.learn(2)
        model.publish(store, step)
        version = loader.load(model.number, version)
        page = model.page(9, time_ms=5_000_000)
        again = page.copy()
        version.fill(again, 5_000_000)
        assert (again == page).all()


@given(SEEDS, PARTS, STEPS)
@how(max_examples=25)
def test_a_chain_of_builds_equals_one_from_nothing(seed: int, parts: list[str], steps: list[str]) -> None:
    """A version built from its predecessor scores bit for bit like one loaded whole; older ones score as they did."""
    model, store = toy(seed, parts)
    loader, version = Loader(store, "m"), None
    before: list[tuple[Version, bytes, list[float]]] = []
    for step in steps:
        model.learn(2)
        model.publish(store, step)
        version = loader.load(model.number, version)
        raw = model.page(6).tobytes()
        scores = score_features(version, raw, 6).tolist()
        assert scores == score_features(load_version(store, "m", model.number), raw, 6).tolist()
        before.append((version, raw, scores))
    for old, raw, scores in before:
        assert score_features(old, raw, 6).tolist() == scores


def test_features_of_another_layout_are_refused() -> None:
    """`score_features` never scores bytes that were made for another spec, or cut off."""
    model, store = toy(1, ["wide"])
    model.publish(store)
    version = load_version(store, "m", 1)
    raw = model.page(3).tobytes()
    other = (int.from_bytes(raw[:8], "little") ^ 1).to_bytes(8, "little") + raw[8:]
    for bad in (other, raw[:-8], b""):
        with pytest.raises(BadEvent):
            score_features(version, bad, 3)
