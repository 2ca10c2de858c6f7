"""Progressive validation: each example is predicted before its label is known; the first label counts.

Figures are kept over all examples and over each slice of them, for the lifetime and for the last 2,000 (of that
slice). They don't depend on how records are cut: examples are taken in one by one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.features import F32
from stream.table import kernel

BINS: Final = 16_384
WINDOW: Final = 2_000
ALL: Final = "all"
HEADER: Final = (
    f"{'examples':>10} {'since last':>10} {'log loss':>9} {'entropy':>8} {'auc':>7} {'label':>6} {'calibration':>11}"
    f" | {f'last {WINDOW:,}: log loss':>21} {'entropy':>8} {'auc':>7} {'calibration':>11}  slice"
)
F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
_P_MIN: Final = 1e-7


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

    def normalised_entropy(self) -> float:
        """Log loss / entropy (He et al. 2014, section 2): below 1, it tells more than the base rate. 1: no examples."""
        return self.log_loss / self.entropy() if self.examples else 1.0

    def named(self) -> dict[str, float]:
        """All of them by name."""
        return {
            "examples": float(self.examples), "auc": self.auc, "log_loss": self.log_loss, "base_rate": self.base_rate,
            "normalised_entropy": self.normalised_entropy(), "calibration": self.calibration,
        }  # fmt: skip


@dataclass(frozen=True)
class Mark:
    """The figures as of a doubling count, ALL first. `since_last`: mean log loss since the mark before."""

    since_last: float
    lifetime: Mapping[str, Figures]
    window: Mapping[str, Figures]

    def lines(self) -> list[str]:
        """Under HEADER: a line for all, and one for each slice that has examples."""
        lines = []
        for name, life in self.lifetime.items():
            late = self.window[name]
            if not life.examples:
                continue
            since = f"{self.since_last:.4f}" if name == ALL else ""
            lines.append(
                f"{life.examples:>10} {since:>10} {life.log_loss:>9.4f} {life.normalised_entropy():>8.4f} "
                f"{life.auc:>7.4f} {life.base_rate:>6.3f} {life.calibration:>11.3f} | {late.log_loss:>21.4f} "
                f"{late.normalised_entropy():>8.4f} {late.auc:>7.4f} {late.calibration:>11.3f}  {name}"
            )
        return lines


class Progress:
    """Figures of all and of each slice; AUC from 16,384 bins of the prediction.

    State, row 0 for all, then one per slice: `bins` float64 [1+S, 2, BINS] by label; `sums` float64 [1+S, 3] of log
    loss, prediction, label; `recent` float32 [1+S, 2, WINDOW] rings of predictions and labels; `counts` int64 [1+S];
    `marked` float64 [1]: the sum of log losses at the last mark. `marks` gathers figures at 1, 2, 4, 8, … examples,
    for the caller to take.
    """

    def __init__(self, slices: Sequence[str] = ()) -> None:
        assert ALL not in slices
        self.names = (ALL, *slices)
        rows = len(self.names)
        self.bins: F64 = np.zeros((rows, 2, BINS))
        self.sums: F64 = np.zeros((rows, 3))
        self.recent: F32 = np.zeros((rows, 2, WINDOW), np.float32)
        self.counts = np.zeros(rows, np.int64)
        self.marked: F64 = np.zeros(1)
        self.marks: list[Mark] = []

    @property
    def count(self) -> int:
        """Examples recorded."""
        return int(self.counts[0])

    def record(self, predictions: F32, labels: F32, members: Bools | None = None) -> F64:
        """Take these in, in order. `members` bool [B, S]: who is in which slice; None: nobody in any.

        Returns their log losses, float64 [B]. A prediction that is NaN shows in the log loss for ever.
        """
        n = len(predictions)
        if members is None:
            members = np.zeros((n, len(self.names) - 1), np.bool_)
        assert members.shape == (n, len(self.names) - 1)
        losses, first, count = np.empty(n), 0, self.count
        while first < n:
            doubled = 1 << count.bit_length()
            last = min(n, first + doubled - count)
            _record(predictions, labels, members, first, last, self.bins, self.sums, self.recent, self.counts, losses)
            count += last - first
            first = last
            if count == doubled:
                self._mark(count)
        return losses

    def lifetime(self, name: str = ALL) -> Figures:
        """Over everything recorded, of all or of a slice."""
        row = self.names.index(name)
        return _figures(self.bins[row], self.sums[row], int(self.counts[row]))

    def window(self, name: str = ALL) -> Figures:
        """Over the last 2,000 of all or of a slice."""
        row = self.names.index(name)
        n = min(int(self.counts[row]), WINDOW)
        bins, sums = np.zeros((2, BINS)), np.zeros(3)
        _sum_up(self.recent[row], n, bins, sums)
        return _figures(bins, sums, n)

    def told(self) -> dict[str, float]:
        """What a version tells of itself: `auc_arrival`, `window_log_loss`, …; of slices `auc_arrival[item.tags=x]`."""
        told: dict[str, float] = {}
        for name in self.names:
            life, late = self.lifetime(name).named(), self.window(name).named()
            if name == ALL:
                told |= {"auc_arrival": life.pop("auc"), **life, **{f"window_{key}": late[key] for key in late}}
            else:  # a manifest holds few metrics
                told |= {f"auc_arrival[{name}]": life["auc"], f"window_auc[{name}]": late["auc"]}
        return told

    def arrays(self) -> dict[str, "npt.NDArray[Any]"]:
        """The state, copied. What `fill` takes, with the names of slices beside it."""
        return {
            "bins": self.bins.copy(),
            "sums": self.sums.copy(),
            "recent": self.recent.copy(),
            "counts": self.counts.copy(),
            "marked": self.marked.copy(),
        }

    def fill(self, arrays: Mapping[str, "npt.NDArray[Any]"], slices: Sequence[str]) -> None:
        """Go on from these arrays, whose rows are all and `slices`: a slice that isn't among them starts anew.

        Raises KeyError, ValueError or IndexError when they aren't what `arrays` gave.
        """
        held = [ALL, *slices]
        for row, name in enumerate(self.names):
            if name in held:
                at = held.index(name)
                self.bins[row], self.sums[row] = arrays["bins"][at], arrays["sums"][at]
                self.recent[row], self.counts[row] = arrays["recent"][at], arrays["counts"][at]
        self.marked[:] = arrays["marked"]

    def _mark(self, count: int) -> None:
        loss = float(self.sums[0, 0])
        since = (loss - float(self.marked[0])) / (count - count // 2)
        self.marked[0] = loss
        lifetime, window = ({name: of(name) for name in self.names} for of in (self.lifetime, self.window))
        self.marks.append(Mark(since, lifetime, window))


def auc_of(bins: F64) -> float:
    """Area under the ROC curve from counts [2, bins] of negatives and positives; ties count half."""
    return float(_auc(bins))


def _figures(bins: F64, sums: F64, count: int) -> Figures:
    if count == 0:
        return Figures(0, 0.5, 0.0, 0.0, 1.0)
    loss, predicted, labels = sums.tolist()
    return Figures(count, auc_of(bins), loss / count, labels / count, predicted / max(labels, 1e-9))


@kernel
def _add(prediction: Any, label: Any, bins: Any, sums: Any) -> Any:
    """One example into bins [2, BINS] and sums [3]; returns its log loss. NaN falls into bin 0."""
    p = np.float64(prediction)
    if p < _P_MIN:
        p = np.float64(_P_MIN)
    elif p > 1.0 - _P_MIN:
        p = np.float64(1.0 - _P_MIN)
    y = 1 if label > 0.5 else 0
    loss = -np.log(p) if y == 1 else -np.log1p(-p)
    bins[y, 0 if p != p else int(p * BINS)] += 1.0
    sums[0] += loss
    sums[1] += p
    sums[2] += label
    return loss


@kernel
def _record(predictions: Any, labels: Any, members: Any, first: Any, last: Any, bins: Any, sums: Any, recent: Any,
            counts: Any, losses: Any) -> None:  # fmt: skip
    for i in range(first, last):
        for s in range(counts.shape[0]):
            if s == 0 or members[i, s - 1]:
                losses[i] = _add(predictions[i], labels[i], bins[s], sums[s])
                at = counts[s] % WINDOW
                recent[s, 0, at] = predictions[i]
                recent[s, 1, at] = labels[i]
                counts[s] += 1


@kernel
def _sum_up(recent: Any, n: Any, bins: Any, sums: Any) -> None:
    for i in range(n):
        _add(recent[0, i], recent[1, i], bins, sums)


@kernel
def _auc(bins: Any) -> Any:
    negatives, positives, area = 0.0, 0.0, 0.0
    for b in range(bins.shape[1]):
        area += bins[1, b] * (negatives + bins[0, b] / 2.0)
        negatives += bins[0, b]
        positives += bins[1, b]
    return area / (negatives * positives) if negatives * positives > 0.0 else 0.5
