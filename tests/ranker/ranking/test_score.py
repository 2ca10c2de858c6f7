"""Scoring in batches on threads."""

import threading
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from ranker.kernels.page import Run
from ranker.ranking.score import Scorer
from ranker.versions.model import Version
from ranker.versions.version_loader import load_version
from stream.features.serve_as import as_served
from stream.snapshots.memory_store import MemoryStore
from tests.support.random_models import ToyModel, some_spec


@pytest.fixture(scope="module")
def model() -> ToyModel:
    """A toy model."""
    return ToyModel(some_spec(np.random.default_rng(5), ["wide", "deep"]), 5)


@pytest.fixture(scope="module")
def version(model: ToyModel) -> Version:
    """Its version."""
    store = MemoryStore("m")
    model.publish(store)
    return load_version(store, "m", 1)


@pytest.mark.parametrize(("threads", "batch"), [(1, 50), (2, 1), (4, 3)])
def test_batches_and_threads_change_nothing(model: ToyModel, version: Version, threads: int, batch: int) -> None:
    """However a page is cut and shared out, its scores are those of the whole page, to the bit."""
    scorer = Scorer(threads, batch)
    for n in (1, 2, 30):
        page = model.page(n)
        scores, done = scorer.score(version, as_served(version.plan.layout, page))
        assert done.all()
        assert (scores == version.probabilities(page)).all()
    scorer.close()


def vars_of(version: Version) -> dict[str, Any]:
    """What a version is made of."""
    return {field.name: getattr(version, field.name) for field in fields(version)}


class Failing(Version):
    """A version whose second batch fails, in a helper or in the caller."""

    def score(self, run: Run, first: int, last: int) -> None:
        """Fails but for the first batch."""
        if first:
            raise RuntimeError("as the test wants")
        super().score(run, first, last)


def test_a_failing_batch_fails_the_request(model: ToyModel, version: Version) -> None:
    """An error in a thread of the pool isn't lost: whoever asked gets it."""
    scorer = Scorer(3, 1)
    failing = Failing(**vars_of(version))
    with pytest.raises(RuntimeError, match="as the test wants"):
        scorer.score(failing, model.page(9))
    scorer.close()


class Hanging(Version):
    """A version whose helpers hang until they are let go; the caller waits for one to hang."""

    hangs, let_go = threading.Event(), threading.Event()

    def score(self, run: Run, first: int, last: int) -> None:
        """Hangs in any thread but the caller's."""
        if threading.current_thread() is threading.main_thread():
            self.hangs.wait(20)
        else:
            self.hangs.set()
            self.let_go.wait(20)
        super().score(run, first, last)


def test_a_hanging_helper_is_left_behind_at_the_deadline(model: ToyModel, version: Version) -> None:
    """At the deadline the caller goes on with what is scored; what comes later changes nothing."""
    import time

    scorer = Scorer(2, 1)
    hanging = Hanging(**vars_of(version))
    page = as_served(version.plan.layout, model.page(5))
    scores, done = scorer.score(hanging, page, time.monotonic() + 1.0)
    before = scores.copy()
    Hanging.let_go.set()
    scorer.close()
    assert done.sum() == 4
    assert (scores == before).all()
    assert (scores[done] == version.probabilities(page)[done]).all()
