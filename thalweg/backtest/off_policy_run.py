"""`thalweg backtest --off-policy`: what targets would have earned on the pages of a log.

Models learn the log as in any backtest; beside that they, or published versions, are asked what each page would have
shown. Their predictions of its candidates know nothing of its labels, so they are the doubly robust estimator's, too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from producers.source import SourceElement
from ranker.versions.model import Version
from stream.runtime.errors import DataError, SettingsError
from stream.spec.spec import Spec
from stream.tables.dtypes import Bools
from thalweg.backtest.backtest import Backtest, Scores
from thalweg.backtest.contest import ContestConfig, parts_of, play, with_policy
from thalweg.backtest.entrants import ExampleLog
from thalweg.backtest.off_policy import REMEDY, Estimate, EstimateOptions, LoggedPages, TargetPages, estimate
from thalweg.backtest.ruled_candidates import RuledCandidates
from thalweg.backtest.target_entrants import TargetColumns, TargetEntrant
from thalweg.backtest.target_models import CandidateModel, LearningModel, PublishedVersion
from thalweg.backtest.target_spec import Target, epsilon_target, read_target


@dataclass(frozen=True)
class TargetConfig:
    """Which rankers are asked: published versions, or else the models that a backtest's options name; each of them as
    every target.
    """

    epsilons: Sequence[float] = ()  # each is a target under the spec's rules; (0.0,) where nothing else is named
    files: Sequence[Path] = ()  # each is a target, see `read_target`
    versions: Sequence[Version] = ()

    def targets(self, spec: Spec) -> list[Target]:
        """The targets. Raises SettingsError."""
        epsilons = self.epsilons or ([] if self.files else [0.0])
        found = [*(epsilon_target(epsilon, spec) for epsilon in epsilons), *(read_target(p, spec) for p in self.files)]
        names = [target.name for target in found]
        if twice := [name for name in names if names.count(name) > 1]:
            raise SettingsError(f"two targets are named {twice[0]!r}: leave one out, or rename its file")
        return found


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
    if spec.retrieval.rank_weight:
        raise SettingsError(
            "--off-policy: by the spec's [retrieval] rank_weight retrieval's rank counts in the order of a page, and "
            "retrieval isn't played, so a target would be a ranker that nobody runs; to estimate the model's own order "
            "pass a copy of the spec with rank_weight = 0"
        )
    if not options.clip > 0:
        raise SettingsError(f"--clip takes the greatest weight that counts, above 0; not {options.clip:g}")
    spec = with_policy(spec, config)
    targets = of.targets(spec)
    models: list[CandidateModel] = [PublishedVersion(version, spec) for version in of.versions]
    models = models or [LearningModel(spec, parts, config.seed) for parts in parts_of(spec, config)]
    pages = RuledCandidates([target.spec for target in targets])
    entrant = TargetEntrant(models, targets, pages)
    backtest = Backtest(spec, [entrant], ExampleLog(), config.pack, pages)
    scores = play(backtest, pages.watched(source), config.limit)
    columns, estimates = entrant.columns(), dict[str, Estimate]()
    for m, model in enumerate(models):
        logged, kept = logged_pages(scores, columns, model.learned_ms)
        for d, target in enumerate(targets):
            chances, expected = columns.chances[m, d], columns.expected[m, d]
            judged = TargetPages(chances[kept], columns.predicted[m][kept], expected[kept])
            estimates[f"{model.name} {target.name}"] = estimate(logged, judged, options)
    return OffPolicy(estimates, scores.pages, options)


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
