"""Labels of the recent past and what the learner predicted of them, in a window that is counted in positives.

Each version adds what was recorded since the one before: nothing on the hot path. Predictions were made by the learner
as it was then; `level`, ln of a version's mean prediction relative to the live one's on the same pages, carries
them over to the version that is judged. So a version that predicts twice what the learner did is found, too.
"""

import math
from collections import deque
from typing import Final

import numpy as np

from learner.training.figures import WINDOW, Figures
from learner.training.progressive_validation import ProgressiveValidation
from stream.tables.dtypes import F64

POSITIVES: Final = 200  # and as many negatives, and WINDOW examples: older ones are dropped
CHUNKS_MAX: Final = 1_024  # above it the oldest are dropped together
EXAMPLES, LOSS, PREDICTED, LABELS = range(4)  # columns of sums
LEVEL_MAX: Final = 20.0


class LabelWindow:
    """Sums over recent versions, of all and of each slice. `remembers`: it begins with the last WINDOW."""

    def __init__(self, progress: ProgressiveValidation, *, remembers: bool = True) -> None:
        self._progress = progress
        self._recorded = _recorded(progress)
        latest = _latest(progress)
        self._total = latest if remembers else np.zeros_like(latest)  # f64[1 + S, 4], predictions at level 0
        self._chunks: deque[F64] = deque([self._total.copy()])

    def add(self, level: float) -> None:
        """Add what was recorded since the last call; its predictions are of this level."""
        recorded = _recorded(self._progress)
        chunk = recorded - self._recorded
        self._recorded = recorded
        if not chunk.any():
            return
        chunk[:, PREDICTED] *= math.exp(-_bounded(level))
        self._chunks.append(chunk)
        self._total += chunk
        while len(self._chunks) > 1 and _is_enough(self._total - self._chunks[0]):
            self._total -= self._chunks.popleft()
        if len(self._chunks) > CHUNKS_MAX:
            oldest = self._chunks.popleft()
            self._chunks[0] += oldest

    def figures(self, row: int, level: float) -> Figures:
        """Of all (row 0) or a slice, as a version of this level would have predicted; there is no AUC."""
        examples, loss, predicted, labels = self._total[row].tolist()
        if examples < 1.0:
            return Figures(0, 0.5, 0.0, 0.0, 0.0)
        rate = min(max(labels / examples, 0.0), 1.0)
        expected = min(predicted * math.exp(_bounded(level)) / examples, 1.0)
        return Figures(round(examples), 0.5, loss / examples, rate, expected)


def _bounded(level: float) -> float:
    return max(-LEVEL_MAX, min(level, LEVEL_MAX))


def _is_enough(total: F64) -> bool:
    examples, _, _, labels = total[0].tolist()
    return bool(examples >= WINDOW and min(labels, examples - labels) >= POSITIVES)


def _recorded(progress: ProgressiveValidation) -> F64:
    """Examples, and sums of losses, predictions and labels since the beginning. f64[1 + S, 4]."""
    return progress.state.sums[:, [3, 0, 1, 2]]


def _latest(progress: ProgressiveValidation) -> F64:
    """As `_recorded`, over the last WINDOW: what a learner that starts remembers."""
    found = [progress.window(name) for name in progress.names]
    return np.array([[of.examples, *(of.examples * mean for mean in (of.log_loss, of.predicted, of.base_rate))]
                     for of in found])  # fmt: skip
