"""The window of the log that a new model is trained on: records that the live model has learned before.

Wide weights that the live model has are put back afterwards: they have learned these examples, and a second pass made
predictions of later ones worse (`docs/decisions/0028-retrain.md`). So what trains is what is new, and the deep part.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Final

import numpy as np

from learner.deep.deep_model import DeepModel
from learner.deep.joint_step import SAMPLE_SIZE, learn_micro_batches, learn_wide
from learner.training.dedup import RecentIds
from learner.training.encoded_batch import EncodedBatch
from learner.training.model import Model
from stream.events.types import Erase
from stream.features.user_rows import user_id_of
from stream.log.protocol import Record
from stream.tables.dtypes import U64, Bools
from stream.tables.hash_table import distinct

CHUNK: Final = 128  # records that are encoded at once


def encoded_window(model: Model, records: Sequence[Record]) -> list[EncodedBatch]:
    """The records' examples as the model learns them; each once, however often it is in the log.

    Those of users whom a later record erases are left out: the live model has forgotten them.
    """
    chunks = [
        chunk
        for first in range(0, len(records), CHUNK)
        for chunk in model.record_encoder.records(records[first : first + CHUNK])
    ]
    until = erased_until(model, chain.from_iterable(chunk.erased for chunk in chunks))
    seen, found, begin = RecentIds(), list[EncodedBatch](), 0
    for chunk in chunks:
        batch = chunk.examples.batch(0, len(chunk))
        new = seen.add_records(batch.ids, batch.all_ends, chunk.sources) & ~of_erased(batch, until, begin)
        if new.any():
            found.append(batch if new.all() else model.batch_encoder.encode(batch.take(new)))
        begin += len(chunk)
    return found


def erased_until(model: Model, erased: Iterable[Sequence[Erase]]) -> dict[int, int]:
    """By id, the index of the last record that erases the user. `erased`: of each record."""
    return {int(user_id_of(model.layout, one.user)): record for record, events in enumerate(erased) for one in events}


def of_erased(batch: EncodedBatch, until: Mapping[int, int], begin: int) -> Bools:
    """Which of the batch's examples are of a user who is erased by their record or a later one, bool [N].

    `begin`: the index of the batch's first record.
    """
    words, starts, page, _ = batch.all_pages
    hits = np.flatnonzero(np.isin(words, np.array([*until], np.uint64)))
    last = np.full(len(starts), -1)  # record that erases the page's user
    for p, user in zip((np.searchsorted(starts, hits, "right") - 1).tolist(), words[hits].tolist(), strict=True):
        last[p] = max(last[p], until[user])
    found: Bools = begin + np.searchsorted(batch.all_ends, np.arange(len(batch)), "right") - 1 <= last[page]
    return found


def train_on_window(model: Model, batches: Sequence[EncodedBatch]) -> int:
    """Refreeze the quantiles, then train on these examples in order. Returns how many there were.

    Neither statistics nor figures change, nor how many examples the model has learned.
    """
    batches = [batch for batch in batches if len(batch.earlier)]  # of others no example is predicted
    if model.deep:
        for batch in batches:
            _sample_numbers(model.deep, batch)
        model.deep.freeze_quantiles()
    model.wide.rescale()  # else the first step might, and the rows would be put back as they were before
    rows = _known_wide_rows(model, batches)
    for batch in batches:
        _train(model, batch)
    model.wide.table.put(rows)
    return sum(map(len, batches))


def _sample_numbers(deep: DeepModel, batch: EncodedBatch) -> None:
    """As learning does: the sample has numbers that the live model's spec doesn't have, too."""
    slots = (batch.targets.ids % np.uint64(SAMPLE_SIZE)).astype(np.int64)
    deep.sample[slots], deep.sampled[slots] = batch.inputs.numbers, 1


def _known_wide_rows(model: Model, batches: Sequence[EncodedBatch]) -> U64:
    """The rows of these examples' keys that the model has."""
    keys = [
        batch.inputs.keys[batch.inputs.key_offsets[0] : batch.inputs.key_offsets[-1]] for batch in batches
    ]  # fmt: skip
    every, table = distinct(np.concatenate([np.zeros(0, np.uint64), *keys])), model.wide.table
    return table.rows_of(every[table.contains(every)])


def _train(model: Model, batch: EncodedBatch) -> None:
    inputs = batch.inputs
    wide_logits, predictions = np.empty((2, len(batch.earlier)), np.float32)
    keys = inputs.keys[inputs.key_offsets[0] : inputs.key_offsets[-1]]
    wide = model.wide.prepare(keys, batch.newest_ms)
    if model.deep is None:
        learn_wide(wide, inputs.keys, inputs.key_offsets, batch.targets, batch.earlier, predictions)
        return
    model.deep.begin_record()
    deep = model.deep.prepare(inputs.ids[inputs.id_offsets[0] : inputs.id_offsets[-1]])
    learn_micro_batches(wide, deep, inputs, batch.targets, batch.bounds, batch.earlier, predictions, wide_logits)
    if model.deep.vocabulary.over_high_water:
        model.evict()
