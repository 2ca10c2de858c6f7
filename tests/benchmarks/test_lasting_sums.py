"""The benchmarks `calibration` and `drift`: what they compare is the same thing."""

import numpy as np
import pytest
from msgspec import structs

from benchmarks.calibration import CHUNK, COMPENSATED, EXACT, STOCHASTIC, kernel_predictions, loop_predictions
from benchmarks.drift import ITEMS, SPEC, Life, forgetful, world_of
from stream.spec.spec_file import parse_spec


def test_the_ways_to_keep_sums_are_of_one_optimizer() -> None:
    """While sums are small all of them predict the same, the wide part's kernel too."""
    wanted = np.concatenate(list(loop_predictions(EXACT, CHUNK)))
    assert 0.0002 < wanted[-1] < 0.01, "it has learned the rate"
    np.testing.assert_allclose(np.concatenate(list(kernel_predictions(CHUNK))), wanted, rtol=0.05)
    for way in (COMPENSATED, STOCHASTIC):
        np.testing.assert_allclose(np.concatenate(list(loop_predictions(way, CHUNK))), wanted, rtol=0.05)


def test_a_turned_world_is_the_opposite() -> None:
    """What a model gained from the past is a loss once tastes have turned; nobody else's tastes come into it."""
    world = world_of(3, 3_000)
    assert world.logits.shape == (6, ITEMS)
    assert np.array_equal(world.logits, world_of(3, 10).logits)
    life = Life(parse_spec(SPEC), world, 0)
    assert life.gain(1) == pytest.approx(0.0, abs=0.02), "a new model says a half, more or less"
    life.learn(3_000, 1)
    assert life.gain(1) > 0.05
    assert life.gain(-1) < 0.0


def test_both_parts_forget() -> None:
    """The half-life is that of the wide and of the deep part."""
    spec = forgetful(parse_spec(SPEC), "15d")
    assert spec.wide.half_life == spec.deep.half_life == "15d"
    assert structs.replace(spec, wide=parse_spec(SPEC).wide, deep=parse_spec(SPEC).deep) == parse_spec(SPEC)
