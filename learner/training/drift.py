"""Drift: whether the model has become worse beside a constant, of all examples and of each slice.

The log loss itself rises and falls with the label rate, also that of a perfect model. So an example adds what its
prediction costs beyond always predicting the recent rate, the rate of the last hundred labels of the rarer kind; in
blocks of fifty of them, relative to the entropy of that rate. Blocks are compared with a slow reference of the last
hundred: what is beyond it by more than half a standard deviation is summed up (CUSUM; Page 1954), and an alarm begins
when the sum passes a bound.

Examples are added one by one: alarms don't depend on how they come in records. What an alarm calls for is due at a
fixed count of examples after it, so that it doesn't depend on which records are learned in one step either.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from learner.training.drift_kernels import (
    ALARMS,
    CUSUM,
    DEVIATION_MIN,
    FIELDS,
    MEAN,
    NEWEST,
    SINCE,
    VARIANCE,
    add_examples,
    begin_anew,
)
from learner.training.figures import ALL
from learner.training.negative_sampling import Multiplicities
from stream.spec.parts import Drift
from stream.tables.dtypes import F32, F64, I64, Bools

STEP_MAX: Final = 512  # examples of several records that are learned in one step: a few ms
HEARD, DUE = 0, 1  # indices of `clock`


class Alarm(NamedTuple):
    """Why an alarm was raised: excess log loss relative to entropy, of the newest block and of the reference."""

    slice: str
    excess: float
    reference: float
    deviation: float  # of a block
    cusum: float
    action: str


class DriftDetector:
    """Says when an action is due. `alarms` collects alarms, for the caller to take."""

    def __init__(self, spec: Drift | None = None, slices: Sequence[str] = ()) -> None:
        self.spec = spec or Drift()
        self.names = (ALL, *slices)
        self.rows: F64 = np.zeros((len(self.names), FIELDS))
        self.clock: I64 = np.zeros(2, np.int64)  # examples added; count of them at which an action is due, or 0
        self.alarms: list[Alarm] = []
        self._watched = len(self.names) if self.spec.slices else 1
        self._bound = self.spec.bound + float(np.log(self._watched))  # as rare for many slices as for one

    @property
    def is_alarmed(self) -> bool:
        """Whether an alarm has begun that isn't over."""
        return bool(self.rows[: self._watched, SINCE].any())

    def is_due(self, more: int = 0) -> bool:
        """Whether an action is due, at the latest when there are so many `more` examples."""
        return 0 < int(self.clock[DUE]) <= int(self.clock[HEARD]) + more

    def add(self, predictions: F32, labels: F32, times_ms: F64, counts: Multiplicities, members: Bools) -> None:
        """Examples in order, with their predictions of before they were learned, and their pages' event times.

        Arrays [B]; `members` bool [B, S].
        """
        rows, first, begin = self.rows[: self._watched], 0, int(self.clock[HEARD])
        alarmed = np.zeros(len(rows), np.bool_)
        while first < len(predictions):
            alarmed[:] = False
            first = add_examples(rows, predictions, labels, times_ms, counts, members, self._bound, first, alarmed)
            if alarmed.any():
                self.alarms += [self._alarm(row) for row in np.flatnonzero(alarmed).tolist()]
                if not self.clock[DUE]:  # after the end of the step, whichever records it has
                    self.clock[DUE] = begin + first + STEP_MAX
        self.clock[HEARD] = begin + len(predictions)

    def take_due(self) -> str:
        """The action, once it's due: the model isn't what it was, so the references begin again."""
        self.clock[DUE] = 0
        if self.spec.action in ("retrain", "forget"):
            self.begin_anew()
        return self.spec.action

    def begin_anew(self) -> None:
        """With new references; the recent rates stay."""
        for row in self.rows:
            begin_anew(row)

    def statistic(self, row: int) -> float:
        """The CUSUM of a row of `names`, as a share of the bound: from 1 on there is an alarm."""
        return float(self.rows[row, CUSUM]) / self._bound

    def alarm_count(self, row: int) -> int:
        """Alarms of a row of `names`, ever."""
        return int(self.rows[row, ALARMS])

    def arrays(self) -> dict[str, "np.ndarray[Any, np.dtype[Any]]"]:
        """The state, copied. What `restore` takes, with the names of slices beside it."""
        return {"drift_rows": self.rows.copy(), "drift_clock": self.clock.copy()}

    def restore(self, arrays: Mapping[str, "np.ndarray[Any, np.dtype[Any]]"], slices: Sequence[str]) -> None:
        """Go on from these arrays, whose rows are all and `slices`: a slice that isn't among them begins at zero.

        Checkpoints of earlier builds have none. Raises ValueError.
        """
        if "drift_rows" not in arrays:
            return
        names = [ALL, *slices]
        rows = arrays["drift_rows"].reshape(len(names), FIELDS)
        for row, name in enumerate(self.names):
            if name in names:
                self.rows[row] = rows[names.index(name)]
        self.clock[:] = arrays["drift_clock"]

    def _alarm(self, row: int) -> Alarm:
        of = self.rows[row]
        deviation = max(DEVIATION_MIN, float(np.sqrt(of[VARIANCE])))
        return Alarm(self.names[row], float(of[NEWEST]), float(of[MEAN]), deviation, float(of[CUSUM]), self.spec.action)
