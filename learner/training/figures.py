"""Figures of predictions, and the lines that a learner prints of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from learner.training.ranking_figures import RankingFigures
from stream.tables.dtypes import F32, F64

WINDOW: Final = 2_000
ALL: Final = "all"
P_MIN: Final = 1e-7  # predictions nearer to 0 or 1 count as so near
HEADER: Final = (
    f"{'examples':>10} {'since last':>10} {'log loss':>9} {'entropy':>8} {'auc':>7} {'label':>6} {'calibration':>11}"
    f" | {f'last {WINDOW:,}: log loss':>21} {'entropy':>8} {'auc':>7} {'calibration':>11}"
    f" | {'page auc':>8} {'ndcg@10':>7} {'hr@10':>7} {'session auc':>11} {'ndcg@10':>7} {'hr@10':>7}  slice"
)


@dataclass(frozen=True)
class Figures:
    """How good a set of predictions is. `predicted`: mean prediction; `base_rate`: mean label, 0 to 1 also where
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
        return entropy_of(self.base_rate)

    def normalised_entropy(self) -> float:
        """Log loss / entropy (He et al. 2014, section 2): below 1, it beats the base rate. 1: no examples."""
        return self.log_loss / self.entropy() if self.examples else 1.0

    def named(self) -> dict[str, float]:
        """All of them by name."""
        return {
            "examples": float(self.examples), "auc": self.auc, "log_loss": self.log_loss, "base_rate": self.base_rate,
            "normalised_entropy": self.normalised_entropy(), "calibration": self.calibration,
        }  # fmt: skip


def entropy_of(base_rate: float) -> float:
    """Log loss of the constant prediction `base_rate`, which normalised entropy is relative to; NaN of NaN.

    >>> entropy_of(0.5) == math.log(2), math.isnan(entropy_of(math.nan))
    (True, True)
    """
    return cross_entropy(base_rate, base_rate)


def clipped(predictions: F32) -> F64:
    """Predictions, at least P_MIN from 0 and 1; float64 [n]."""
    return np.clip(predictions.astype(np.float64), P_MIN, 1.0 - P_MIN)


def log_losses(p: F64, labels: F32 | F64) -> F64:
    """Of each clipped prediction, float64 [n]."""
    losses: F64 = np.where(labels > 0.5, -np.log(p), -np.log1p(-p))
    return losses


def cross_entropy(base_rate: float, prediction: float) -> float:
    """Log loss of this constant prediction where so many labels are positive; NaN of NaN."""
    rate, p = (min(max(one, 1e-6), 1 - 1e-6) for one in (base_rate, prediction))
    return float(-rate * np.log(p) - (1 - rate) * np.log(1 - p))


class RankingWindow(NamedTuple):
    """Figures of ranking of the last RECENT pages and sessions."""

    pages: RankingFigures
    sessions: RankingFigures

    def text(self) -> str:
        """Under HEADER."""
        values = [*self.pages.named().values(), *self.sessions.named().values()]
        widths = (8, 7, 7, 11, 7, 7)
        return " ".join(
            f"{value:>{width}.4f}" if math.isfinite(value) else f"{'-':>{width}}"
            for value, width in zip(values, widths, strict=True)
        )


@dataclass(frozen=True)
class Milestone:
    """The figures as of a doubling count, ALL first. `since_last`: mean log loss since the previous milestone."""

    since_last: float
    lifetime: Mapping[str, Figures]
    window: Mapping[str, Figures]
    rankings: Mapping[str, RankingWindow]

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
                f"{life.auc:>7.4f} {life.base_rate:>6.3f} {calibration_text(life.calibration):>11} | "
                f"{late.log_loss:>21.4f} {late.normalised_entropy():>8.4f} {late.auc:>7.4f} "
                f"{calibration_text(late.calibration):>11} | {self.rankings[name].text()}  {name}"
            )
        return lines


def calibration_text(calibration: float) -> str:
    """A calibration in a table; - where no label was positive.

    >>> calibration_text(1.0), calibration_text(math.inf)
    ('1.000', '-')
    """
    return f"{calibration:.3f}" if math.isfinite(calibration) else "-"
