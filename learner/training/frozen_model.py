"""A frozen copy of what a model predicts by: wide weights, embeddings, layers, quantiles. Nothing of how it learns.

Tables are copied run by run, while the model goes on learning: a weight is as of its run's copying, which is at an
example index. So the copy is a model whose weights are a little apart in time, as those of a step would be; a pause
for all of them would be longer than what a rebuilt weight is worth.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from learner.deep.deep_model import DeepModel
from learner.deep.tower import TowerState, allocate_activations, forward
from learner.wide.ftrl import Ftrl
from stream.features.encoder import DeepInput, WideKeys
from stream.features.quantiles import quantise
from stream.tables.dtypes import F32, I64, U64
from stream.tables.frozen_table import FrozenTable, TableCopy
from stream.tables.jit import kernel

RUN_KEYS: Final = 1 << 16  # wide keys that are copied at once: some milliseconds
RUN_FLOATS: Final = 1 << 19  # of embeddings
NO_SQUARES: Final[F32] = np.zeros(0, np.float32)


class FrozenDeep:
    """The deep part as of one time. `unseen` float32 [lists, dim]: each list's vector of ids that have none."""

    def __init__(self, vectors: FrozenTable, unseen: F32, tower: TowerState, boundaries: F32) -> None:
        self.vectors, self.unseen, self.tower, self.boundaries = vectors, unseen, tower, boundaries

    def score(self, given: DeepInput) -> F32:
        """Logits, float32 [B]; bit for bit those of the model that was copied."""
        logits = np.empty(len(given.numbers), np.float32)
        numbers = quantise(given.numbers, self.boundaries)
        rows = self.vectors.rows_of(given.ids)
        _score(self.tower, self.vectors.values, self.unseen, rows, given.offsets, numbers, logits)
        return logits


class FrozenModel:
    """Predicts as the model did when it was copied. `examples`: its example index when copying began."""

    def __init__(self, examples: int, wide: FrozenTable, deep: FrozenDeep | None) -> None:
        self.examples, self.wide, self.deep = examples, wide, deep

    def predict_encoded(self, keys: WideKeys, given: DeepInput) -> F32:
        """P(Y=1) of examples, float32 [B]."""
        rows = self.wide.rows_of(keys.keys)
        weights = np.zeros(len(rows), np.float32)
        known = rows >= 0
        weights[known] = self.wide.values[rows[known], 0]
        logits = np.add.reduceat(weights, keys.offsets[:-1])
        if self.deep:
            logits = logits + self.deep.score(given)
        predictions: F32 = (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
        return predictions

    def without(self, wide: U64, ids: U64) -> "FrozenModel":
        """The same without these keys of the wide part, and ids of the deep part."""
        deep = self.deep
        if deep:
            deep = FrozenDeep(deep.vectors.without(ids), deep.unseen, deep.tower, deep.boundaries)
        return FrozenModel(self.examples, self.wide.without(wide), deep)


class ModelCopy:
    """A `FrozenModel` being copied, `step` by step, of these parts."""

    def __init__(self, wide: Ftrl, deep: DeepModel | None, examples: int) -> None:
        self._of_wide, self._of_deep, self._examples = wide, deep, examples
        self._wide = TableCopy(len(wide.table), 1)
        self._vectors = TableCopy(deep.vocabulary.assigned, deep.spec.embedding_dim) if deep else None

    def step(self) -> FrozenModel | None:
        """Copy the next run; all that isn't a table with the last. Returns the copy when it's complete."""
        wide, deep = self._of_wide, self._of_deep
        if not self._wide.is_done:
            rows = self._wide.rows(wide.table, RUN_KEYS)
            weights = wide.weights(rows)
            used = weights != 0
            self._wide.add(rows[used, 0], weights[used, None])
            if not self._wide.is_done or (deep and len(wide.table) > RUN_KEYS):
                return None
        if deep is None or self._vectors is None:
            return FrozenModel(self._examples, self._wide.frozen(), None)
        rows = self._vectors.rows(deep.vocabulary.table, max(1, RUN_FLOATS // deep.spec.embedding_dim))
        rows = rows[rows[:, 1] != 0]
        self._vectors.add(rows[:, 0], deep.vocabulary.vectors[rows[:, 1].astype(np.int64)])
        if not self._vectors.is_done:
            return None
        tower = deep.tower.state._replace(weights=deep.tower.state.weights.copy(), squares=NO_SQUARES)
        frozen = FrozenDeep(self._vectors.frozen(), deep.vocabulary.unseen_vectors(), tower, deep.boundaries)
        return FrozenModel(self._examples, self._wide.frozen(), frozen)

    def erase(self, wide: U64, ids: U64) -> None:
        """Drop these keys of the wide part, and ids of the deep part, from what was copied."""
        self._wide = self._wide.without(wide)
        if self._vectors:
            self._vectors = self._vectors.without(ids)

    def arrays(self) -> dict[str, Any]:
        """What was copied so far."""
        found = {f"wide_{name}": array for name, array in self._wide.arrays().items()}
        if self._vectors:
            found |= {f"vectors_{name}": array for name, array in self._vectors.arrays().items()}
        return found | {"examples": np.array([self._examples], np.int64)}

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Resume from what `arrays` gave."""
        self._examples = int(arrays["examples"][0])
        self._wide = TableCopy.of(*(arrays[f"wide_{name}"] for name in ("keys", "values", "state")))
        if self._vectors:
            self._vectors = TableCopy.of(*(arrays[f"vectors_{name}"] for name in ("keys", "values", "state")))


def frozen_arrays(frozen: FrozenModel) -> dict[str, Any]:
    """All of it; nothing is copied, since nothing changes it."""
    found = {f"wide_{name}": array for name, array in frozen.wide.arrays().items()}
    found["examples"] = np.array([frozen.examples], np.int64)
    if deep := frozen.deep:
        found |= {f"vectors_{name}": array for name, array in deep.vectors.arrays().items()}
        found |= {"unseen": deep.unseen, "tower": deep.tower.weights, "boundaries": deep.boundaries}
    return found


def frozen_of(deep: DeepModel | None, arrays: Mapping[str, Any]) -> FrozenModel:
    """The copy that `frozen_arrays` gave, of a model with such a deep part. Raises KeyError, ValueError."""
    wide, *vectors = (
        FrozenTable(arrays[f"{part}_keys"], arrays[f"{part}_values"], int(arrays[f"{part}_bits"][0]))
        for part in ("wide", *(["vectors"] if deep else []))
    )
    examples = int(arrays["examples"][0])
    if not deep:
        return FrozenModel(examples, wide, None)
    weights = arrays["tower"]
    if weights.shape != deep.tower.state.weights.shape:
        raise ValueError(f"dense parameters of shape {weights.shape}, wanted {deep.tower.state.weights.shape}")
    tower = deep.tower.state._replace(weights=weights, squares=NO_SQUARES)
    return FrozenModel(examples, wide, FrozenDeep(vectors[0], arrays["unseen"], tower, arrays["boundaries"]))


@kernel
def _score(tower: TowerState, vectors: F32, unseen: F32, rows: I64, offsets: I64, numbers: F32, logits: F32) -> None:
    """As `joint_step.predict_batch`. `rows`: of ids in `vectors`, −1 for those without. `numbers`: [B, 2D]."""
    count, dim, width = logits.shape[0], vectors.shape[1], tower.widths[0]
    lists = (offsets.shape[0] - 1) // max(1, count)
    activations = allocate_activations(tower, count)
    for k in range(count * lists):
        start = k // lists * width + k % lists * dim
        total = activations[start : start + dim]
        for i in range(offsets[k], offsets[k + 1]):
            vector = vectors[rows[i]] if rows[i] >= 0 else unseen[k % lists]
            for c in range(dim):
                total[c] += vector[c]
        length = offsets[k + 1] - offsets[k]
        if length > 1:
            scale = np.float32(1.0 / np.sqrt(np.float64(length)))
            for c in range(dim):
                total[c] *= scale
    for r in range(count):
        for c in range(numbers.shape[1]):
            activations[r * width + tower.pooled + c] = numbers[r, c]
    forward(tower, activations, logits)
