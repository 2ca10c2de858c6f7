"""`thalweg backtest --off-policy`: models learn the log as in any backtest; beside that each page is asked what they
would have shown in place of what was shown.

A target policy is a model as it was when the page was shown, over all items known by then, and a way to draw. The
model's predictions of that time, which know nothing of the page's labels, are the doubly robust estimator's too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from producers.features import FeatureBuilder
from producers.source import SourceElement
from stream.events.types import Impression
from stream.features.serve_as import as_served
from stream.history.histories import MEMBERS_MAX
from stream.runtime.errors import DataError, SettingsError
from stream.spec.spec import Spec
from stream.spec.values import PartName
from stream.tables.dtypes import F32, F64, Bools
from thalweg.backtest.backtest import Backtest, Scores
from thalweg.backtest.contest import ContestConfig, parts_of, play, with_policy
from thalweg.backtest.entrants import Entrant, ExampleLog, ModelEntrant, ShownPage, Step
from thalweg.backtest.off_policy import REMEDY, Estimate, EstimateOptions, LoggedPages, TargetPages, estimate
from thalweg.backtest.target_policy import Draw, free_places, greedy_with, page_chances


@dataclass(frozen=True)
class OffPolicy:
    """Estimates by target policy. `left_out`: pages without valid propensities, or without a label of each item."""

    estimates: dict[str, Estimate]
    pages: int
    left_out: int
    options: EstimateOptions


class TargetEntrant(Entrant):
    """A model with some parts of the spec, and what it would have shown under each of these draws."""

    def __init__(self, spec: Spec, parts: Sequence[PartName], seed: int, draws: Sequence[Draw]) -> None:
        self.name = ",".join(parts)
        self.pages: list[F64] = []  # of each page f64[2 + 2D, K]: propensities, predicted; by draw chances, expected
        self._learner, self._draws = ModelEntrant(spec, parts, seed), draws

    def play(self, steps: Sequence[Step]) -> list[F32]:
        """As a ModelEntrant does, with the candidates of each page predicted as they'd be served."""
        model = self._learner.model
        shown = [step for step in steps if isinstance(step, ShownPage)]
        served = [as_served(model.layout, step.candidates.words) for step in shown if step.candidates]
        predictions = self._learner.play_encoded(steps, model.encode_pages(served, serving=True))
        return [self._judge(page, predicted) for page, predicted in zip(shown, predictions, strict=True)]

    def _judge(self, page: ShownPage, predicted: F32) -> F32:
        assert page.candidates is not None, "the backtest makes them"
        _, size, shown = page.candidates
        scores = predicted.astype(np.float64)
        rows = [np.array(page.propensities or [np.nan] * len(shown)), scores[shown]]
        for draw in self._draws:
            rows += page_chances(free_places(scores, size), draw, shown, scores)
        self.pages.append(np.array(rows))
        return predicted[shown]

    def columns(self) -> tuple[F64, Bools]:
        """The rows of all pages, f64[2 + 2D, P, K], and which places pages have, bool[P, K]; elsewhere rows are 0."""
        sizes = np.array([page.shape[1] for page in self.pages])
        shown = np.arange(sizes.max()) < sizes[:, None]
        found = np.zeros((2 + 2 * len(self._draws), *shown.shape))
        found[:, shown] = np.concatenate(self.pages, 1)
        return found, shown


def known_items(features: FeatureBuilder, page: Impression) -> list[str]:
    """All items that were described or shown before the page; where the spec has a history, without the user's."""
    names = features.catalogue.row
    if not features.layout.history:
        return [*names]
    installed = {*features.histories.newest(page.user, MEMBERS_MAX)}
    return [name for name in names if name not in installed]


def run_off_policy(
    spec: Spec,
    source: Iterable[SourceElement],
    config: ContestConfig,
    epsilons: Sequence[float],
    options: EstimateOptions,
) -> OffPolicy:
    """Play the source and estimate what each choice of parts under each epsilon would have earned.

    Raises SettingsError, and DataError when the log doesn't say with what probability items were shown, or was filled
    without drawing.
    """
    if not options.clip > 0:
        raise SettingsError(f"--clip takes the greatest weight that counts, above 0; not {options.clip:g}")
    draws = {f"epsilon={epsilon:g}" if epsilon else "greedy": greedy_with(epsilon) for epsilon in epsilons}
    spec = with_policy(spec, config)
    targets = [TargetEntrant(spec, parts, config.seed, [*draws.values()]) for parts in parts_of(spec, config)]
    scores = play(Backtest(spec, [*targets], ExampleLog(), config.pack, known_items), source, config.limit)
    estimates = {}
    for target in targets:
        columns, shown = target.columns()
        logged, kept = logged_pages(scores, columns[0], shown)
        predicted, *of_draws = columns[1:, kept]
        for name, chances, expected in zip(draws, of_draws[::2], of_draws[1::2], strict=True):
            estimates[f"{target.name} {name}"] = estimate(logged, TargetPages(chances, predicted, expected), options)
    return OffPolicy(estimates, int(kept.sum()), int((~kept).sum()), options)


def logged_pages(scores: Scores, propensities: F64, shown: Bools) -> tuple[LoggedPages, Bools]:
    """The pages whose items all have labels and valid propensities, and which those are, bool[P].

    `propensities`: f64[P, K], NaN where a page has none. Raises DataError when no page is left.
    """
    labels = np.full_like(propensities, np.nan)
    labels[scores.rows.pages, scores.positions] = scores.labels
    has_propensity = ~shown | ((propensities > 0) & (propensities <= 1))
    if not has_propensity.all(1).any():
        raise DataError(
            "no page says with what probability its items were shown (`propensities`, above 0 and at most 1), and "
            f"without that no page says what others would have earned; {REMEDY}"
        )
    kept: Bools = np.all(has_propensity & ~(shown & np.isnan(labels)), axis=1)
    if not kept.any():
        raise DataError("no page with propensities has all its labels: let the log go on until its windows are closed")
    return LoggedPages(np.where(shown, labels, 0.0)[kept], np.where(shown, propensities, 1.0)[kept], shown[kept]), kept
