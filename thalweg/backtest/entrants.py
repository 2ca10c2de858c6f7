"""Those who take part in a backtest: the learner's model, and peers step by step."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from learner.retraining.schedule import RetrainSchedule
from learner.training.dedup import NO_SOURCE
from learner.training.model import Model
from producers.features import CandidatePage
from stream.events.types import Erase, Examples, Impression
from stream.features.encoder import DeepInput, WideKeys
from stream.spec.spec import Spec
from stream.spec.values import PartName
from stream.tables.dtypes import F32, U64


class ShownPage(NamedTuple):
    """A page to be predicted. `row`: of its first item."""

    words: U64
    row: int
    page: Impression
    candidates: CandidatePage | None  # of a backtest that asks for them


class AskedPage(NamedTuple):
    """Candidates to be predicted as they would be served; nobody sees them. `words`: `as_served`."""

    words: U64


class EmittedRecord(NamedTuple):
    """A record of `examples` to be learned. `rows`: of the first item of each one's page. `erased`: at its end."""

    events: Sequence[Examples]
    rows: Sequence[int]
    offset: int
    erased: Sequence[Erase] = ()


Step = ShownPage | AskedPage | EmittedRecord
EncodedPage = tuple[WideKeys, DeepInput]


class Entrant(Protocol):
    """A model in a backtest: it predicts pages and learns records of examples."""

    name: str

    def play(self, steps: Sequence[Step]) -> list[F32]:
        """Predict and learn, in order.

        Returns P(Y=1) of the items of each ShownPage and AskedPage, float32 [n], by what was learned before.
        """
        ...

    def auc_arrival(self) -> float:
        """AUC of predictions just before each example is learned; NaN where it isn't measured."""
        return float("nan")


class PeerEntrant(Entrant, Protocol):
    """A peer, step by step."""

    def play(self, steps: Sequence[Step]) -> list[F32]:
        """Predict and learn, in order."""
        found = []
        for step in steps:
            if isinstance(step, ShownPage):
                found.append(self.predict(step.words, step.row))
            elif isinstance(step, AskedPage):
                found.append(self.score(step.words))
            else:
                self.learn(step.events, step.rows)
        return found

    def predict(self, words: U64, row: int) -> F32:
        """P(Y=1) of each item of a page, float32 [n], by what was learned so far. `row`: of its first item."""
        ...

    def score(self, words: U64) -> F32:
        """P(Y=1) of a page's items as a ranker would score it, float32 [n]. `words`: as it is served."""
        ...

    def learn(self, record: Sequence[Examples], rows: Sequence[int]) -> None:
        """Learn one record of `examples`; `rows`: of the first item of each one's page."""
        ...


class ExampleLog:
    """Offsets of records of `examples`."""

    def __init__(self) -> None:
        self.newest = -1  # offset

    def append(self) -> None:
        """Another record."""
        self.newest += 1


class ModelEntrant(Entrant):
    """The learner's model, with some parts of the spec. Pages bring their statistics: it learns none.

    Nothing is published, so nothing is held out to judge it: it learns all examples, as its peers do.
    """

    def __init__(self, spec: Spec, parts: Sequence[PartName], seed: int) -> None:
        self.name = ",".join(parts)
        model = Model(msgspec.structs.replace(spec.without_holdout(), parts=list(parts)), seed, learns_statistics=False)
        self.learning = RetrainSchedule(model)

    @property
    def model(self) -> Model:
        """The live one."""
        return self.learning.model

    def play(self, steps: Sequence[Step]) -> list[F32]:
        """As the learner does; what doesn't depend on what was learned is worked out for all at once, before."""
        return self.play_encoded(
            steps, self.model.encode_pages([step.words for step in steps if isinstance(step, ShownPage)])
        )

    def play_encoded(
        self, steps: Sequence[Step], encoded: Sequence[EncodedPage], see: Callable[[WideKeys], None] = lambda keys: None
    ) -> list[F32]:
        """As `play`, but predict these items in place of each page's. `see` gets their keys just before."""
        model, pages = self.model, iter(encoded)
        asked = [step.words for step in steps if isinstance(step, AskedPage)]
        served = iter(model.encode_pages(asked, serving=True))
        emitted = [step for step in steps if isinstance(step, EmittedRecord)]
        chunks = model.record_encoder.of_events(
            [[*record.events, *record.erased] for record in emitted], [record.offset for record in emitted], NO_SOURCE
        )
        records = iter([(chunk, r) for chunk in chunks for r in range(len(chunk))])
        found = []
        for step in steps:
            if isinstance(step, ShownPage):
                keys, given = next(pages)
                see(keys)
                found.append(self.model.predict_encoded(keys, given))
            elif isinstance(step, AskedPage):
                found.append(self.model.predict_encoded(*next(served)))
            else:
                chunk, r = next(records)
                self.learning.learn(chunk, r, r + 1)
        return found

    def auc_arrival(self) -> float:
        """The learner's own figure."""
        return self.model.progress.lifetime().auc
