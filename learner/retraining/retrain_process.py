"""A retrain in a process of its own: `python -m learner.retraining.retrain_process MODEL WHY`, or `thalweg retrain`.

It reads the learner's newest checkpoint and the log, and leaves its result in a folder beside the checkpoints
(`retrain_files.py`); the learner goes on meanwhile, and takes the result (`promotion.py`). A process that is killed
leaves no result, or a complete one.
"""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from time import monotonic as monotonic_s
from typing import Final

import structlog

from learner.checkpoints.checkpoint import Checkpoint, take
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.retraining.carry_over import PREVIOUS_MAX
from learner.retraining.known_entities import read_attributes
from learner.retraining.relearning import Past, relearn
from learner.retraining.resumption import resume, spec_of
from learner.retraining.retrain_files import Outcome, RetrainFiles, checkpoints_of
from learner.retraining.retraining import Retraining
from learner.retraining.translated_window import WindowTranslation
from learner.retraining.window import encoded_window
from learner.training.encoded_batch import EncodedBatch
from learner.training.model import Model
from stream.events.topics import EXAMPLES
from stream.features.page_translation import UNKNOWN
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import Log, Record
from stream.runtime.errors import CheckpointError, SpecError, ThalwegError
from stream.runtime.formats import CHECKPOINT
from stream.runtime.logs import log_to_stderr
from stream.runtime.settings import DEDUP_IDS, Settings
from stream.spec.spec import Spec
from stream.spec.spec_changes import SpecChanges

NICENESS: Final = 10
POLL_S: Final = 0.5
NOTICE_S: Final = 60.0  # without a record, to the next line that says so
BATCH: Final = 1_000  # records that are learned at once where statistics have to be computed
BATCH_S: Final = 1.0  # that records wait for others: where few come, but never none, a batch takes long to fill
log = structlog.get_logger("retrain")
Notify = Callable[[str], None]


class RetrainJob:
    """One retrain of a model from its checkpoint. `spec`: the new one; None: that of the checkpoint. `before`: the old
    one, for checkpoints of builds that didn't write it. `past`: what a new model learns from nothing; None: it begins
    with the live one's, and trains on a window.
    """

    def __init__(
        self, log_: Log, checkpoint: Checkpoint, spec: Spec | None, before: Spec | None, notify: Notify,
        past: Past | None = None, ids_max: int = DEDUP_IDS,
    ) -> None:  # fmt: skip
        old = spec_of(checkpoint.meta) or before
        if old is None:
            raise CheckpointError(
                "the checkpoint is of a build that didn't write its spec: name it with --before FILE, or let a learner "
                "of this build write one first"
            )
        self._log, self._notify, self._past, self._ids_max = log_, notify, past, ids_max
        self.offset = checkpoint.meta.offset
        self.live = resume(old, checkpoint)
        self.spec = spec or old
        SpecChanges(old, self.spec).check()
        previous = [*self.live.previous, old] if old.identity() != self.spec.identity() else self.live.previous
        self._previous = previous[-PREVIOUS_MAX:]
        attributes = read_attributes(log_) if previous else UNKNOWN
        self._translation = WindowTranslation(self.spec, previous, attributes)
        if past and self._translation.computes and old.identity() != self.spec.identity():
            raise SpecError(
                "statistics that the spec adds can't be computed for pages of files: evolve to them without --from, "
                "or give the spec a new name and let its pages be logged with them"
            )
        self._records: list[Record] = []  # of the window, and what came after

        self._notify_changes(SpecChanges(old, self.spec))

    def _notify_changes(self, changes: SpecChanges) -> None:
        for difference in changes.differences():
            self._notify(str(difference))

    def run(self, is_wanted: Callable[[], bool], clock_s: Callable[[], float] = monotonic_s) -> tuple[Retraining, int]:
        """Train on the window, then learn on until as many examples are judged as the spec and rare labels ask for.

        Waits for them without a bound, and says so every NOTICE_S while none come. Returns the retrain, and the next
        offset in `examples` that its models have to learn. Raises CheckpointError once it isn't wanted any more.
        """
        retraining = self._relearned(self._past) if self._past else self._begun()
        wanted = self.spec.deep.warm_start.judged
        self._notify(f"catching up, and judging the next {wanted:,} examples, or more while labels are rare")
        with closing(self._log.reader(EXAMPLES.name, {0: self.offset})) as reader:
            waiting, learned_s = list[Record](), clock_s()
            while not retraining.is_judged:
                if not is_wanted():
                    raise CheckpointError(
                        "the learner that started this retrain has ended; the next one may start another"
                    )
                polled = reader.poll(POLL_S)
                waiting += polled
                if waiting and (not polled or len(waiting) >= BATCH or clock_s() - learned_s >= BATCH_S):
                    self._learn(retraining, waiting)
                    waiting, learned_s = [], clock_s()
                elif not polled and clock_s() - learned_s >= NOTICE_S:
                    learned_s = clock_s()
                    self._notify(
                        f"no record came to {EXAMPLES.name} for {NOTICE_S:.0f} s: waiting, with {retraining.judged:,} "
                        f"examples of {wanted:,} judged; see that the joiner runs and events come"
                    )
        return retraining, self.offset

    def _begun(self) -> Retraining:
        self._records = self._window()
        self._notify(f"training on {len(self._records):,} records before offset {self.offset:,}")
        return Retraining.begin(self.live, self.spec, self._encoded)

    def _relearned(self, past: Past) -> Retraining:
        """A new model that has learned all there is before the offset."""
        self._notify(f"learning all examples before offset {self.offset:,}")
        new = Model(self.spec, self.live.seed, previous=self._previous)
        new.learned_ids.ids_max = self._ids_max
        records = past(self.offset)
        if not self._translation.computes:  # else pages of previous specs are learned as a learner learns them
            records = (self._translation.translate(some, self.live) for some in records)
        relearn(new, records, self._notify)
        self._notify(f"{new.examples:,} examples learned; the live model has learned {self.live.examples:,}")
        return Retraining.relearned(self.live, new)

    def _encoded(self, new: Model) -> Sequence[EncodedBatch]:
        return encoded_window(new, self._translation.translate(self._records, self.live, new))

    def _window(self) -> list[Record]:
        """The newest records before the checkpoint's offset that have about as many examples as the window."""
        wanted, examples = self.spec.deep.warm_start.window, self.live.examples
        start = self._log.starts(EXAMPLES.name)[0]
        records = wanted if not examples else min(wanted, -(-wanted * self.offset // examples))
        first, found = max(start, self.offset - records), list[Record]()
        if first >= self.offset:
            return found
        with closing(self._log.reader(EXAMPLES.name, {0: first})) as reader:
            while not found or found[-1].offset < self.offset - 1:
                polled = reader.poll(POLL_S)
                found += [record for record in polled if record.offset < self.offset]
                if not polled or polled[-1].offset >= self.offset:
                    break
        return found

    def _learn(self, retraining: Retraining, records: Sequence[Record]) -> None:
        """Both learn these records, which follow what they have learned."""
        before = len(self._records)
        self._records += records
        translated = self._translation.translate_last(self._records, before, retraining.live)
        for model, of in ((retraining.live, records), (retraining.new, translated)):
            for chunk in model.record_encoder.records(of):
                for first, last in model.steps(chunk):
                    model.learn_records(chunk, first, last)
        self.offset = records[-1].offset + 1


def run_retrain(
    settings: Settings, log_: Log, model: str, why: str, notify: Notify, spec: Spec | None = None,
    before: Spec | None = None, is_wanted: Callable[[], bool] = lambda: True, past: Past | None = None,
) -> Outcome:  # fmt: skip
    """Retrain a model, and leave the outcome for its learner. `past`: as in RetrainJob.

    Raises CheckpointError, SpecError, LogError, and what `past` raises.
    """
    files = RetrainFiles(settings, model)
    with files.lock():
        live = CheckpointFiles(checkpoints_of(settings, model), owned=False, version=CHECKPOINT.at(1))
        checkpoint = live.newest()
        if checkpoint is None:
            raise CheckpointError(
                f"{model} has no checkpoint in {checkpoints_of(settings, model)}: start its learner on this machine"
            )
        job = RetrainJob(log_, checkpoint, spec, before, notify, past, settings.dedup_ids)
        retraining, offset = job.run(is_wanted)
        verdict = retraining.verdict()
        files.candidates.version = live.version  # the learner reads it
        outcome = Outcome(verdict, why, offset, retraining.new.warm_starts, retraining.new.roll_backs)
        files.write(outcome, take(retraining.new, offset, 0, 0) if verdict.promoted else None)
    return outcome


def main(model: str, why: str) -> int:
    """The process that a learner starts. Returns its exit code."""
    os.nice(NICENESS)
    settings, learner = Settings.load(), os.getppid()
    log_to_stderr(settings, "learner")
    try:
        with closing(KafkaLog(settings)) as log_:
            run_retrain(
                settings, log_, model, why, lambda line: log.info(line, model=model),
                is_wanted=lambda: os.getppid() == learner,
            )  # fmt: skip
    except ThalwegError as error:
        log.error("the retrain ended without a verdict", model=model, reason=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
