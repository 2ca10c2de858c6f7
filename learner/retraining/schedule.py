"""Retrains at example indices in the thread that learns: for backtests and experiments, which have no processes.

What a spec's `[deep.warm_start]` asks for happens here as in a learner with a retrain process that takes no time: the
new model learns beside the live one until it is judged, and takes over at that example's index.
"""

from collections import deque
from collections.abc import Mapping

from learner.retraining.judgement import RetrainVerdict
from learner.retraining.retraining import Retraining
from learner.retraining.window import erased_until, of_erased
from learner.training.encoded_batch import EncodedBatch
from learner.training.model import Model
from learner.training.training_records import TrainingRecords


class RetrainSchedule:
    """Learns records with `model`, which another model may replace. `verdicts` says what became of each retrain."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.verdicts: list[RetrainVerdict] = []
        self._retraining: Retraining | None = None
        self._window: deque[EncodedBatch] = deque()  # of the newest records
        self._examples = 0  # in the window
        spec = model.spec
        self._may_retrain = bool(model.deep and spec.deep.warm_start.every) or spec.drift.action == "retrain"

    def learn(self, records: TrainingRecords, first: int, last: int) -> None:
        """Learn records first:last; a retrain's verdict may follow, and another model be the live one afterwards."""
        self.model.learn_records(records, first, last)
        if not self._may_retrain:
            return
        if self._retraining:
            self._retraining.learn_new(records, first, last)
            if self._retraining.is_judged:
                self._end(self._retraining)
        self._note(records.examples.batch(first, last))
        if until := erased_until(self.model, records.erased[first:last]):
            self._erase(until)
        if self.model.retrain_wanted:
            self.model.retrain_wanted = ""
            if not self._retraining:
                self._retraining = Retraining.begin(self.model, self.model.spec, lambda _: [*self._window])

    def _note(self, batch: EncodedBatch) -> None:
        self._window.append(batch)
        self._examples += len(batch)
        while self._examples - len(self._window[0]) >= self.model.spec.deep.warm_start.window:
            self._examples -= len(self._window.popleft())

    def _erase(self, until: Mapping[int, int]) -> None:
        """Leave these users out of the window."""
        kept = [batch.take(~of_erased(batch, until, 0)) for batch in self._window]
        self._window = deque(self.model.batch_encoder.encode(batch) for batch in kept if len(batch.ids))
        self._examples = sum(map(len, self._window))

    def _end(self, retraining: Retraining) -> None:
        verdict = retraining.verdict()
        self.verdicts.append(verdict)
        self._retraining = None
        if verdict.promoted:
            self.model = retraining.new
