"""`thalweg backtest --off-policy`: what targets would have earned on the pages of a log.

Models learn the log as in any backtest; beside that they, or published versions, are asked what each page would have
shown. Their predictions of its candidates know nothing of its labels, so they are the doubly robust estimator's, too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from producers.source import SourceElement
from ranker.versions.model import Version
from stream.features.page_features import Layout
from stream.runtime.errors import DataError, SettingsError
from stream.spec.spec import Spec
from stream.tables.dtypes import Bools
from thalweg.backtest.backtest import Backtest, Scores
from thalweg.backtest.contest import ContestConfig, parts_of, play, with_policy
from thalweg.backtest.entrants import ExampleLog
from thalweg.backtest.off_policy import REMEDY, Estimate, EstimateOptions, LoggedPages, TargetPages, estimate
from thalweg.backtest.target_entrants import (
    CandidateModel,
    LearningModel,
    PublishedVersion,
    TargetColumns,
    TargetEntrant,
    known_items,
)
from thalweg.backtest.target_policy import greedy_with


@dataclass(frozen=True)
class TargetConfig:
    """Which rankers are asked: published versions, or else the models that a backtest's options name."""

    epsilons: Sequence[float] = (0.0,)  # each is a target of its own
    versions: Sequence[Version] = ()


@dataclass(frozen=True)
class OffPolicy:
    """Estimates by target, of `pages` of the log; those that an estimate isn't of lack something, or were learned."""

    estimates: dict[str, Estimate]
    pages: int
    options: EstimateOptions


def run_off_policy(
    spec: Spec,
    source: Iterable[SourceElement],
    config: ContestConfig,
    of: TargetConfig,
    options: EstimateOptions,
) -> OffPolicy:
    """Play the source and estimate what each target would have earned.

    Raises SettingsError, and DataError when the log doesn't say with what probability items were shown, or was filled
    without drawing.
    """
    if not options.clip > 0:
        raise SettingsError(f"--clip takes the greatest weight that counts, above 0; not {options.clip:g}")
    draws = {f"epsilon={epsilon:g}" if epsilon else "greedy": greedy_with(epsilon) for epsilon in of.epsilons}
    for version in of.versions:
        _check_layout(version, spec)
    spec = with_policy(spec, config)
    models: list[CandidateModel] = [PublishedVersion(version) for version in of.versions]
    models = models or [LearningModel(spec, parts, config.seed) for parts in parts_of(spec, config)]
    targets = [TargetEntrant(model, [*draws.values()]) for model in models]
    scores = play(Backtest(spec, [*targets], ExampleLog(), config.pack, known_items), source, config.limit)
    estimates = {}
    for target in targets:
        columns = target.columns()
        logged, kept = logged_pages(scores, columns, target.model.learned_ms)
        for name, chances, expected in zip(draws, columns.chances, columns.expected, strict=True):
            pages = TargetPages(chances[kept], columns.predicted[kept], expected[kept])
            estimates[f"{target.name} {name}"] = estimate(logged, pages, options)
    return OffPolicy(estimates, scores.pages, options)


def _check_layout(version: Version, spec: Spec) -> None:
    """Raises SettingsError when a version reads other columns than the spec says."""
    if version.plan.layout.hash != Layout(spec).hash:
        raise SettingsError(
            f"version {version.number} was made by a spec with other columns or statistics: pass the one that it was "
            "made by, or a version of this one (`thalweg snapshots ls`)"
        )


def logged_pages(scores: Scores, columns: TargetColumns, learned_ms: int) -> tuple[LoggedPages, Bools]:
    """The pages after `learned_ms` whose items all have labels and valid propensities, and which those are, bool[P].

    Raises DataError when there is none.
    """
    propensities, shown = columns.propensities, columns.shown
    labels = np.full_like(propensities, np.nan)
    labels[scores.rows.pages, scores.positions] = scores.labels
    has_propensities = np.all(~shown | ((propensities > 0) & (propensities <= 1)), axis=1)
    if not has_propensities.any():
        raise DataError(
            "no page says with what probability its items were shown (`propensities`, above 0 and at most 1), and "
            f"without that no page says what others would have earned; {REMEDY}"
        )
    kept: Bools = has_propensities & ~np.any(shown & np.isnan(labels), axis=1) & (columns.times_ms > learned_ms)
    if not kept.any():
        raise DataError(
            "no page with propensities is left: their windows are still open, or the version has learned them; take "
            "a log that goes on for longer, or an older version"
        )
    return LoggedPages(np.where(shown, labels, 0.0)[kept], np.where(shown, propensities, 1.0)[kept], shown[kept]), kept
