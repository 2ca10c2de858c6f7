"""Targets of an off-policy estimate in a backtest: rankers that are asked what they would have shown on each page."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stream.tables.dtypes import F32, F64, I64, Bools
from thalweg.backtest.entrants import Entrant, ShownPage, Step
from thalweg.backtest.ruled_candidates import RuledCandidates, RuledPage
from thalweg.backtest.target_models import CandidateModel, CandidateScores, shown_pages
from thalweg.backtest.target_policy import draw_with, page_chances
from thalweg.backtest.target_spec import Target


class TargetColumns(NamedTuple):
    """P pages of at most K places as logged, and what D targets would have done by each of M models; 0 where no place
    is.
    """

    times_ms: I64  # i64[P]
    shown: Bools  # bool[P, K]
    propensities: F64  # f64[P, K], NaN where the log has none
    predicted: F64  # f64[M, P, K]
    chances: F64  # f64[M, D, P, K]
    expected: F64  # f64[M, D, P, K]


class TargetEntrant(Entrant):
    """What these models would have shown on each page, under each of these targets, whose `pages` these are.

    Raises SettingsError when a model doesn't know what a target draws by.
    """

    def __init__(self, models: Sequence[CandidateModel], targets: Sequence[Target], pages: RuledCandidates) -> None:
        self.name, self._models, self._targets, self._ruled = "targets", models, targets, pages
        explorations = [target.spec.explore for target in targets]
        for model in models:
            for explore in explorations:
                model.check(explore)
        self._priors = sorted({explore.prior for explore in explorations if explore.needs_uncertainty})
        self._times_ms: list[int] = []
        self._pages: list[F64] = []  # f64[1 + M (1 + 2 D), K]: propensities; by model predicted, by target chances and
        # expected

    def play(self, steps: Sequence[Step]) -> list[F32]:
        """Ask and learn, in order. Returns the first model's predictions of the items that were shown."""
        by_model = [model.play(steps, self._priors) for model in self._models]
        return [self._judge(page, scores) for page, *scores in zip(shown_pages(steps), *by_model, strict=True)]

    def _judge(self, page: ShownPage, by_model: Sequence[CandidateScores]) -> F32:
        assert page.candidates is not None, "the backtest makes them"
        shown, ruled = page.candidates.shown, self._ruled.take(page.page)
        rows = [np.array(page.page.propensities or [np.nan] * len(shown))]
        for scores in by_model:
            rows.append(scores.predicted[shown].astype(np.float64))
            for target, under in zip(self._targets, ruled, strict=True):
                rows += _chances(target, under, scores, shown)
        self._times_ms.append(page.page.time_ms)
        self._pages.append(np.array(rows))
        return by_model[0].predicted[shown]

    def columns(self) -> TargetColumns:
        """All pages."""
        sizes = np.array([page.shape[1] for page in self._pages])
        shown = np.arange(sizes.max()) < sizes[:, None]
        rows = np.zeros((len(self._pages[0]), *shown.shape))
        rows[:, shown] = np.concatenate(self._pages, 1)
        of_models = rows[1:].reshape(len(self._models), -1, *shown.shape)
        return TargetColumns(
            np.array(self._times_ms), shown, rows[0], of_models[:, 0], of_models[:, 1::2], of_models[:, 2::2]
        )


def _chances(target: Target, page: RuledPage, scores: CandidateScores, shown: Sequence[int]) -> tuple[F64, F64]:
    """See `page_chances`."""
    uncertain = {prior: u * page.free for prior, u in scores.uncertain.items()}
    predicted = scores.predicted.astype(np.float64)
    draw = draw_with(target.spec.explore, uncertain)
    return page_chances(page.places(predicted, len(shown)), draw, shown, predicted)
