"""Models that are asked what pages would have shown: the learner's, and published versions."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from learner.training.model import Model
from ranker.versions.model import Version
from stream.features.encoder import WideKeys
from stream.features.page_features import Layout
from stream.features.serve_as import as_served
from stream.runtime.errors import SettingsError
from stream.spec.explore import Explore
from stream.spec.spec import Spec
from stream.spec.values import PartName
from stream.tables.dtypes import F32, F64
from thalweg.backtest.entrants import ModelEntrant, ShownPage, Step


class CandidateScores(NamedTuple):
    """What a model says of a page's n candidates."""

    predicted: F32  # f32[n], P(Y=1)
    uncertain: dict[float, F64]  # f64[n], u of `Explore`, by the `prior` of each target that needs it


class CandidateModel(Protocol):
    """A model that predicts the candidates of pages as they would be served."""

    name: str

    def play(self, steps: Sequence[Step], priors: Sequence[float]) -> list[CandidateScores]:
        """Of each page, by what is known before it; then learn the records."""
        ...

    def check(self, explore: Explore) -> None:
        """Raises SettingsError when the model doesn't know what this exploration draws by."""
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
        self._explored = np.zeros(256, np.bool_)  # by the low byte of a key
        self._explored[[c + 1 for c in msgspec.structs.replace(spec, parts=list(parts)).explored_crosses()]] = True

    def play(self, steps: Sequence[Step], priors: Sequence[float]) -> list[CandidateScores]:
        """See CandidateModel."""
        model, uncertain = self._learner.model, list[dict[float, F64]]()
        served = [as_served(model.layout, page.candidates.words) for page in shown_pages(steps) if page.candidates]

        def see(keys: WideKeys) -> None:
            uncertain.append({prior: self._uncertainty(self._learner.model, keys, prior) for prior in priors})

        predicted = self._learner.play_encoded(steps, model.encode_pages(served, serving=True), see)
        return [CandidateScores(*one) for one in zip(predicted, uncertain, strict=True)]

    def _uncertainty(self, model: Model, keys: WideKeys, prior: float) -> F64:
        """As `Version.uncertainty`, by the learner's own sums, which a version rounds."""
        explored = self._explored[keys.keys & np.uint64(255)]
        owners = np.repeat(np.arange(len(keys.offsets) - 1), np.diff(keys.offsets))[explored]
        sums = model.wide.sums(model.wide.table.rows_of(keys.keys[explored])).astype(np.float64)
        found: F64 = np.sqrt(np.bincount(owners, 1 / (prior + sums), len(keys.offsets) - 1))
        return found

    def check(self, explore: Explore) -> None:
        """See CandidateModel."""
        if explore.needs_uncertainty and not self._explored.any():
            raise SettingsError(
                f'[explore] kind = "{explore.kind}" draws by what the wide part has learned of items, and --parts '
                f"{self.name} has no such weights: leave these parts out, or draw by epsilon"
            )

    @property
    def learned_ms(self) -> int:
        """None are: it learns a page after it was shown."""
        return 0


class PublishedVersion(CandidateModel):
    """A published version, by its own statistics: it learns nothing.

    Raises SettingsError when it reads other columns than the spec says.
    """

    def __init__(self, version: Version, spec: Spec) -> None:
        self.name = f"version {version.number}"
        self._version = version
        if version.plan.layout.hash != Layout(spec).hash:
            raise SettingsError(
                f"{self.name} was made by a spec with other columns or statistics: pass the one that it was made by, "
                "or a version of this one (`thalweg snapshots ls`)"
            )

    def play(self, steps: Sequence[Step], priors: Sequence[float]) -> list[CandidateScores]:
        """See CandidateModel."""
        found = []
        for page in shown_pages(steps):
            assert page.candidates is not None, "the backtest makes them"
            words = as_served(self._version.plan.layout, page.candidates.words).copy()  # others read these, too
            self._version.fill(words, page.page.time_ms)
            everything = np.arange(int(words[1]))
            uncertain = {prior: self._version.uncertainty(words, everything, prior) for prior in priors}
            found.append(CandidateScores(self._version.probabilities(words), uncertain))
        return found

    def check(self, explore: Explore) -> None:
        """See CandidateModel."""
        if explore.needs_uncertainty and not len(self._version.plan.explored):
            raise SettingsError(
                f'[explore] kind = "{explore.kind}" draws by sums of gradients, and {self.name} has none, since its '
                f"spec doesn't draw by them: leave --version out, so that a model learns the log, or draw by epsilon"
            )

    @property
    def learned_ms(self) -> int:
        """Its watermark."""
        return self._version.manifest.watermark_ms


def shown_pages(steps: Sequence[Step]) -> list[ShownPage]:
    """The pages among the steps of a backtest that has candidates."""
    return [step for step in steps if isinstance(step, ShownPage)]
