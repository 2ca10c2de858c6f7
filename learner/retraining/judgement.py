"""Judges a new model against the live one: paired log losses of the same later examples, predicted before learned."""

import math
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from learner.training.figures import clipped, cross_entropy, log_losses
from stream.tables.dtypes import F32, F64, I64, U64

SIGMAS: Final = 1.96  # half width of the interval, in standard errors
WORSE_MAX: Final = 0.01  # of normalised entropy: a new model may be so much worse, at the interval's upper end
RARER_MIN: Final = 200  # examples of the rarer label that a test needs: an interval of fewer is wider than WORSE_MAX
RARER_SHARE: Final = 25  # of `judged` so many are enough: where that is set low, the test is to be short
JUDGED_MAX: Final = 20  # times `judged`: then the test ends, whatever the labels are
COLUMNS: Final = ("predictions", "labels", "weights", "earlier")


class RetrainVerdict(NamedTuple):
    """Whether the new model is promoted, and the figures that say so.

    Normalised entropies are log loss / that of always predicting the label rate; `low`, `high` is the interval of
    their difference, new less live.
    """

    promoted: bool
    reason: str
    examples: int
    positives: int
    live: float
    new: float
    low: float
    high: float


@dataclass
class Heard:
    """What one model predicted, example by example."""

    ids: list[U64] = field(default_factory=list)
    predictions: list[F32] = field(default_factory=list)
    labels: list[F32] = field(default_factory=list)
    weights: list[F32] = field(default_factory=list)
    earlier: list[F32] = field(default_factory=list)
    pages: list[I64] = field(default_factory=list)
    count: int = 0

    def add(self, ids: U64, predictions: F32, labels: F32, weights: F32, earlier: F32, pages: I64) -> None:
        """Predictions of examples in order, arrays [B]. `earlier`: weights of the other label, which each takes back.
        `pages`: a number of each one's page.
        """
        self.ids.append(ids)
        self.predictions.append(predictions)
        self.labels.append(labels)
        self.weights.append(weights)
        self.earlier.append(earlier)
        self.pages.append(pages)
        self.count += len(ids)

    def column(self, name: str) -> F32:
        """One of COLUMNS, float32 [count]."""
        return np.concatenate(getattr(self, name))


@dataclass
class Pair:
    """What both models predicted, and how many examples both have. Ask when both have learned the same records."""

    live: Heard = field(default_factory=Heard)
    new: Heard = field(default_factory=Heard)
    examples: int = 0
    positives: int = 0
    _counted: tuple[int, int] = (0, 0)  # arrays

    def is_enough(self, judged: int) -> bool:
        """Whether to end a test on `judged` examples: with so many, and enough of the rarer label among them; or when
        one of the models has predicted JUDGED_MAX times as many.
        """
        self.count()
        rarer = min(self.positives, self.examples - self.positives)
        has_enough = self.examples >= judged and rarer >= min(RARER_MIN, judged // RARER_SHARE)
        return has_enough or max(self.live.count, self.new.count) >= JUDGED_MAX * judged

    def count(self) -> None:
        """Add what came since the last time to the counts; a correction counts once, by its label."""
        first, second = self._counted
        self._counted = len(self.live.ids), len(self.new.ids)
        if first == len(self.live.ids) or second == len(self.new.ids):
            return
        at, _ = _both(np.concatenate(self.live.ids[first:]), np.concatenate(self.new.ids[second:]))
        labels, earlier = (np.concatenate(of[first:])[at] for of in (self.live.labels, self.live.earlier))
        corrections = earlier > 0.0
        self.examples += len(at) - int(np.count_nonzero(corrections))
        self.positives += int(np.count_nonzero(labels > 0.5)) - int(np.count_nonzero(corrections & (labels <= 0.5)))


def _both(live: U64, new: U64) -> tuple[I64, I64]:
    """Where the ids that both have are in each of them, in the order of `live`."""
    _, at, other = np.intersect1d(live, new, return_indices=True)
    order = np.argsort(at)
    return at[order], other[order]


def _of_smaller(one: F32, other: F32) -> F32:
    """Weights in the smaller of two nested samples: of what one of them hasn't learned, 0. float32 [n]."""
    found: F32 = np.where(np.minimum(one, other) > 0.0, np.maximum(one, other), np.float32(0.0))
    return found


def judge(live: Heard, new: Heard) -> RetrainVerdict:
    """Compare the models on the examples that both have heard, in the live one's order.

    Where specs sample negatives or hold pages out differently, or a page can't be translated, the models don't hear the
    same ones. Samples are nested: those in both are the smaller one, whose weight, in place of the others, is the
    greater.
    """
    ids = tuple(np.concatenate([np.zeros(0, np.uint64), *one.ids]) for one in (live, new))
    at = _both(*ids)
    if not len(at[0]):
        return RetrainVerdict(False, "no example came to judge it by", 0, 0, 0.0, 0.0, 0.0, 0.0)
    of_live, of_new = ([one.column(name)[rows] for name in COLUMNS] for one, rows in zip((live, new), at, strict=True))
    predictions, labels, weights, earlier = of_live
    weights, earlier = _of_smaller(weights, of_new[2]), _of_smaller(earlier, of_new[3])
    losses = [_losses(of, labels, weights, earlier) for of in (predictions, of_new[0])]
    positives = float((weights * labels - earlier * (1.0 - labels)).sum())
    examples = float((weights - earlier).sum())
    least = 1.0 / (abs(examples) + 2.0)
    rate = min(max(positives / max(1.0, examples), least), 1.0 - least)
    scale = max(1.0, examples) * cross_entropy(rate, rate)
    pages = np.unique(np.concatenate(live.pages)[at[0]], return_inverse=True)[1]
    differences = np.bincount(pages, losses[1] - losses[0])
    mean = float(differences.sum()) / scale
    spread = float(np.sqrt(np.square(differences - differences.mean()).sum()))
    low, high = mean - SIGMAS * spread / scale, mean + SIGMAS * spread / scale
    entropies = [float(of.sum()) / scale for of in losses]
    reason = _reason(entropies[1], mean, low, high)
    return RetrainVerdict(not reason, reason, round(examples), round(positives), entropies[0], entropies[1], low, high)


def _reason(entropy: float, mean: float, low: float, high: float) -> str:
    if not math.isfinite(entropy) or not math.isfinite(high):
        return "a prediction of the new model isn't finite"
    if high > WORSE_MAX:
        what = "is worse" if low > 0.0 else "may be worse"
        return (
            f"it {what} than the live one: normalised entropy {mean:+.4f}, interval {low:+.4f} to {high:+.4f}, "
            f"allowed up to {WORSE_MAX:+}"
        )
    return ""


def _losses(predictions: F32, labels: F32, weights: F32, earlier: F32) -> F64:
    """Weighted log losses, less those of the other label where it is taken back. float64 [n]."""
    p = clipped(predictions)
    of_label, of_other = log_losses(p, labels), log_losses(p, 1.0 - labels)
    found: F64 = weights.astype(np.float64) * of_label - earlier.astype(np.float64) * of_other
    return found
