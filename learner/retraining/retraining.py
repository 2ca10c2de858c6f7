"""A retrain: a new model from the live one, trained on a window of the log, then judged while it catches up.

The same steps run in a process of their own (`retrain_process.py`) and, at an example index, in backtests:

1. `begin`: the new model has what the live one has (`carry_over`), for the same spec or a changed one; expired ids are
   dropped, quantiles frozen again, and it trains on the window (`window.py`).
2. `learn`: both learn what comes after, each example predicted before it is learned.
3. `verdict`: the paired test says whether the new one may take over.
"""

from collections.abc import Callable, Sequence

from learner.checkpoints.checkpoint import restore, take
from learner.retraining.carry_over import carry_over
from learner.retraining.judgement import Pair, RetrainVerdict, judge
from learner.retraining.window import train_on_window
from learner.training.encoded_batch import EncodedBatch
from learner.training.model import Model
from learner.training.training_records import TrainingRecords
from stream.spec.spec import Spec


def copy_of(model: Model) -> Model:
    """A model of the same state."""
    copied = restore(model.spec, take(model, 0, 0, 0), model.seed)
    copied.learns_statistics = model.learns_statistics
    return copied


class Retraining:
    """One retrain. `live` goes on learning; `new` learns beside it until the verdict."""

    def __init__(self, live: Model, new: Model) -> None:
        self.live, self.new = live, new
        self._pair = Pair()
        live.on_predicted, new.on_predicted = self._pair.live.add, self._pair.new.add

    @classmethod
    def begin(cls, live: Model, spec: Spec, window: Callable[[Model], Sequence[EncodedBatch]]) -> "Retraining":
        """A new model of this spec, trained on what `window` gives: examples that `live` has learned, encoded for the
        new model.
        """
        new = carry_over(copy_of(live), spec, live.seed)
        if new.deep:
            new.evict()
        train_on_window(new, window(new))
        new.warm_starts, new.warm_start_at = new.warm_starts + 1, new.examples
        return cls(live, new)

    @classmethod
    def relearned(cls, live: Model, new: Model) -> "Retraining":
        """A new model that has learned from nothing what `live` has learned, or more. Users whom that one has erased
        it has erased, too."""
        new.warm_starts, new.roll_backs = live.warm_starts + 1, live.roll_backs
        new.warm_start_at, new.erased = new.examples, [*live.erased]
        return cls(live, new)

    @property
    def judged(self) -> int:
        """Examples that both have predicted."""
        self._pair.count()
        return self._pair.examples

    @property
    def is_judged(self) -> bool:
        """Whether they are as many as the new model's spec asks for, with enough of the rarer label among them."""
        return self._pair.is_enough(self.new.spec.deep.warm_start.judged)

    def learn_new(self, records: TrainingRecords, first: int, last: int) -> None:
        """The new model learns what the live one has learned, or will."""
        self.new.learn_records(records, first, last)

    def verdict(self) -> RetrainVerdict:
        """The paired test on what both have predicted; nobody listens any more."""
        self.live.on_predicted = self.new.on_predicted = None
        return judge(self._pair.live, self._pair.new)
