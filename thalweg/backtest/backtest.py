"""`thalweg backtest`: join and learn a source in one process, exactly reproducible.

Each page is predicted when it is shown, by the model as it is then, and learned when the joiner tells its label. Judged
are labels as of the close of their page's window, the same ones under every policy; what changes them later is only
learned. Features, join and statistics are those of `producers.features`: one copy for all entrants,
who see the same pages and the same records in the same order, in one pass.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from learner.training.model import Model
from learner.training.progressive_validation import ALL, Figures, Progress, auc_of
from learner.training.slices import Slices
from producers.features import FeatureMaker
from producers.source import Broken, Pause, Sourced, WorldEvent, first_pages
from stream.events.types import INSTALLED, WINDOW_CLOSED, Examples, Impression, Tick
from stream.features.encoder import one_page
from stream.features.page_features import F32
from stream.features.statistics import Statistics
from stream.joiner.label_rules import label_rules
from stream.runtime.errors import BadEvent, DataError
from stream.spec.spec import PartName, Spec
from stream.tables.hash_table import U64

F64 = npt.NDArray[np.float64]

PROGRESS_PAGES = 500


class Entrant(Protocol):
    """What takes part: it predicts pages and learns records of examples."""

    name: str

    def predict(self, words: U64, row: int) -> F32:
        """P(Y=1) of each item of a page, float32 [n], by what was learned so far. `row`: of its first item."""
        ...

    def learn(self, record: Sequence[Examples], rows: Sequence[int]) -> None:
        """Learn one record of `examples`; `rows`: of the first item of each one's page."""
        ...

    def auc_arrival(self) -> float:
        """AUC of predictions just before each example is learned; NaN where it isn't measured."""
        ...


class _Elsewhere(Statistics):
    """Statistics that whoever makes the features moves: the model reads them in its pages, as it always does."""

    def learn(self, *_: Any) -> None:
        """Nothing to do."""


class Ours:
    """The learner's model, with some parts of the spec."""

    def __init__(self, spec: Spec, parts: Sequence[PartName], seed: int, told: "Told") -> None:
        self.name = ",".join(parts)
        self.model = Model(msgspec.structs.replace(spec, parts=list(parts)), seed, told.since)
        self.model.statistics = _Elsewhere(self.model.statistics.program)
        self._told = told

    def predict(self, words: U64, row: int) -> F32:
        """By the model as it is now."""
        return self.model.predict(words)

    def learn(self, record: Sequence[Examples], rows: Sequence[int]) -> None:
        """As the learner does: predict, then learn."""
        self.model.learn(record, self._told.newest)

    def auc_arrival(self) -> float:
        """The learner's own figure."""
        return self.model.progress.lifetime().auc


class Told:
    """The newest records of `examples`, as long as a warm start may read them again."""

    def __init__(self) -> None:
        self.newest = -1  # offset
        self._records: deque[list[Examples]] = deque()

    def append(self, record: list[Examples]) -> None:
        """One record more."""
        self.newest += 1
        self._records.append(record)

    def since(self, offset: int) -> Iterator[list[Examples]]:
        """Records from this offset on."""
        first = self.newest + 1 - len(self._records)
        assert offset >= first, f"record {offset} was forgotten, the first one is {first}"
        for at in range(offset - first, len(self._records)):
            yield self._records[at]

    def forget_before(self, offset: int) -> None:
        """Nobody reads what lies before."""
        while self._records and self.newest + 1 - len(self._records) < offset:
            self._records.popleft()


@dataclass
class Scores:
    """What was predicted and what came of it, a row an item in the order of pages.

    `predictions` float32 [entrants, N] at page time, `labels` float32 [N], `members` bool [N, slices]; `seconds` per
    entrant, spent in predicting and learning. `untold`: items without a label at the end.
    """

    names: list[str]
    slices: tuple[str, ...]
    predictions: F32
    labels: F32
    members: npt.NDArray[np.bool_]
    seconds: list[float]
    arrivals: list[float]
    pages: int
    learned: int
    untold: int
    broken: int
    seconds_shared: float  # features and join, for all

    def figures(self, entrant: int) -> dict[str, Figures]:
        """One entrant's, of all and of each slice: by the learner's own measure, but for the exact AUC."""
        progress = Progress(self.slices)
        progress.record(self.predictions[entrant], self.labels, self.members)
        rows = {ALL: np.ones(len(self.labels), np.bool_), **dict(zip(self.slices, self.members.T, strict=True))}
        return {
            name: replace(progress.lifetime(name), auc=exact_auc(self.predictions[entrant, of], self.labels[of]))
            for name, of in rows.items()
        }

    def auc(self, entrant: int, first: int = 0, last: int | None = None) -> float:
        """AUC of one entrant over rows first:last."""
        return exact_auc(self.predictions[entrant, first:last], self.labels[first:last])

    def auc_of(self, predictions: F32, first: int = 0) -> float:
        """AUC of any predictions [N] over rows from `first` on."""
        return exact_auc(predictions[first:], self.labels[first:])


def exact_auc(predictions: F32, labels: F32) -> float:
    """Area under the ROC curve of predictions [N]; equal ones count half.

    >>> exact_auc(np.array([0.1, 0.4, 0.4], np.float32), np.array([0, 0, 1], np.float32))
    0.75
    """
    known, places = np.unique(predictions, return_inverse=True)
    return auc_of(auc_counts(places, labels, len(known)))


def auc_counts(places: npt.NDArray[np.int64], labels: F32, size: int) -> F64:
    """Negatives and positives at each place, float64 [2, size]."""
    return np.stack([np.bincount(places, weights, size) for weights in (1.0 - labels, labels)])


@dataclass
class Backtest:
    """The loop. `pack`: events of which the examples make one record, as a joiner's input record would be."""

    spec: Spec
    entrants: list[Entrant]
    told: Told
    pack: int = 1
    broken: int = 0
    say: Callable[[str], None] = lambda line: None
    progress: Callable[["Backtest"], None] = lambda backtest: None
    _predicted: list[list[F32]] = field(default_factory=list)
    _labels: list[float] = field(default_factory=list)  # NaN: not told yet
    _members: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    _rows: dict[str, int] = field(default_factory=dict)  # request id → row of its first item
    _record: list[Examples] = field(default_factory=list)
    _events: int = 0
    _last_ms: int = 0

    def __post_init__(self) -> None:
        self.maker = FeatureMaker(self.spec, 1)
        self._rules = label_rules(self.spec)
        self._slices = Slices(self.spec, self.maker.layout)
        self._predicted = [[] for _ in self.entrants]
        self.seconds = [0.0 for _ in self.entrants]
        self.learned = 0

    @property
    def pages(self) -> int:
        """Pages that were predicted."""
        return len(self._rows)

    def run(self, source: Iterable[Sourced], limit: int | None = None) -> Scores:
        """Play the source, or its first `limit` pages, until all windows are closed. Raises DataError: no page."""
        rules = self._rules
        if limit is not None:
            source = first_pages(source, limit, rules.window_ms)
        begun = time.perf_counter()
        for event in source:
            if isinstance(event, Broken):
                self._refuse(event.where, event.reason)
            elif not isinstance(event, Pause):
                self._take(event)
        self._take(Tick(self._last_ms + rules.window_ms + rules.lateness_ms + 1))
        self._learn()
        self.progress(self)
        return self._scores(time.perf_counter() - begun - sum(self.seconds))

    def _take(self, event: WorldEvent) -> None:
        if isinstance(event, Impression) and event.request_id in self._rows:
            self._refuse(event.request_id, "a page with this request_id was played before; give each page its own")
            event = Tick(event.time_ms)
        try:
            taken = self.maker.take(event)
        except BadEvent as bad:
            self._refuse(event.request_id if isinstance(event, Impression) else type(event).__name__, str(bad))
            return
        page = taken.event
        if isinstance(page, Impression):
            self._predict(page)
        self._last_ms = max(self._last_ms, getattr(event, "time_ms", 0))
        for examples in taken.examples:
            self._judge(examples, isinstance(page, Impression) and page.request_id == examples.page.request_id)
        self._record += taken.examples
        self._events += 1
        if self._events % self.pack == 0:
            self._learn()

    def _judge(self, examples: Examples, just_shown: bool) -> None:
        """Note labels: first ones, which are told when the window closes at the latest, and corrections until then."""
        row, page = self._rows[examples.page.request_id], examples.page
        is_open = page.time_ms + self._rules.window_ms > self._last_ms - self._rules.lateness_ms
        for position, label, reason in zip(examples.positions, examples.labels, examples.reasons, strict=True):
            if is_open or just_shown or reason in (INSTALLED, WINDOW_CLOSED):
                self._labels[row + position] = label

    def _predict(self, page: Impression) -> None:
        words: U64 = np.frombuffer(page.features, np.uint64)
        row = self._rows[page.request_id] = len(self._labels)
        self._labels += [np.nan] * len(page.items)
        self._members.append(self._slices.members(one_page(words)))
        for i, entrant in enumerate(self.entrants):
            begun = time.perf_counter()
            self._predicted[i].append(entrant.predict(words, row))
            self.seconds[i] += time.perf_counter() - begun
        if len(self._rows) % PROGRESS_PAGES == 0:
            self.progress(self)

    def _learn(self) -> None:
        """The gathered examples are a record: everyone learns it."""
        record, self._record = self._record, []
        if not record:
            return
        rows = [self._rows[examples.page.request_id] for examples in record]
        self.learned += sum(len(examples.labels) for examples in record)
        self.told.append(record)
        for i, entrant in enumerate(self.entrants):
            begun = time.perf_counter()
            entrant.learn(record, rows)
            self.seconds[i] += time.perf_counter() - begun
        needed = [one.model.records[0][0] for one in self.entrants if isinstance(one, Ours) and one.model.records]
        self.told.forget_before(min(needed, default=self.told.newest))

    def _refuse(self, where: str, reason: str) -> None:
        self.broken += 1
        if self.broken <= 20:
            self.say(f"{where} left out: {reason}")

    def _scores(self, seconds_shared: float) -> Scores:
        if not self._rows:
            raise DataError("there was no page that could be taken: `thalweg check` says what is wrong with the events")
        labels = np.array(self._labels, np.float32)
        known = ~np.isnan(labels)
        return Scores(
            [entrant.name for entrant in self.entrants],
            self._slices.names,
            np.array([np.concatenate(one) for one in self._predicted], np.float32)[:, known],
            labels[known],
            np.concatenate(self._members)[known],
            self.seconds,
            [entrant.auc_arrival() for entrant in self.entrants],
            self.pages,
            self.learned,
            int((~known).sum()),
            self.broken,
            seconds_shared,
        )
