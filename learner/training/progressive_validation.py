"""Progressive validation: each example is predicted before its label is known; the first label counts.

Where every example is emitted as a negative at first (`fake_negative`), a label that changes is a *correction*: the new
label is recorded at the prediction it was learned with, and the old one subtracted at the same. So no prediction has to
be remembered by example, and sums are right as long as predictions move little meanwhile.

Figures cover all examples and each slice of them, for the lifetime and for the last 2,000 (of that slice; corrections
count among them). They don't depend on how records are split: examples are recorded one by one. Figures of ranking,
within pages and sessions, are beside them (`ranking_progress.py`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from learner.training.figures import ALL, WINDOW, Figures, Milestone, RankingWindow
from learner.training.ranking_kernels import KINDS
from learner.training.ranking_progress import PageColumns, RankingProgress
from stream.snapshots.payload import NAMES_MAX
from stream.tables.dtypes import F32, F64, I64, Bools
from stream.tables.jit import kernel

BINS: Final = 16_384
_P_MIN: Final = 1e-7
_LOGIT_MAX: Final = 16.12  # above that of 1 − _P_MIN
_CORRECTED: Final = 2.0  # is added to the label of a correction


class FigureState(NamedTuple):
    """What figures are computed from: row 0 for all, then one per slice."""

    bins: F64  # f64[1 + S, 2, BINS], by label
    sums: F64  # f64[1 + S, 3]: log loss, prediction, label
    recent: F32  # f32[1 + S, 2, WINDOW]: rings of predictions and labels (corrections: 2 + label)
    counts: I64  # i64[1 + S, 2]: examples, and what went into the ring
    marked: F64  # f64[1]: the sum of log losses at the last milestone


class ProgressiveValidation:
    """Figures of all and of each slice; AUC from 16,384 bins of the prediction's log-odds.

    `milestones` collects figures at 1, 2, 4, 8, … examples, for the caller to take.
    """

    def __init__(self, slices: Sequence[str] = (), rankings: RankingProgress | None = None) -> None:
        assert ALL not in slices
        self.names = (ALL, *slices)
        rows = len(self.names)
        self.state = FigureState(
            np.zeros((rows, 2, BINS)), np.zeros((rows, 3)), np.zeros((rows, 2, WINDOW), np.float32),
            np.zeros((rows, 2), np.int64), np.zeros(1),
        )  # fmt: skip
        self.rankings = rankings or RankingProgress(len(slices))
        self.milestones: list[Milestone] = []

    @property
    def count(self) -> int:
        """Examples recorded."""
        return int(self.state.counts[0, 0])

    def record(
        self,
        predictions: F32,
        labels: F32,
        members: Bools | None = None,
        corrected: Bools | None = None,
        pages: PageColumns | None = None,
    ) -> F64:
        """Record these, in order. `members` bool [B, S]: which is in which slice; None: none in any. `corrected` bool
        [B]: whose other label was recorded before; None: none's. Without `pages` there are no figures of ranking.

        Returns what they add to the sum of log losses, float64 [B]; NaN for a prediction that isn't a number: it is in
        no figure.
        """
        n = len(predictions)
        if members is None:
            members = np.zeros((n, len(self.names) - 1), np.bool_)
        assert members.shape == (n, len(self.names) - 1)
        numbers = ~np.isnan(predictions)
        if not numbers.all():
            found = np.full(n, np.nan)
            found[numbers] = self.record(
                predictions[numbers],
                labels[numbers],
                members[numbers],
                None if corrected is None else corrected[numbers],
                None if pages is None else pages.part(numbers),
            )
            return found
        if pages is not None:
            self.rankings.add(predictions, labels, members, corrected, pages)
        if corrected is not None:
            labels = (labels + _CORRECTED * corrected).astype(np.float32)
        losses, first = np.empty(n), 0
        while first < n:
            doubled = 1 << self.count.bit_length()
            first = _record(self.state, predictions, labels, members, first, doubled, losses)
            if self.count == doubled:
                self._add_milestone(doubled, n - first if pages is not None else 0)
        return losses

    def lifetime(self, name: str = ALL) -> Figures:
        """Over everything recorded, of all or of a slice."""
        row = self.names.index(name)
        return _figures(self.state.bins[row], self.state.sums[row], int(self.state.counts[row, 0]))

    def window(self, name: str = ALL) -> Figures:
        """Over the last 2,000 of all or of a slice."""
        row = self.names.index(name)
        bins, sums = np.zeros((2, BINS)), np.zeros(3)
        n = _sum_up(self.state.recent[row], min(int(self.state.counts[row, 1]), WINDOW), bins, sums)
        return _figures(bins, sums, int(n))

    def metrics(self) -> dict[str, float]:
        """A version's metrics: `auc_arrival`, `window_log_loss`, `page_ndcg`, …; of slices `auc_arrival[item.tags=x]`.

        Without a positive label there is no calibration. Figures of slices' ranking are there as far as they have room.
        """
        metrics, of_slices = dict[str, float](), dict[str, float]()
        for row, name in enumerate(self.names):
            life, late = self.lifetime(name).named(), self.window(name).named()
            rankings = {kind: self.rankings.window(kind, row) for kind in KINDS}
            if name == ALL:
                metrics |= {"auc_arrival": life.pop("auc"), **life, **{f"window_{key}": late[key] for key in late}}
                for kind, of in rankings.items():
                    metrics |= {f"{kind}_{key}": value for key, value in self.rankings.lifetime(kind).named().items()}
                    metrics |= {f"window_{kind}_{key}": value for key, value in of.named().items()}
            else:  # a manifest has room for few metrics
                metrics |= {f"auc_arrival[{name}]": life["auc"], f"window_auc[{name}]": late["auc"]}
                of_slices |= {f"window_{kind}_auc[{name}]": of.auc for kind, of in rankings.items()}
        finite = [(name, value) for name, value in (metrics | of_slices).items() if math.isfinite(value)]
        return dict(finite[:NAMES_MAX])

    def arrays(self) -> dict[str, "npt.NDArray[Any]"]:
        """The state, copied. What `restore` takes, with the names of slices beside it."""
        return {name: array.copy() for name, array in self.state._asdict().items()} | self.rankings.arrays()

    def restore(self, arrays: Mapping[str, "npt.NDArray[Any]"], slices: Sequence[str]) -> None:
        """Resume from these arrays, whose rows are all and `slices`: a slice that isn't among them begins at zero.

        A row of an earlier build, in which a prediction that wasn't a number is for ever, begins at zero, too. Raises
        KeyError, ValueError or IndexError when they aren't what `arrays` gave.
        """
        names = [ALL, *slices]
        state, counts = self.state, arrays["counts"].reshape(len(names), 2)
        for row, name in enumerate(self.names):
            source = names.index(name) if name in names else -1
            if source >= 0 and np.isfinite(arrays["sums"][source]).all():
                state.bins[row], state.sums[row] = arrays["bins"][source], arrays["sums"][source]
                state.recent[row], state.counts[row] = arrays["recent"][source], counts[source]
        state.marked[:] = np.nan_to_num(arrays["marked"])
        self.rankings.restore(arrays, [names.index(name) if name in names else -1 for name in self.names])

    def _add_milestone(self, count: int, later: int) -> None:
        """`later`: examples that were added to the rankings but come after this one."""
        loss, marked = float(self.state.sums[0, 0]), self.state.marked
        since = (loss - float(marked[0])) / (count - count // 2)
        marked[0] = loss
        lifetime, window = ({name: of(name) for name in self.names} for of in (self.lifetime, self.window))
        rankings = {
            name: RankingWindow(*(self.rankings.window(kind, row, later) for kind in KINDS))
            for row, name in enumerate(self.names)
        }
        self.milestones.append(Milestone(since, lifetime, window, rankings))


def auc_of(bins: F64) -> float:
    """Area under the ROC curve from counts [2, bins] of negatives and positives; ties count half.

    Where a negative was subtracted at another prediction than it was recorded at, a bin is −1: areas are sums over
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
def _add(prediction: np.float32, label: np.float32, bins: F64, sums: F64) -> Any:
    """One example or correction into bins [2, BINS] and sums [3]; returns what it adds to the log loss."""
    p = np.float64(prediction)
    if p < _P_MIN:
        p = np.float64(_P_MIN)
    elif p > 1.0 - _P_MIN:
        p = np.float64(1.0 - _P_MIN)
    corrected = label > 1.5
    y = 1 if (label - _CORRECTED if corrected else label) > 0.5 else 0
    losses = (-np.log1p(-p), -np.log(p))
    loss = losses[y]
    bin_ = int((losses[0] - losses[1] + _LOGIT_MAX) / (2.0 * _LOGIT_MAX) * BINS)
    bins[y, bin_] += 1.0
    if corrected:
        loss -= losses[1 - y]
        bins[1 - y, bin_] -= 1.0
        sums[2] += 2.0 * y - 1.0
    else:
        sums[1] += p
        sums[2] += y
    sums[0] += loss
    return loss


@kernel
def _record(
    state: FigureState, predictions: F32, labels: F32, members: Bools, first: int, until: int, losses: F64
) -> Any:
    """Record predictions[first:], but no more once there are `until` examples; returns where it stopped."""
    bins, sums, recent, counts, _ = state
    for i in range(first, predictions.shape[0]):
        for s in range(counts.shape[0]):
            if s == 0 or members[i, s - 1]:
                losses[i] = _add(predictions[i], labels[i], bins[s], sums[s])
                slot = counts[s, 1] % WINDOW
                recent[s, 0, slot] = predictions[i]
                recent[s, 1, slot] = labels[i]
                counts[s, 0] += labels[i] < 1.5
                counts[s, 1] += 1
        if counts[0, 0] == until:
            return i + 1
    return predictions.shape[0]


@kernel
def _sum_up(recent: F32, n: int, bins: F64, sums: F64) -> Any:
    """Sum the ring's first n up into bins and sums; returns how many are examples, not corrections."""
    examples = 0
    for i in range(n):
        _add(recent[0, i], recent[1, i], bins, sums)
        examples += recent[1, i] < 1.5
    return examples


@kernel
def _auc(bins: F64) -> Any:
    negatives, positives, area = 0.0, 0.0, 0.0
    for b in range(bins.shape[1]):
        area += bins[1, b] * (negatives + bins[0, b] / 2.0)
        negatives += bins[0, b]
        positives += bins[1, b]
    return min(1.0, max(0.0, area / (negatives * positives))) if negatives > 0.0 and positives > 0.0 else 0.5
