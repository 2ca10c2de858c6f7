"""Progressive validation: each example is predicted before its label is known; the first label counts.

Where every example is emitted as a negative at first (`fake_negative`), a label that changes is a *correction*: the new
label is recorded at the prediction it was learned with, and the old one subtracted at the same. So no prediction has to
be remembered by example, and sums are right as long as predictions move little meanwhile. Where negatives are sampled,
a label counts for as many as it stands for (`negative_sampling.py`).

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
from learner.training.negative_sampling import Multiplicities
from learner.training.ranking_kernels import KINDS
from learner.training.ranking_progress import PageColumns, RankingProgress
from stream.snapshots.payload import NAMES_MAX
from stream.tables.dtypes import F32, F64, I64, Bools
from stream.tables.jit import kernel

BINS: Final = 16_384
_P_MIN: Final = 1e-7
_LOGIT_MAX: Final = 16.12  # above that of 1 − _P_MIN


class FigureState(NamedTuple):
    """What figures are computed from: row 0 for all, then one per slice."""

    bins: F64  # f64[1 + S, 2, BINS], by label
    sums: F64  # f64[1 + S, 4]: log loss, prediction, label, and how many labels they are of
    recent: F32  # f32[1 + S, 4, WINDOW]: rings of predictions, labels, and `Multiplicities` now and earlier
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
            np.zeros((rows, 2, BINS)), np.zeros((rows, 4)), np.zeros((rows, 4, WINDOW), np.float32),
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
        counts: Multiplicities | None = None,
    ) -> F64:
        """Record these, in order. `members` bool [B, S]: which is in which slice; None: none in any. `corrected` bool
        [B]: whose other label was recorded before; None: none's. Without `pages` there are no figures of ranking.
        `counts`: how many labels each stands for; None: one.

        Returns what they add to the sum of log losses, float64 [B]; NaN for a prediction that isn't a number: it is in
        no figure.
        """
        n = len(predictions)
        if members is None:
            members = np.zeros((n, len(self.names) - 1), np.bool_)
        assert members.shape == (n, len(self.names) - 1)
        if counts is None:
            earlier = np.zeros(n, np.float32) if corrected is None else corrected.astype(np.float32)
            counts = Multiplicities(np.ones(n, np.float32), earlier, np.ones(n, np.bool_))
        numbers = ~np.isnan(predictions)
        if not numbers.all():
            found = np.full(n, np.nan)
            found[numbers] = self.record(
                predictions[numbers],
                labels[numbers],
                members[numbers],
                None if corrected is None else corrected[numbers],
                None if pages is None else pages.part(numbers),
                Multiplicities(counts.now[numbers], counts.earlier[numbers], counts.is_ranked[numbers]),
            )
            return found
        if pages is not None:
            self._rank(predictions, labels, members, corrected, pages, counts.is_ranked)
        losses, first = np.empty(n), 0
        while first < n:
            doubled = 1 << self.count.bit_length()
            first = _record(self.state, predictions, labels, counts, members, first, doubled, losses)
            if self.count == doubled:
                self._add_milestone(doubled, int(counts.is_ranked[first:].sum()) if pages is not None else 0)
        return losses

    def _rank(
        self, predictions: F32, labels: F32, members: Bools, corrected: Bools | None, pages: PageColumns, ranked: Bools
    ) -> None:
        if ranked.all():
            self.rankings.add(predictions, labels, members, corrected, pages)
        elif ranked.any():
            corrected = None if corrected is None else corrected[ranked]
            self.rankings.add(predictions[ranked], labels[ranked], members[ranked], corrected, pages.part(ranked))

    def lifetime(self, name: str = ALL) -> Figures:
        """Over everything recorded, of all or of a slice."""
        row = self.names.index(name)
        return _figures(self.state.bins[row], self.state.sums[row])

    def window(self, name: str = ALL) -> Figures:
        """Over the last 2,000 of all or of a slice."""
        row = self.names.index(name)
        bins, sums = np.zeros((2, BINS)), np.zeros(4)
        _sum_up(self.state.recent[row], min(int(self.state.counts[row, 1]), WINDOW), bins, sums)
        return _figures(bins, sums)

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
        arrays = _with_multiplicities(arrays)
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


def _with_multiplicities(arrays: Mapping[str, "npt.NDArray[Any]"]) -> Mapping[str, "npt.NDArray[Any]"]:
    """Earlier builds have none: each label stands for one, and 2 is added to that of a correction in `recent`."""
    sums, recent = arrays["sums"].reshape(-1, arrays["sums"].shape[-1]), arrays["recent"]
    if sums.shape[1] == 4:
        return arrays
    examples = arrays["counts"].reshape(len(sums), 2)[:, 0]
    corrects = recent[:, 1] > 1.5
    ones = np.ones_like(recent[:, 0])
    recent = np.stack([recent[:, 0], recent[:, 1] - 2 * corrects, ones, corrects * ones], axis=1)
    return {**arrays, "sums": np.column_stack([sums, examples]), "recent": recent.astype(np.float32)}


def _figures(bins: F64, sums: F64) -> Figures:
    loss, predicted, labels, count = sums.tolist()
    if count <= 0:
        return Figures(0, 0.5, 0.0, 0.0, 0.0)
    base_rate = min(max(labels / count, 0.0), 1.0)
    return Figures(round(count), auc_of(bins), loss / count, base_rate, predicted / count)


@kernel
def _add(prediction: np.float32, label: np.float32, now: np.float32, earlier: np.float32, bins: F64, sums: F64) -> Any:
    """One example or correction into bins [2, BINS] and sums [4]; returns what it adds to the log loss."""
    p = np.float64(prediction)
    if p < _P_MIN:
        p = np.float64(_P_MIN)
    elif p > 1.0 - _P_MIN:
        p = np.float64(1.0 - _P_MIN)
    y = 1 if label > 0.5 else 0
    losses = (-np.log1p(-p), -np.log(p))
    bin_ = int((losses[0] - losses[1] + _LOGIT_MAX) / (2.0 * _LOGIT_MAX) * BINS)
    bins[y, bin_] += now
    loss = now * losses[y]
    sums[2] += now * y
    if earlier > 0:
        bins[1 - y, bin_] -= earlier
        loss -= earlier * losses[1 - y]
        sums[2] -= earlier * (1 - y)
    if now != earlier:
        sums[1] += (now - earlier) * p
        sums[3] += now - earlier
    sums[0] += loss
    return loss


@kernel
def _record(
    state: FigureState, predictions: F32, labels: F32, multiplicities: Multiplicities, members: Bools, first: int,
    until: int, losses: F64,
) -> Any:  # fmt: skip
    """Record predictions[first:], but no more once there are `until` examples; returns where it stopped."""
    bins, sums, recent, counts, _ = state
    now, earlier, _ = multiplicities
    for i in range(first, predictions.shape[0]):
        losses[i] = 0.0
        if now[i] == 0 and earlier[i] == 0:
            continue
        for s in range(counts.shape[0]):
            if s == 0 or members[i, s - 1]:
                losses[i] = _add(predictions[i], labels[i], now[i], earlier[i], bins[s], sums[s])
                slot = counts[s, 1] % WINDOW
                recent[s, 0, slot], recent[s, 1, slot] = predictions[i], labels[i]
                recent[s, 2, slot], recent[s, 3, slot] = now[i], earlier[i]
                counts[s, 0] += earlier[i] == 0
                counts[s, 1] += 1
        if counts[0, 0] == until:
            return i + 1
    return predictions.shape[0]


@kernel
def _sum_up(recent: F32, n: int, bins: F64, sums: F64) -> None:
    """Sum the ring's first n up into bins and sums."""
    for i in range(n):
        _add(recent[0, i], recent[1, i], recent[2, i], recent[3, i], bins, sums)


@kernel
def _auc(bins: F64) -> Any:
    negatives, positives, area = 0.0, 0.0, 0.0
    for b in range(bins.shape[1]):
        area += bins[1, b] * (negatives + bins[0, b] / 2.0)
        negatives += bins[0, b]
        positives += bins[1, b]
    return min(1.0, max(0.0, area / (negatives * positives))) if negatives > 0.0 and positives > 0.0 else 0.5
