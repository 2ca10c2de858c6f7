"""Targets of an off-policy estimate in a backtest: rankers that are asked what they would have shown on each page."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from producers.features import FeatureBuilder
from ranker.versions.model import Version
from stream.events.types import Impression
from stream.features.serve_as import as_served
from stream.history.histories import MEMBERS_MAX
from stream.spec.spec import Spec
from stream.spec.values import PartName
from stream.tables.dtypes import F32, F64, I64, Bools
from thalweg.backtest.entrants import Entrant, ModelEntrant, ShownPage, Step
from thalweg.backtest.target_policy import Draw, free_places, page_chances


class CandidateModel(Protocol):
    """A model that predicts the candidates of pages as they would be served."""

    name: str

    def play(self, steps: Sequence[Step]) -> list[F32]:
        """P(Y=1) of each page's candidates, float32 [n], by what is known before the page; then learn the records."""
        ...

    @property
    def learned_ms(self) -> int:
        """Event time up to which pages are left out, since their labels are in its predictions."""
        ...


class LearningModel(CandidateModel):
    """The learner's model with some parts of the spec: it learns the log, as in any backtest."""

    def __init__(self, spec: Spec, parts: Sequence[PartName], seed: int) -> None:
        self.name = ",".join(parts)
        self._learner = ModelEntrant(spec, parts, seed)

    def play(self, steps: Sequence[Step]) -> list[F32]:
        """See CandidateModel."""
        model = self._learner.model
        served = [as_served(model.layout, page.candidates.words) for page in shown_pages(steps) if page.candidates]
        return self._learner.play_encoded(steps, model.encode_pages(served, serving=True))

    @property
    def learned_ms(self) -> int:
        """None are: it learns a page after it was shown."""
        return 0


class PublishedVersion(CandidateModel):
    """A published version, by its own statistics: it learns nothing."""

    def __init__(self, version: Version) -> None:
        self.name = f"version {version.number}"
        self._version = version

    def play(self, steps: Sequence[Step]) -> list[F32]:
        """See CandidateModel."""
        found = []
        for page in shown_pages(steps):
            assert page.candidates is not None, "the backtest makes them"
            words = as_served(self._version.plan.layout, page.candidates.words).copy()  # others read these, too
            self._version.fill(words, page.page.time_ms)
            found.append(self._version.probabilities(words))
        return found

    @property
    def learned_ms(self) -> int:
        """Its watermark."""
        return self._version.manifest.watermark_ms


class TargetColumns(NamedTuple):
    """P pages of at most K places as logged, and what a target would have done under D draws; 0 where no place is."""

    times_ms: I64  # i64[P]
    shown: Bools  # bool[P, K]
    propensities: F64  # f64[P, K], NaN where the log has none
    predicted: F64  # f64[P, K]
    chances: F64  # f64[D, P, K]
    expected: F64  # f64[D, P, K]


class TargetEntrant(Entrant):
    """What a model would have shown on each page, under each of these draws."""

    def __init__(self, model: CandidateModel, draws: Sequence[Draw]) -> None:
        self.name, self.model = model.name, model
        self._draws = draws
        self._times_ms: list[int] = []
        self._pages: list[F64] = []  # of each f64[2 + 2D, K]: propensities, predicted; by draw chances, expected

    def play(self, steps: Sequence[Step]) -> list[F32]:
        """Ask and learn, in order. Returns the predictions of the items that were shown."""
        predictions = self.model.play(steps)
        return [self._judge(page, predicted) for page, predicted in zip(shown_pages(steps), predictions, strict=True)]

    def _judge(self, page: ShownPage, predicted: F32) -> F32:
        assert page.candidates is not None, "the backtest makes them"
        _, size, shown = page.candidates
        scores = predicted.astype(np.float64)
        rows = [np.array(page.page.propensities or [np.nan] * len(shown)), scores[shown]]
        for draw in self._draws:
            rows += page_chances(free_places(scores, size), draw, shown, scores)
        self._times_ms.append(page.page.time_ms)
        self._pages.append(np.array(rows))
        return predicted[shown]

    def columns(self) -> TargetColumns:
        """All pages."""
        sizes = np.array([page.shape[1] for page in self._pages])
        shown = np.arange(sizes.max()) < sizes[:, None]
        rows = np.zeros((2 + 2 * len(self._draws), *shown.shape))
        rows[:, shown] = np.concatenate(self._pages, 1)
        return TargetColumns(np.array(self._times_ms), shown, rows[0], rows[1], rows[2::2], rows[3::2])


def shown_pages(steps: Sequence[Step]) -> list[ShownPage]:
    """The pages among the steps of a backtest that has candidates."""
    return [step for step in steps if isinstance(step, ShownPage)]


def known_items(features: FeatureBuilder, page: Impression) -> list[str]:
    """All items that were described or shown before the page; where the spec has a history, without the user's."""
    names = features.catalogue.row
    if not features.layout.history:
        return [*names]
    installed = {*features.histories.newest(page.user, MEMBERS_MAX)}
    return [name for name in names if name not in installed]
