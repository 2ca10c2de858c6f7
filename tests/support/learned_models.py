"""Models that have learned a log, and their comparison to the bit."""

from collections.abc import Iterator

import numpy as np

from learner.checkpoints.checkpoint import take
from learner.checkpoints.model_arrays import VALUES, parts_of
from learner.publishing.version_builder import VersionBuilder
from learner.training.model import Model
from ranker.versions.model import Version
from ranker.versions.version_loader import VersionLoader
from stream.events.types import Examples
from stream.snapshots.memory_store import MemoryStore
from stream.spec.spec import Spec


def learned(spec: Spec, log: list[list[Examples]], model: Model | None = None, start: int = 0) -> Model:
    """A model that learned log[start:]."""
    model = model or Model(spec)
    for offset in range(start, len(log)):
        model.learn(log[offset], offset)
    return model


def served_versions(model: Model, log: list[list[Examples]]) -> Iterator[tuple[int, Version]]:
    """Learn a log; after every eighth record a version of it as a ranker has it by deltas, and that record's offset."""
    store = MemoryStore(model.spec.name)
    builder, token, loader = VersionBuilder(model), store.take_token(), VersionLoader(store, model.spec.name)
    version: Version | None = None
    for offset, record in enumerate(log):
        model.learn(record, offset)
        if offset % 8 == 7:
            number = offset // 8 + 1
            cut = builder.build(number, number - 1, token, offset + 1, 0, {}, deep=True)
            store.put_blobs(cut.blobs)
            store.publish(cut.manifest)
            version = loader.load(number, version)
            yield offset, version


def state_of(model: Model) -> dict[str, bytes]:
    """Every array of a checkpoint; tables in the order of their keys, since they may lie differently."""
    arrays = take(model, 0, 0, 0).arrays
    for name in parts_of(model):
        rows, values = arrays[name], arrays.get(name + VALUES)
        order = np.argsort(rows[:, 0])
        arrays[name] = rows[order]
        if values is not None:
            arrays[name + VALUES] = values[np.argsort(rows[rows[:, 1] != 0, 0])]
    return {name: array.tobytes() for name, array in arrays.items()}


def assert_same(a: Model, b: Model) -> None:
    """Every bit of state is equal; tables may lie differently."""
    assert take(a, 0, 0, 0).meta == take(b, 0, 0, 0).meta
    first, second = state_of(a), state_of(b)
    assert first.keys() == second.keys(), first.keys() ^ second.keys()
    for name, raw in first.items():
        assert raw == second[name], name
