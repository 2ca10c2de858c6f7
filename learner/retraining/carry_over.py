"""Carries a model over to a changed spec: what both specs have is kept, what is new starts fresh.

Wide weights go by the names of their cross, whose index a key's low byte says; statistics by their definition;
embeddings by id, and so by column; the tower's first layer by the names of its inputs. New inputs start with weights of
0, so a model that was carried over predicts at first what it predicted before. Rows of columns and statistics that were
dropped can't be told from others, since keys are hashes: they are evicted as the least recently used.
"""

from typing import Final

import numpy as np

from learner.deep.deep_model import DeepModel
from learner.retraining.carried_tower import carry_tower
from learner.retraining.carried_vocabulary import carry_vocabulary
from learner.training.model import Model
from learner.wide.ftrl import WIDTH
from stream.features.page_features import id_of, seed_of
from stream.spec.spec import Spec
from stream.spec.spec_changes import SpecChanges
from stream.tables.dtypes import U64
from stream.tables.hash_table import HashTable
from stream.tables.table_runs import copy_all, values_of

LOW_BYTE: Final = np.uint64(255)
PREVIOUS_MAX: Final = 4  # specs whose pages are still learned


def carry_over(old: Model, spec: Spec, seed: int = 0) -> Model:
    """A model of this spec with all that `old` has of it; `old` is of no more use.

    Raises SpecError where nothing can be carried over as it should be.
    """
    changes = SpecChanges(old.spec, spec)
    changes.check()
    previous = [] if old.spec.identity() == spec.identity() else [old.spec]
    model = Model(
        spec, seed, learns_statistics=old.learns_statistics, previous=[*old.previous, *previous][-PREVIOUS_MAX:]
    )
    model.examples, model.duplicates, model.organic = old.examples, old.duplicates, old.organic
    model.watermark_ms, model.learned_ms = old.watermark_ms, old.learned_ms
    model.erased = old.erased
    model.left_out, model.sampled_out = old.left_out, old.sampled_out
    model.warm_starts, model.warm_start_at, model.roll_backs = old.warm_starts, old.warm_start_at, old.roll_backs
    model.learned_ids, model.shown, model.installs = old.learned_ids, old.shown, old.installs
    model.progress.restore(old.progress.arrays(), old.progress.names[1:])
    model.drift.restore(old.drift.arrays(), old.drift.names[1:])
    if old.layout.hash == model.layout.hash:
        model.recent_pages.extend(old.recent_pages)
    _carry_statistics(old, model)
    _carry_retrieval(old, model)
    _carry_wide(old, model, changes)
    if old.deep and model.deep:
        _carry_deep(old, model, old.deep, model.deep, changes)
    model.held_out.carry(old.held_out, is_same=old.spec.identity() == spec.identity())
    return model


def _carry_statistics(old: Model, model: Model) -> None:
    """Rows go by the names of their statistics, so both tables stay; bounds are the new spec's."""
    before, statistics = old.statistics, model.statistics
    statistics.table, statistics.likenesses = before.table, before.likenesses
    statistics.evictor.restore(before.evictor.state())
    statistics.likeness_evictor.restore(before.likeness_evictor.state())


def _carry_retrieval(old: Model, model: Model) -> None:
    """Items and users have the same ids under all specs."""
    before = old.retrieval
    if before and model.retrieval:
        rows = copy_all(before.items)
        model.retrieval.restore(before.arrays(), rows, values_of(rows, before.values), copy_all(before.memories))


def _carry_wide(old: Model, model: Model, changes: SpecChanges) -> None:
    """Rows of shared crosses under their new index, with the weights that they had, whatever the rates are now."""
    before, wide = old.wide, model.wide
    rows, stamps = before.table.rows(), before.table.stamps()
    index = np.zeros(256, np.uint64)  # new low byte by old one; 0: dropped
    for source, target in changes.crosses.items():
        index[source + 1] = target + 1
    target = index[rows[:, 0] & LOW_BYTE]
    kept = target > 0
    moved = rows[kept].copy()
    moved[:, 0] = (moved[:, 0] & ~LOW_BYTE) | target[kept]
    _retune(old, model, moved)
    wide.table = HashTable.of_rows(WIDTH, moved)
    if len(stamps):
        wide.table.stamp(moved[:, 0].copy(), stamps[kept])
    elif len(wide.evictor.lifetimes_s):  # nobody knows when they were last seen: their lives begin now
        wide.table.stamp(moved[:, 0].copy(), np.full(len(moved), before.evictor.now_s, np.uint32))
    wide.restore_clock(before.forgetting.state())
    wide.steps[:] = before.steps
    wide.evictor.restore(before.evictor.state())
    admission = before.admission
    if old.encoder.cross_names == model.encoder.cross_names and admission.young.shape == wide.admission.young.shape:
        wide.admission.restore(admission.young, admission.old, admission.added, admission.pages)  # the same keys


def _retune(old: Model, model: Model, moved: U64) -> None:
    """Change u of `moved` [N, 2] where λ1 is another one now, so that weights stay. Other rates don't change them."""
    l1, was = np.float32(model.spec.wide.l1), np.float32(old.spec.wide.l1)
    if l1 == was:
        return
    u = moved.view(np.float32)[:, 2]
    weights = old.wide.weights(moved)
    u[:] = np.where(weights == 0.0, np.clip(u, -l1, l1), weights + np.copysign(l1, weights))


def _carry_deep(old: Model, model: Model, before: DeepModel, deep: DeepModel, changes: SpecChanges) -> None:
    carry_vocabulary(before.vocabulary, deep.vocabulary, _stale_ids(changes))
    names = old.encoder.deep_lists, old.encoder.deep_numbers
    shared = {*changes.statistics}
    known = [
        {name for name in of if changes.is_shared(name) or name.removeprefix("statistics.") in shared} for of in names
    ]
    lists, numbers = ([name if name in same else "" for name in of] for of, same in zip(names, known, strict=True))
    carry_tower(before, deep, (lists, numbers), (model.encoder.deep_lists, model.encoder.deep_numbers))
    deep.restore_clock(before.forgetting.state())
    if deep.floor != before.floor:
        _move_floor(deep, float(before.floor) - float(deep.floor))
    _carry_quantiles(before, deep, numbers, model.encoder.deep_numbers)


def _move_floor(deep: DeepModel, by: float) -> None:
    """AdaGrad's sums have more or less of what is added where they are read: what they start at, if they fade."""
    deep.tower.restore(deep.tower.flat, np.maximum(0.0, deep.tower.squares + np.float32(by)))
    deep.vocabulary.sums[:] = np.maximum(0.0, deep.vocabulary.sums + np.float32(by))


def _carry_quantiles(before: DeepModel, deep: DeepModel, was: list[str], now: list[str]) -> None:
    """Samples and boundaries of shared numbers; of others there is nothing yet."""
    sources = [was.index(name) if name in was else -1 for name in now]
    deep.sampled[:] = before.sampled
    for target, source in enumerate(sources):
        if source >= 0:
            deep.sample[:, target] = before.sample[:, source]
    if not before.boundaries.shape[1]:
        return
    if before.boundaries.shape[1] != deep.spec.quantiles - 1:
        deep.freeze_quantiles()
        return
    deep.boundaries = np.zeros((len(now), deep.spec.quantiles - 1), np.float32)
    for target, source in enumerate(sources):
        if source >= 0:
            deep.boundaries[target] = before.boundaries[source]


def _stale_ids(changes: SpecChanges) -> U64:
    """Ids of bands whose bounds have changed: their numbers mean something else now."""
    ids = [
        id_of(seed_of(f"{name}_band"), str(value))
        for name, column in changes.new.columns().items()
        if column.bands and not changes.is_shared(f"{name}_band")
        for value in range(max(len(column.bands), len(changes.old.columns().get(name, column).bands)) + 1)
    ]
    return np.array(ids, np.uint64)
