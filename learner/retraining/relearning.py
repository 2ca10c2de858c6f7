"""A new model that learns from nothing: all examples there are, those before the log's start included."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic as monotonic_s
from typing import Final

from learner.checkpoints.checkpoint import Meta, take
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.record_prefetcher import chunks_of
from learner.retraining.retrain_files import checkpoints_of
from learner.training.model import Model
from learner.training.training_records import TrainingRecords
from stream.events.topics import EXAMPLES
from stream.log.format_level import read_level
from stream.log.protocol import Log, Record
from stream.runtime.errors import CheckpointError
from stream.runtime.formats import CHECKPOINT
from stream.runtime.settings import Settings
from stream.spec.spec import Spec

# Records of `examples` in order, from the oldest that somebody has up to this offset, exclusive.
Past = Callable[[int], Iterable[Sequence[Record]]]
Notify = Callable[[str], None]
NOTICE_S: Final = 60.0


def relearn(
    model: Model, records: Iterable[Sequence[Record]], notify: Notify,
    clock_s: Callable[[], float] = monotonic_s,
) -> None:  # fmt: skip
    """Learn these records as a learner does, decoded and encoded ahead on another thread.

    What a learner does with dead letters and receipts was done when the records were first learned. Nor does it return
    to an earlier state: where held-out pages say that it should, the judgement begins again.
    """
    chunks = iter(_chunks(records))
    said_s = clock_s()
    with ThreadPoolExecutor(1, thread_name_prefix="relearn") as ahead:
        encoded = ahead.submit(lambda: _encoded(model, chunks))
        while (found := encoded.result()) is not None:
            encoded = ahead.submit(lambda: _encoded(model, chunks))
            for part in found:
                for first, last in model.steps(part):
                    model.learn_records(part, first, last)
                    if model.held_out.worse:
                        model.held_out.begin_again()
            for untaken in (model.removals, model.progress.milestones, model.drift.alarms):
                untaken.clear()
            if found and clock_s() - said_s >= NOTICE_S:
                said_s = clock_s()
                notify(f"{model.examples:,} examples learned, up to offset {found[-1].origins[-1].offset:,}")
    model.retrain_wanted = ""


def _chunks(records: Iterable[Sequence[Record]]) -> Iterator[Sequence[Record]]:
    for some in records:
        yield from chunks_of(some)


def _encoded(model: Model, chunks: Iterator[Sequence[Record]]) -> list[TrainingRecords] | None:
    chunk = next(chunks, None)
    return None if chunk is None else list(model.record_encoder.records(chunk))


def write_first_checkpoint(settings: Settings, log_: Log, spec: Spec, past: Past, notify: Notify) -> Meta:
    """The first checkpoint of a model that has none: of all records there are now. Its learner goes on from there.

    Raises CheckpointError, also where a learner has begun meanwhile; LogError, and what `past` raises.
    """
    folder = checkpoints_of(settings, spec.name)
    offset, model = log_.ends(EXAMPLES.name)[0], Model(spec)
    model.learned_ids.ids_max = settings.dedup_ids
    notify(f"{spec.name} has no checkpoint: learning all examples before offset {offset:,}")
    relearn(model, past(offset), notify)
    if CheckpointFiles(folder, owned=False).paths():
        raise CheckpointError(
            f"a learner of {spec.name} has begun meanwhile, and its checkpoints are in {folder}: stop it and move them "
            "away, or run this again beside it, to be judged by its model"
        )
    checkpoint = take(model, offset, 0, 0)
    CheckpointFiles(folder, version=CHECKPOINT.at(read_level(log_))).write(checkpoint)
    return checkpoint.meta
