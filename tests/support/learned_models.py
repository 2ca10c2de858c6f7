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


def state_of(model: Model) -> dict[str, bytes]:
    """Every array of a checkpoint; tables in the order of their keys, since they may lie differently."""
    arrays = take(model, 0, 0, 0).arrays
    for name in "wide", "statistics", "likenesses", "vocabulary":
        if name in arrays:
            arrays[name] = arrays[name][np.argsort(arrays[name][:, 0])]
    arrays["seen_ids"] = np.sort(arrays["seen_ids"])
    return {name: array.tobytes() for name, array in arrays.items()}


def assert_same(a: Model, b: Model) -> None:
    """Every bit of state is equal; tables may lie differently."""
    assert take(a, 0, 0, 0).meta == take(b, 0, 0, 0).meta
    first, second = state_of(a), state_of(b)
    assert first.keys() == second.keys()
    for name, raw in first.items():
        assert raw == second[name], name
