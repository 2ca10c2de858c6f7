"""The publish gate's first step: every version, before it's served and exactly as it would be served, is compared.

Without labels, on recent pages (`reference_pages.py`): with the live version, and with one that is 16 to 24 versions
older, since many small steps make a large one. And with the recent labels (`label_window.py`). Nothing here depends on
a clock: the same records and the same moments of publishing give the same verdicts. The rules: `gate_rules.py`.
"""

import math
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from msgspec import structs

from learner.publishing.comparison import ScoreComparison, compared, in_proportion
from learner.publishing.gate_rules import (
    Refusal,
    comparison_refusal,
    coverage_refusal,
    labels_refusal,
    norms_refusal,
    widening,
)
from learner.publishing.label_window import LabelWindow
from learner.publishing.reference_pages import ReferencePages, column_names, reference_pages, without_users
from learner.training.model import Model
from stream.runtime.formats import LEVEL
from stream.snapshots.manifest import BUILD_LEVEL
from stream.snapshots.payload import NAMES_MAX
from stream.snapshots.verdict import NOT_FINITE, NUMBERS_MAX, Verdict
from stream.tables.dtypes import F32, F64, U64

ITEMS_MIN: Final = 64  # of all pages, or of a slice: below it means and orders depend on single items
ANCHORS: Final = 3  # that are kept: versions are compared with the oldest
ANCHOR_VERSIONS: Final = 8  # that pass, from one anchor to the next
EARLIER_SHIFT: Final = 0.6  # of `shift_max`: pages of an earlier version weren't learned just before it
SLICE_MARGIN: Final = 1.5  # by which a slice's bounds are wider


class Scores(NamedTuple):
    """What a version gives to reference pages."""

    log_odds: F64  # f64[N], of the pair of wide and deep part that is served
    deep: F32  # f32[N], of the deep part in it
    norms: F64  # of each layer, and of the pages' embeddings; empty without a deep part


@dataclass(frozen=True)
class Reference:
    """A version that was published, by its scores of pages that were recent then."""

    name: str
    pages: ReferencePages
    scores: Scores
    examples: int  # that its wide part had learned
    deep_examples: int  # that its deep part had

    def learned(self, *, deep: bool) -> int:
        """The example index from which a version with a deep part of its own, or without, has moved on."""
        return min(self.examples, self.deep_examples) if deep else self.examples


class PublishGate:
    """Judges the versions of one model.

    `refusals`: in a row, until `confirm`; `verdict`: the last.
    """

    def __init__(self, model: Model, *, remembers: bool = True) -> None:
        """`remembers`: the last predictions in the model's figures are its own, and judge it, too."""
        self._model, self._rules = model, model.spec.publish.gate
        self._labels = LabelWindow(model.progress, remembers=remembers)
        self._columns = column_names(model)
        self._live: Reference | None = None
        self._anchors: list[Reference] = []  # oldest first, at most ANCHORS
        self._anchored = 0  # versions that passed since the newest anchor
        self._level = 0.0  # ln of the mean prediction of the version judged last, relative to that of the live one
        self.verdict = Verdict()
        self.refusals = 0

    def judge(self, *, deep: bool) -> Verdict:
        """Judge the version that the model would publish now, with a deep part of its own or with the published one.

        One that passes is what the next ones are compared with.
        """
        model, numbers = self._model, dict[str, float]()
        fresh = reference_pages(model) if deep else None
        references = [one for one in (self._live, *(self._anchors[:1] if deep else ())) if one]
        scored = [self._scores(one, deep=deep) for one in references]
        refusal = None if model.finite() else Refusal(NOT_FINITE, "a parameter of the deep part isn't finite")
        level = 0.0
        for one, scores in zip(references, scored, strict=True):
            if bad := int((~np.isfinite(scores.log_odds)).sum()):
                why = f"{bad} of {len(scores.log_odds)} scores of recent pages aren't finite"
                refusal = refusal or Refusal(NOT_FINITE, why)
                continue
            found = compared(one.scores.log_odds, scores.log_odds, one.pages.ends)
            numbers |= {f"{one.name}_{key}": value for key, value in found._asdict().items()}
            numbers[f"{one.name}_since"] = model.examples - one.learned(deep=deep)
            # What moved while much was learned had moved in the predictions of the labels, too.
            moved = math.log(max(found.rate, 1e-9)) / self._width(one, deep=deep)
            level = moved if one is self._live else level
            refusal = refusal or self._refusal_of(one, scores, found, fresh, deep=deep)
        self._labels.add(self._level)
        self._level = level
        refusal = refusal or self._labels_refusal(level, numbers)
        numbers = {name: float(value) for name, value in list(numbers.items())[:NUMBERS_MAX] if math.isfinite(value)}
        if refusal:
            return self.refuse(Verdict(refusal.cause, refusal.reason, numbers))
        self._level = 0.0
        self._renew(fresh, scored, self._model)
        self.verdict = Verdict(numbers=numbers)
        return self.verdict

    def erase(self, users: U64) -> None:
        """Drop the pages of users with these ids from what versions are compared with."""
        self._live = self._live and _without(self._live, self._model, users)
        self._anchors = [left for one in self._anchors if (left := _without(one, self._model, users))]

    def trust(self, good: Model | None = None) -> None:
        """Take a model as it is for the live version: this one, or `good`, an earlier state of it that passed."""
        self._renew(reference_pages(self._model), [], good or self._model)

    def refuse(self, verdict: Verdict) -> Verdict:
        """Count a refusal, the gate's or one for another reason."""
        self.refusals += 1
        self.verdict = verdict
        return verdict

    def confirm(self) -> None:
        """The last version that passed was packed: it's a row of refusals no more."""
        self.refusals = 0

    def evidence(self) -> tuple[Reference, Scores] | None:
        """The live version, and how the model now scores its pages; None without one."""
        return (self._live, self._scores(self._live, deep=True)) if self._live else None

    def _scores(self, reference: Reference, *, deep: bool) -> Scores:
        """With the model's deep part as it is, or with that of the reference."""
        pages, of_deep, norms = reference.pages, reference.scores.deep, reference.scores.norms
        if deep:
            of_deep, norms = pages.deep_logits(self._model), pages.norms(self._model)
        return Scores(pages.wide_logits(self._model).astype(np.float64) + of_deep, of_deep, norms)

    def _refusal_of(
        self, reference: Reference, scores: Scores, every: ScoreComparison, fresh: ReferencePages | None, *, deep: bool
    ) -> Refusal | None:
        """Why the comparison with this reference forbids the version; `fresh`: pages that are recent now."""
        rules, pages, what = self._rules, reference.pages, f"the {reference.name} version"
        if reference is not self._live:
            rules, every = structs.replace(rules, shift_max=EARLIER_SHIFT * rules.shift_max), in_proportion(every)
        width = self._width(reference, deep=deep)
        if len(pages) < ITEMS_MIN:
            return None
        if fresh and len(fresh) >= ITEMS_MIN:
            counts = min(len(pages.starts), len(fresh.starts))
            lost = coverage_refusal(self._columns, pages.coverage, fresh.coverage, counts, width, what)
            if lost:
                return lost
        refusal = comparison_refusal(rules, every, width, what)
        for s, name in enumerate(self._model.progress.names[1:]):
            members = pages.members[:, s]
            if not refusal and members.sum() >= ITEMS_MIN:
                ends = np.append(0, np.cumsum(members))[pages.ends]
                found = compared(reference.scores.log_odds[members], scores.log_odds[members], ends)
                found = found if reference is self._live else in_proportion(found)
                refusal = comparison_refusal(rules, found, SLICE_MARGIN * width, f"{what}, where {name}")
        if not refusal and len(scores.norms):
            refusal = norms_refusal(rules, scores.norms / np.maximum(reference.scores.norms, 1e-9), width, what)
        return refusal

    def _width(self, reference: Reference, *, deep: bool) -> float:
        """How much wider bounds are for what was learned since this version."""
        learned = reference.learned(deep=deep)
        return widening(self._rules, self._model.examples - learned, learned)

    def _labels_refusal(self, level: float, numbers: dict[str, float]) -> Refusal | None:
        """Why the recent labels, of all or of a slice, forbid it; adds to `numbers`."""
        progress, label = self._model.progress, self._model.spec.label
        refusal = None
        for row, name in enumerate(progress.names):
            window = self._labels.figures(row, level)
            if row == 0:
                numbers |= {
                    "window_examples": window.examples, "window_positives": window.base_rate * window.examples,
                    "calibration": window.calibration, "normalised_entropy": window.normalised_entropy(),
                }  # fmt: skip
            usual_rate = progress.lifetime(name).base_rate
            margin = SLICE_MARGIN if row else 1.0
            if not refusal and (found := labels_refusal(self._rules, window, label, usual_rate, margin)):
                refusal = found._replace(reason=found.reason + (f", where {name}" if row else ""))
        return refusal

    def _renew(self, fresh: ReferencePages | None, scored: list[Scores], model: Model) -> None:
        """The version that passed is live, and is that of `model`: what follows is compared with its scores."""
        self._anchored += 1
        if fresh is None:  # its deep part is older, and its log-odds of these pages are known; or there are no pages
            if self._live and scored:
                self._live = replace(self._live, scores=scored[0], examples=model.examples)
            return
        deep = fresh.deep_logits(model)
        scores = Scores(fresh.wide_logits(model).astype(np.float64) + deep, deep, fresh.norms(model))
        self._live = Reference("live", fresh, scores, model.examples, model.examples)
        if not self._anchors or self._anchored >= ANCHOR_VERSIONS:
            self._anchors = [*self._anchors[1 - ANCHORS :], replace(self._live, name="earlier")]
            self._anchored = 0


def _without(reference: Reference, model: Model, users: U64) -> Reference | None:
    """None when all its pages are of these users."""
    pages, kept = without_users(reference.pages, model, users)
    scores = reference.scores
    left = scores._replace(log_odds=scores.log_odds[kept], deep=scores.deep[kept])
    return replace(reference, pages=pages, scores=left) if pages else None


def version_metrics(model: Model, verdict: Verdict) -> dict[str, float]:
    """What its manifest says of a version: the build, what the gate measured (`gate_live_shift` and so on), figures."""
    measured = {BUILD_LEVEL: float(LEVEL)} | {f"gate_{name}": value for name, value in verdict.numbers.items()}
    return dict(list((measured | model.progress.metrics()).items())[:NAMES_MAX])
