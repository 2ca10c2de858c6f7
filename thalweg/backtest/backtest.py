"""`thalweg backtest`: join and learn a source in one process, exactly reproducible.

Each page is predicted when it is shown, by the model as it is then, and learned when the joiner emits its label. Judged
are labels as of the close of their page's window, the same ones under every policy; later corrections are only learned.
Features, join and statistics are those of `producers.features`: one copy for all entrants, which see the same pages and
the same records in the same order, in one pass.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from learner.training.figures import ALL, Figures
from learner.training.progressive_validation import ProgressiveValidation, auc_of
from learner.training.ranking_figures import sessions
from learner.training.slices import Slices
from producers.features import CandidatePage, Candidates, FeatureBuilder, PreparedEvent
from producers.source import InvalidEvent, Pause, SourceElement, WorldEvent, first_pages
from stream.events.types import INSTALLED, WINDOW_CLOSED, Erase, Examples, Impression, RetiredItem, Tick
from stream.features.encoder import one_page
from stream.features.serve_as import as_served
from stream.joiner.label_rules import label_rules
from stream.runtime.errors import BadEvent, DataError
from stream.spec.spec import Spec
from stream.tables.dtypes import F32, F64, I64, U64, Bools
from thalweg.backtest.entrants import AskedPage, EmittedRecord, Entrant, ExampleLog, ShownPage, Step
from thalweg.backtest.judgement import JudgedRows
from thalweg.backtest.next_install import CANDIDATE_PAGE, NextInstalls, Question
from thalweg.backtest.ranks import Ranks

PROGRESS_PAGES = 500
JOINED_EVENTS = 256  # at once, and
JOINED_WITH_CANDIDATES = 16  # where pages have candidates: features of 10,000 items are some 5 MB
REPORTED_MAX = 20  # rejected events that are named


@dataclass
class Scores:
    """Predictions and labels, a row an item in the order of pages."""

    names: list[str]  # of entrants
    slices: tuple[str, ...]
    predictions: F32  # [entrants, N], at page time
    labels: F32  # [N]
    members: Bools  # [N, slices]
    rows: JudgedRows
    positions: I64  # [N], in the page
    users: int
    seconds: list[float]  # per entrant, spent in predicting and learning
    arrivals: list[float]  # AUC on arrival, per entrant
    pages: int
    learned: int
    unlabelled: int  # items without a label at the end
    rejected: int  # events
    seconds_shared: float  # features and join, for all
    ranks: Mapping[str, Ranks]  # of installed items, by list; none unless next installs are judged

    def figures(self, entrant: int) -> dict[str, Figures]:
        """One entrant's, of all examples and of each slice: the learner's own measures, but the AUC is exact."""
        progress = ProgressiveValidation(self.slices)
        progress.record(self.predictions[entrant], self.labels, self.members)
        rows = {ALL: np.ones(len(self.labels), np.bool_), **dict(zip(self.slices, self.members.T, strict=True))}
        return {
            name: replace(progress.lifetime(name), auc=exact_auc(self.predictions[entrant, of], self.labels[of]))
            for name, of in rows.items()
        }

    def auc(self, entrant: int, first: int = 0, last: int | None = None) -> float:
        """AUC of one entrant over rows first:last."""
        return exact_auc(self.predictions[entrant, first:last], self.labels[first:last])


def exact_auc(predictions: F32, labels: F32) -> float:
    """Area under the ROC curve of predictions [N]; equal ones count half.

    >>> exact_auc(np.array([0.1, 0.4, 0.4], np.float32), np.array([0, 0, 1], np.float32))
    0.75
    """
    distinct, ranks = np.unique(predictions, return_inverse=True)
    return auc_of(auc_counts(ranks, labels, len(distinct)))


def auc_counts(ranks: I64, labels: F32, size: int) -> F64:
    """Negatives and positives at each rank, float64 [2, size]."""
    return np.stack([np.bincount(ranks, weights, size) for weights in (1.0 - labels, labels)])


@dataclass
class Backtest:
    """The loop. `pack`: events of which the examples make one record, as a joiner's input record would.

    With `next_installs` the source has questions, too, which entrants and session peers answer.
    """

    spec: Spec
    entrants: list[Entrant]
    log: ExampleLog
    pack: int = 1
    candidates: Candidates | None = None  # of pages; None: entrants get those that were shown
    next_installs: NextInstalls | None = None
    rejected: int = 0
    report: Callable[[str], None] = lambda line: None
    on_progress: Callable[["Backtest"], None] = lambda backtest: None
    _predicted: list[list[F32]] = field(default_factory=list)
    _labels: list[float] = field(default_factory=list)  # NaN: not emitted yet
    _members: list[Bools] = field(default_factory=list)
    _shown: list[tuple[int, int, int]] = field(default_factory=list)  # each page's user, event time, items
    _users: dict[str, int] = field(default_factory=dict)
    _rows: dict[str, int] = field(default_factory=dict)  # request id → row of its first item
    _items: int = 0  # of these pages
    _prepared: list[PreparedEvent] = field(default_factory=list)
    _record: list[Examples | Erase] = field(default_factory=list)
    _steps: list[Step] = field(default_factory=list)
    _events: int = 0
    _last_ms: int = 0

    def __post_init__(self) -> None:
        self.maker = FeatureBuilder(self.spec, 1, self.candidates)
        self._rules = label_rules(self.spec)
        self._slices = Slices(self.spec, self.maker.layout)
        self._predicted = [[] for _ in self.entrants]
        self.seconds = [0.0 for _ in self.entrants]
        self.learned = 0
        self.pages = 0  # that were predicted

    def run(self, source: Iterable[SourceElement], limit: int | None = None) -> Scores:
        """Play the source, or its first `limit` pages, until all windows are closed. Raises DataError: no page."""
        rules = self._rules
        if limit is not None:
            source = first_pages(source, limit, rules.window_ms)
        begun = time.perf_counter()
        for event in self.next_installs.with_questions(source) if self.next_installs else source:
            if isinstance(event, InvalidEvent):
                self._reject(event.location, event.reason)
            elif isinstance(event, Question):
                self._ask(event)
            elif isinstance(event, RetiredItem):
                self.maker.retire(event.item)
                if self.next_installs:
                    self.next_installs.retire(event.item)
            elif not isinstance(event, Pause):
                self._prepare(event)
        self._play()
        self._prepare(Tick(self._last_ms + rules.window_ms + rules.lateness_ms + 1))
        self._play()
        self._emit()
        self._play_steps()
        self.on_progress(self)
        of_peers = self.next_installs.seconds if self.next_installs else 0.0
        return self._scores(time.perf_counter() - begun - sum(self.seconds) - of_peers)

    def _ask(self, question: Question) -> None:
        """Let the session peers answer now, and add the candidates to what the entrants will predict."""
        page = self.next_installs.ask(question) if self.next_installs else None
        if page:
            self._prepared.append(self.maker.prepare_candidates(page))

    def _prepare(self, event: WorldEvent) -> None:
        """Add an event to those that are joined in one go; whether a page is valid doesn't depend on the join."""
        if isinstance(event, Impression) and event.request_id in self._rows:
            self._reject(event.request_id, "a page with this request_id was played before; give each page its own")
            event = Tick(event.time_ms)
        try:
            self._prepared.append(self.maker.prepare(event))
        except BadEvent as bad:
            self._reject(event.request_id if isinstance(event, Impression) else type(event).__name__, str(bad))
            return
        if self.next_installs:
            self.next_installs.see(event)
        if isinstance(event, Impression):
            self._rows[event.request_id], self._items = self._items, self._items + len(event.items)
        if len(self._prepared) >= (JOINED_EVENTS if self.candidates is None else JOINED_WITH_CANDIDATES):
            self._play()

    def _play(self) -> None:
        """Join the prepared events, and play them one by one."""
        prepared, self._prepared = self._prepared, []
        for event, emitted, _, candidates in self.maker.join(prepared):
            if isinstance(event, Impression) and event.request_id == CANDIDATE_PAGE:
                words: U64 = np.frombuffer(event.features, np.uint64)
                self._steps.append(AskedPage(as_served(self.maker.layout, words)))
                continue
            if isinstance(event, Impression):
                self._show(event, candidates)
            self._last_ms = max(self._last_ms, getattr(event, "time_ms", 0))
            for examples in emitted:
                self._add_labels(examples, examples.page is event)
            self._record += emitted
            if isinstance(event, Erase):
                self._record.append(event)
            self._events += 1
            if self._events % self.pack == 0:
                self._emit()
        self._play_steps()

    def _add_labels(self, examples: Examples, just_shown: bool) -> None:
        """First labels, which are emitted when the window closes at the latest, and corrections until then."""
        row, page = self._rows[examples.page.request_id], examples.page
        is_open = page.time_ms + self._rules.window_ms > self._last_ms - self._rules.lateness_ms
        for position, label, reason in zip(examples.positions, examples.labels, examples.reasons, strict=True):
            if reason in (WINDOW_CLOSED, INSTALLED) or is_open or just_shown:
                self._labels[row + position] = label

    def _show(self, page: Impression, candidates: CandidatePage | None) -> None:
        words: U64 = np.frombuffer(page.features, np.uint64)
        self.pages += 1
        self._labels += [np.nan] * len(page.items)
        self._shown.append((self._users.setdefault(page.user, len(self._users)), page.time_ms, len(page.items)))
        if self._slices.names:
            self._members.append(self._slices.members(one_page(words)))
        self._steps.append(ShownPage(words, self._rows[page.request_id], page, candidates))
        if self.pages % PROGRESS_PAGES == 0:
            self.on_progress(self)

    def _emit(self) -> None:
        """The collected examples become one record."""
        record, self._record = self._record, []
        if record:
            self.log.append()
            emitted = [event for event in record if isinstance(event, Examples)]
            rows = [self._rows[examples.page.request_id] for examples in emitted]
            erased = [event for event in record if isinstance(event, Erase)]
            self._steps.append(EmittedRecord(emitted, rows, self.log.newest, erased))
            self.learned += sum(len(examples.labels) for examples in emitted)

    def _play_steps(self) -> None:
        """All entrants predict and learn what is collected."""
        steps, self._steps = self._steps, []
        for i, entrant in enumerate(self.entrants):
            begun = time.perf_counter()
            predictions = entrant.play(steps)
            self.seconds[i] += time.perf_counter() - begun
            pages = [step for step in steps if not isinstance(step, EmittedRecord)]
            for page, predicted in zip(pages, predictions, strict=True):
                if isinstance(page, ShownPage):
                    self._predicted[i].append(predicted)
                elif self.next_installs:
                    self.next_installs.answer(i, predicted)

    def _reject(self, where: str, reason: str) -> None:
        self.rejected += 1
        if self.rejected <= REPORTED_MAX:
            self.report(f"{where} left out: {reason}")

    def _scores(self, seconds_shared: float) -> Scores:
        if not self.pages:
            raise DataError("no page of the source is valid: `thalweg check` says what is wrong with the events")
        labels = np.array(self._labels, np.float32)
        is_labelled = ~np.isnan(labels)
        users, times_ms, sizes = np.array(self._shown, np.int64).T
        pages = np.repeat(np.arange(self.pages), sizes)
        positions = np.arange(len(pages)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        members = np.concatenate(self._members) if self._slices.names else np.zeros((len(labels), 0), np.bool_)
        predictions = np.array([np.concatenate(one) for one in self._predicted], np.float32)[:, is_labelled]
        rows = JudgedRows(labels, users[pages], pages, sessions(users, times_ms)[pages]).take(is_labelled)
        judged = predictions, positions[is_labelled], rows, is_labelled
        return Scores(
            [entrant.name for entrant in self.entrants],
            self._slices.names,
            predictions,
            labels[is_labelled],
            members[is_labelled],
            rows,
            positions[is_labelled],
            len(self._users),
            self.seconds,
            [entrant.auc_arrival() for entrant in self.entrants],
            self.pages,
            self.learned,
            int((~is_labelled).sum()),
            self.rejected,
            seconds_shared,
            self.next_installs.ranks(*judged) if self.next_installs else {},
        )
