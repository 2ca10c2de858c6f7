"""Models that have learned a log, and their comparison to the bit."""

import numpy as np

from learner.checkpoint import take
from learner.training.model import Model
from stream.events.types import Examples
from stream.spec.spec import Spec


def learned(spec: Spec, log: list[list[Examples]], model: Model | None = None, start: int = 0) -> Model:
    """A model that learned log[start:], with warm starts that read it again."""
    model = model or Model(spec)
    model.reread = lambda offset: iter(log[offset:])
    for offset in range(start, len(log)):
        model.learn(log[offset], offset)
    return model


def assert_same(a: Model, b: Model) -> None:
    """Every bit of state is equal; tables may lie differently."""
    first, second = take(a, 0, 0, 0), take(b, 0, 0, 0)
    assert first.meta == second.meta
    for name, array in first.arrays.items():
        other = second.arrays[name]
        if name in ("wide", "statistics", "vocabulary"):
            array, other = array[np.argsort(array[:, 0])], other[np.argsort(other[:, 0])]
        elif name == "seen_ids":
            array, other = np.sort(array), np.sort(other)
        assert array.tobytes() == other.tobytes(), name
