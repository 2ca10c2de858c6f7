"""Progressive validation: each example is predicted before its label is known; the first label counts.

Where every example is told as a negative at first (`fake_negative`), a label that changes is a *correction*: the new
label is put in at the prediction it was learned with, and the old one taken back at the same. So nobody remembers what
was predicted for which example, and sums are right as long as predictions move little meanwhile.

Figures are kept over all examples and over each slice of them, for the lifetime and for the last 2,000 (of that
slice; corrections take places among them). They don't depend on how records are cut: examples are taken in one by one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.features.page_features import F32
from stream.tables.jit import kernel

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
_LOGIT_MAX: Final = 16.12  # above that of 1 − _P_MIN
_CORRECTED: Final = 2.0  # is added to the label of a correction


@dataclass(frozen=True)
class Figures:
    """What a set of predictions is worth. `predicted`: mean prediction; `base_rate`: mean label, 0 to 1 also where
    corrections of other examples are among them."""

    examples: int
    auc: float
    log_loss: float
    base_rate: float
    predicted: float

    @property
    def calibration(self) -> float:
        """Mean prediction / mean label: infinite without a positive label, 1 without an example."""
        if not self.examples:
            return 1.0
        return self.predicted / self.base_rate if self.base_rate > 0.0 else math.inf

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
                f"{life.auc:>7.4f} {life.base_rate:>6.3f} {spoken(life.calibration):>11} | {late.log_loss:>21.4f} "
                f"{late.normalised_entropy():>8.4f} {late.auc:>7.4f} {spoken(late.calibration):>11}  {name}"
            )
        return lines


def spoken(calibration: float) -> str:
    """A calibration in a table; - where no label was positive.

    >>> spoken(1.0), spoken(math.inf)
    ('1.000', '-')
    """
    return f"{calibration:.3f}" if math.isfinite(calibration) else "-"


class Progress:
    """Figures of all and of each slice; AUC from 16,384 bins of the prediction's log-odds.

    State, row 0 for all, then one per slice: `bins` float64 [1+S, 2, BINS] by label; `sums` float64 [1+S, 3] of log
    loss, prediction, label; `recent` float32 [1+S, 2, WINDOW] rings of predictions and labels (corrections: 2 + label);
    `counts` int64 [1+S, 2] of examples, and of what went into the ring; `marked` float64 [1]: the sum of log losses at
    the last mark. `marks` gathers figures at 1, 2, 4, 8, … examples, for the caller to take.
    """

    def __init__(self, slices: Sequence[str] = ()) -> None:
        assert ALL not in slices
        self.names = (ALL, *slices)
        rows = len(self.names)
        self.bins: F64 = np.zeros((rows, 2, BINS))
        self.sums: F64 = np.zeros((rows, 3))
        self.recent: F32 = np.zeros((rows, 2, WINDOW), np.float32)
        self.counts = np.zeros((rows, 2), np.int64)
        self.marked: F64 = np.zeros(1)
        self.marks: list[Mark] = []

    @property
    def count(self) -> int:
        """Examples recorded."""
        return int(self.counts[0, 0])

    def record(
        self, predictions: F32, labels: F32, members: Bools | None = None, corrected: Bools | None = None
    ) -> F64:
        """Take these in, in order. `members` bool [B, S]: who is in which slice; None: nobody in any. `corrected` bool
        [B]: whose other label was taken in before; None: nobody's.

        Returns what they add to the sum of log losses, float64 [B]. A prediction that is NaN shows there for ever.
        """
        n = len(predictions)
        if members is None:
            members = np.zeros((n, len(self.names) - 1), np.bool_)
        assert members.shape == (n, len(self.names) - 1)
        if corrected is not None:
            labels = (labels + _CORRECTED * corrected).astype(np.float32)
        losses, first = np.empty(n), 0
        while first < n:
            doubled = 1 << self.count.bit_length()
            first = _record(predictions, labels, members, first, doubled, self.bins, self.sums, self.recent,
                            self.counts, losses)  # fmt: skip
            if self.count == doubled:
                self._mark(doubled)
        return losses

    def lifetime(self, name: str = ALL) -> Figures:
        """Over everything recorded, of all or of a slice."""
        row = self.names.index(name)
        return _figures(self.bins[row], self.sums[row], int(self.counts[row, 0]))

    def window(self, name: str = ALL) -> Figures:
        """Over the last 2,000 of all or of a slice."""
        row = self.names.index(name)
        bins, sums = np.zeros((2, BINS)), np.zeros(3)
        n = _sum_up(self.recent[row], min(int(self.counts[row, 1]), WINDOW), bins, sums)
        return _figures(bins, sums, int(n))

    def told(self) -> dict[str, float]:
        """What a version tells of itself: `auc_arrival`, `window_log_loss`, …; of slices `auc_arrival[item.tags=x]`.

        Without a positive label there is no calibration.
        """
        told: dict[str, float] = {}
        for name in self.names:
            life, late = self.lifetime(name).named(), self.window(name).named()
            if name == ALL:
                told |= {"auc_arrival": life.pop("auc"), **life, **{f"window_{key}": late[key] for key in late}}
            else:  # a manifest holds few metrics
                told |= {f"auc_arrival[{name}]": life["auc"], f"window_auc[{name}]": late["auc"]}
        return {name: value for name, value in told.items() if math.isfinite(value)}

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
        counts = arrays["counts"].reshape(len(held), 2)
        for row, name in enumerate(self.names):
            if name in held:
                at = held.index(name)
                self.bins[row], self.sums[row] = arrays["bins"][at], arrays["sums"][at]
                self.recent[row], self.counts[row] = arrays["recent"][at], counts[at]
        self.marked[:] = arrays["marked"]

    def _mark(self, count: int) -> None:
        loss = float(self.sums[0, 0])
        since = (loss - float(self.marked[0])) / (count - count // 2)
        self.marked[0] = loss
        lifetime, window = ({name: of(name) for name in self.names} for of in (self.lifetime, self.window))
        self.marks.append(Mark(since, lifetime, window))


def auc_of(bins: F64) -> float:
    """Area under the ROC curve from counts [2, bins] of negatives and positives; ties count half.

    Where a negative was taken back at another prediction than it was put in at, a bin holds −1: areas are sums over
    pairs, and stay right on the whole.
    """
    return float(_auc(bins))


def _figures(bins: F64, sums: F64, count: int) -> Figures:
    if count == 0:
        return Figures(0, 0.5, 0.0, 0.0, 0.0)
    loss, predicted, labels = sums.tolist()
    base_rate = min(max(labels / count, 0.0), 1.0)
    return Figures(count, auc_of(bins), loss / count, base_rate, predicted / count)


@kernel
def _add(prediction: Any, label: Any, bins: Any, sums: Any) -> Any:
    """One example or correction into bins [2, BINS] and sums [3]; returns what it adds to the log loss. NaN falls into
    bin 0."""
    p = np.float64(prediction)
    if p < _P_MIN:
        p = np.float64(_P_MIN)
    elif p > 1.0 - _P_MIN:
        p = np.float64(1.0 - _P_MIN)
    corrected = label > 1.5
    y = 1 if (label - _CORRECTED if corrected else label) > 0.5 else 0
    losses = (-np.log1p(-p), -np.log(p))
    loss = losses[y]
    at = 0 if p != p else int((losses[0] - losses[1] + _LOGIT_MAX) / (2.0 * _LOGIT_MAX) * BINS)
    bins[y, at] += 1.0
    if corrected:
        loss -= losses[1 - y]
        bins[1 - y, at] -= 1.0
        sums[2] += 2.0 * y - 1.0
    else:
        sums[1] += p
        sums[2] += y
    sums[0] += loss
    return loss


@kernel
def _record(predictions: Any, labels: Any, members: Any, first: Any, until: Any, bins: Any, sums: Any, recent: Any,
            counts: Any, losses: Any) -> Any:  # fmt: skip
    """Take in predictions[first:], but no more once there are `until` examples; returns where it stopped."""
    for i in range(first, predictions.shape[0]):
        for s in range(counts.shape[0]):
            if s == 0 or members[i, s - 1]:
                losses[i] = _add(predictions[i], labels[i], bins[s], sums[s])
                at = counts[s, 1] % WINDOW
                recent[s, 0, at] = predictions[i]
                recent[s, 1, at] = labels[i]
                counts[s, 0] += labels[i] < 1.5
                counts[s, 1] += 1
        if counts[0, 0] == until:
            return i + 1
    return predictions.shape[0]


@kernel
def _sum_up(recent: Any, n: Any, bins: Any, sums: Any) -> Any:
    """The ring's first n into bins and sums; returns how many are examples, no corrections."""
    examples = 0
    for i in range(n):
        _add(recent[0, i], recent[1, i], bins, sums)
        examples += recent[1, i] < 1.5
    return examples


@kernel
def _auc(bins: Any) -> Any:
    negatives, positives, area = 0.0, 0.0, 0.0
    for b in range(bins.shape[1]):
        area += bins[1, b] * (negatives + bins[0, b] / 2.0)
        negatives += bins[0, b]
        positives += bins[1, b]
    return min(1.0, max(0.0, area / (negatives * positives))) if negatives > 0.0 and positives > 0.0 else 0.5
