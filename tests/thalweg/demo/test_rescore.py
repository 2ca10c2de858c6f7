"""A reply is explained by its version alone: by its statistics as well as by its weights."""

import msgspec
import numpy as np
import pytest

from ranker.ranking.rank import rank_with
from ranker.ranking.score import Scorer
from ranker.versions.model import Version, score_features
from ranker.versions.version_loader import load_version
from stream.events.types import RankReply
from stream.snapshots.memory_store import MemoryStore
from stream.tables.dtypes import U64
from tests.support.random_models import ToyModel, some_spec
from thalweg.demo.rescore import explains, rescore

TIME_MS = 5_000_000


@pytest.fixture
def published() -> tuple[MemoryStore, ToyModel]:
    """Two versions of a model whose statistics move."""
    store, model = MemoryStore("m"), ToyModel(some_spec(np.random.default_rng(5), ["wide", "deep"]), 5)
    model.publish(store)
    model.learn()
    model.publish(store)
    return store, model


def replied(version: Version, words: U64) -> RankReply:
    """What a ranker answers with this version."""
    ranked = rank_with(version, words, TIME_MS, 5, Scorer(1))
    items = [f"i{n}" for n in ranked.order]
    return RankReply("r", "u", items, ranked.scores, version.number, features=ranked.features, time_ms=TIME_MS)


def test_honest_replies_are_explained(published: tuple[MemoryStore, ToyModel]) -> None:
    """A reply by one version is explained by that one and by no other; one without a version can't be checked."""
    store, model = published
    versions = [load_version(store, "m", n) for n in (1, 2)]
    for one in versions:
        for _ in range(20):
            reply = replied(one, model.page(9))
            assert [explains(version, reply) for version in versions] == [one is version for version in versions]
    found = rescore(store, "m", [replied(versions[0], model.page()), RankReply("r", "u", ["i"], [1.0], 0)])
    assert (found.checked, found.mixed, found.unavailable) == (1, 0, 1)


def test_statistics_of_another_version_are_noticed(published: tuple[MemoryStore, ToyModel]) -> None:
    """Scores that fit the features are not enough: with the statistics of another version, the reply is mixed."""
    store, model = published
    before, after = (load_version(store, "m", n) for n in (1, 2))
    other = replied(before, model.page(9))
    scores = score_features(after, other.features, len(other.items)).tolist()
    mixed = msgspec.structs.replace(other, version=2, scores=scores)
    assert not explains(after, mixed)
    assert rescore(store, "m", [mixed]).mixed == 1
