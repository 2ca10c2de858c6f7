"""Progressive validation: each example is predicted before it is learned; the first label counts."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stream.features import F32

BINS = 16_384
WINDOW = 2_000
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """What a set of predictions is worth. `calibration`: mean prediction / mean label."""

    examples: int
    auc: float
    log_loss: float
    base_rate: float
    calibration: float

    def entropy(self) -> float:
        """Log loss of the constant prediction `base_rate`."""
        p = min(max(self.base_rate, 1e-6), 1 - 1e-6)
        return float(-p * np.log(p) - (1 - p) * np.log(1 - p))


class Progress:
    """Lifetime figures (AUC from 16,384 bins of the prediction) and those of the last 2,000.

    State: `bins` float64 [2, BINS] by label, `sums` float64 [3] of log loss, prediction, label;
    `recent` float32 [2, WINDOW] ring of predictions and labels; `count`.
    """

    def __init__(self) -> None:
        self.bins: F64 = np.zeros((2, BINS))
        self.sums: F64 = np.zeros(3)
        self.recent = np.zeros((2, WINDOW), np.float32)
        self.count = 0

    def record(self, predictions: F32, labels: F32) -> F64:
        """Take these in, in order. Returns their log losses, float64 [B]."""
        p = np.clip(predictions.astype(np.float64), 1e-7, 1 - 1e-7)
        losses = -np.where(labels > 0.5, np.log(p), np.log1p(-p))
        places = np.minimum((np.nan_to_num(p) * BINS).astype(np.int64), BINS - 1)  # NaN shows in the log loss
        np.add.at(self.bins, (labels.astype(np.int64), places), 1.0)
        self.sums += (losses.sum(), p.sum(), labels.sum(dtype=np.float64))
        at = (self.count + np.arange(len(p))) % WINDOW
        self.recent[0, at], self.recent[1, at] = predictions, labels
        self.count += len(p)
        return losses

    def lifetime(self) -> Figures:
        """Over everything recorded."""
        loss, predicted, labels = self.sums.tolist()
        return self._figures(self.bins, loss, predicted, labels, self.count)

    def window(self) -> Figures:
        """Over the last 2,000."""
        n = min(self.count, WINDOW)
        p, y = np.clip(self.recent[0, :n].astype(np.float64), 1e-7, 1 - 1e-7), self.recent[1, :n]
        bins = np.zeros((2, BINS))
        np.add.at(bins, (y.astype(np.int64), np.minimum((np.nan_to_num(p) * BINS).astype(np.int64), BINS - 1)), 1.0)
        losses = -np.where(y > 0.5, np.log(p), np.log1p(-p))
        return self._figures(bins, float(losses.sum()), float(p.sum()), float(y.sum()), n)

    @staticmethod
    def _figures(bins: F64, loss: float, predicted: float, labels: float, count: int) -> Figures:
        if count == 0:
            return Figures(0, 0.5, 0.0, 0.0, 1.0)
        return Figures(count, auc_of(bins), loss / count, labels / count, predicted / max(labels, 1e-9))


def auc_of(bins: F64) -> float:
    """Area under the ROC curve from counts [2, bins] of negatives and positives; ties count half."""
    negatives, positives = bins
    pairs = negatives.sum() * positives.sum()
    if pairs == 0:
        return 0.5
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / pairs)
