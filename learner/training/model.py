"""The Wide & Deep model: P(Y=1|x) = σ(wide + deep), one logistic loss, both parts jointly (Cheng et al. 2016).

A record of `examples` is learned in log order: cut into micro-batches at fixed indices, deduplicated, then each
micro-batch is predicted, recorded and learned. Its organic installs, deduplicated too, only update the statistics of
organic installs. Everything else that changes the model happens at an example index. No clock, no I/O, no randomness
but the seed: the same records give the same bits.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from river.drift import ADWIN

from learner.deep.deep_model import FIRST_FREEZE, DeepModel
from learner.deep.joint_step import Inputs, Targets, learn_micro_batches, learn_wide
from learner.deep.warm_start import WindowChunk, warm_start
from learner.training.dedup import NO_SOURCE, RecentIds
from learner.training.example_batch import ExampleBatch, RejectedExamples, batch_of, chunked, match_window
from learner.training.progressive_validation import ProgressiveValidation
from learner.training.shown_items import ShownItems
from learner.training.slices import Slices
from learner.wide.ftrl import Ftrl
from stream.events.codec import organic_id
from stream.events.types import Examples, Organic, TrainingEvent
from stream.features.encoder import Encoder, one_page
from stream.features.item_similarity import Outcomes
from stream.features.page_features import Layout
from stream.features.statistics import Statistics, StatisticsProgram
from stream.runtime.errors import LogError
from stream.snapshots.manifest import INGESTS_MAX
from stream.spec.spec import Spec
from stream.tables.dtypes import F32, I64, U64

ADWIN_DELTA = 0.002
LOSSES_MAX = 100_000  # records; then ADWIN is reset, so that checkpoints stay small
EARLY_SHARE = 10  # an early warm start waits at least a tenth of the usual interval after the last one
RECENT_PAGES = 4
WARM_CHUNK = 512  # examples that a warm start encodes at once
Reread = Callable[[int], Iterator[Sequence[Examples]]]  # records of `examples` from an offset on


@dataclass
class Model:
    """Everything that is learned. The caller takes what `rejected` and `installs` collect."""

    spec: Spec
    seed: int = 0
    reread: Reread | None = None  # without it there are no warm starts
    examples: int = 0  # learned
    duplicates: int = 0
    organic: int = 0  # installs without a page that were learned
    watermark_ms: int = 0  # greatest event time of a learned page
    learned_ms: int = 0  # ingest time of the newest label
    warm_starts: int = 0
    warm_start_at: int = 0  # example index of the last warm start
    rejected: list[RejectedExamples] = field(default_factory=list)
    installs: list[tuple[int, int]] = field(
        default_factory=list
    )  # (id, ingest ms) first learned since the last publish; sampled by the smallest ids, which are hashes

    def __post_init__(self) -> None:
        spec = self.spec
        self.layout = Layout(spec)
        self.encoder = Encoder(spec, self.layout)
        self.statistics = Statistics(StatisticsProgram(spec, self.layout))
        self.wide = Ftrl.of(spec, self.encoder.alphas)
        lists, numbers = len(self.encoder.deep_lists), len(self.encoder.deep_numbers)
        self.deep = DeepModel(spec.deep, lists, numbers, self.seed) if "deep" in spec.parts else None
        self.slices = Slices(spec, self.layout)
        self.progress = ProgressiveValidation(self.slices.names)
        self.learned_ids = RecentIds()
        self.shown = ShownItems()
        window = spec.deep.warm_start.window if self.deep else 0
        self.window_ids: U64 = np.zeros(window, np.uint64)  # ring by example index
        self.window_wide: F32 = np.zeros(window, np.float32)  # wide logits of the same examples
        self.records: deque[tuple[int, int]] = deque()  # (offset, example index at its start) of the window
        self._reset_drift()
        self.recent_pages: deque[bytes] = deque(maxlen=RECENT_PAGES)  # features of pages just learned

    @property
    def learned(self) -> int:
        """Examples and organic installs learned: while it stays the same, so does the content of a version."""
        return self.examples + self.organic

    def predict(self, words: U64) -> F32:
        """P(Y=1) of each item of a page, float32 [n]."""
        batch = one_page(words)
        keys = self.encoder.wide_keys(batch)
        weights = self.wide.weights(self.wide.table.rows_of(keys.keys))
        logits = np.add.reduceat(weights, keys.offsets[:-1])  # every example has a key: the bias
        if self.deep:
            logits = logits + self.deep.score(self.encoder.deep_input(batch))
        predictions: F32 = (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
        return predictions

    def learn(self, record: Sequence[TrainingEvent], offset: int, source: int = NO_SOURCE) -> int:
        """Learn one record of `examples`. `source`: the partition of `events` that it came from.

        Returns how many of its examples were new.
        """
        new = self._learn_examples([event for event in record if isinstance(event, Examples)], offset, source)
        self._learn_organic([event for event in record if isinstance(event, Organic)], source)
        return new

    def _learn_organic(self, installs: Sequence[Organic], source: int) -> None:
        """Update the statistics of organic installs; without such statistics not even the ids are remembered."""
        if not installs or not len(self.statistics.program.organic):
            return
        ids = np.array([organic_id(one.user, one.install_id) for one in installs], np.uint64)
        new = [one for one, is_new in zip(installs, self.learned_ids.add(ids, source), strict=True) if is_new]
        self.duplicates += len(installs) - len(new)
        self.organic += len(new)
        self.statistics.learn_organic(new)

    def _learn_examples(self, record: Sequence[Examples], offset: int, source: int) -> int:
        """Learn the record's labelled pages. Returns how many examples were new."""
        batch, rejected = batch_of(record, self.layout, self.spec.deep.micro_batch)
        self.rejected += rejected
        rejected_ids = {id(examples) for examples, _ in rejected}
        for examples in record:
            if id(examples) not in rejected_ids:
                self.shown.add(examples.page.items, examples.page.time_ms)
        new = self.learned_ids.add(batch.ids, source)
        if not new.all():
            self.duplicates += int(len(batch) - new.sum())
            batch = batch.take(new)
        if not len(batch):
            return 0
        self._note_record(offset)
        self._record_results(batch, self._learn_batch(batch, batch.micro_batch_bounds()))
        if len(self.installs) > 2 * INGESTS_MAX:
            self.installs = sorted(self.installs)[:INGESTS_MAX]
        return len(batch)

    def _learn_batch(self, batch: ExampleBatch, bounds: I64) -> F32:
        """Predict, then learn each micro-batch between neighbouring bounds; run whatever is due at an example index
        between them. Returns predictions."""
        keys, time_ms = self.encoder.wide_keys(batch.pages), int(batch.time_ms.max())
        fake_negative = self.spec.label.policy == "fake_negative"
        wide, predictions = np.empty((2, len(batch)), np.float32)
        state = self.wide.prepare(keys, time_ms)
        targets = Targets(batch.ids, batch.labels, batch.weights, batch.time_ms)
        if self.deep is None:
            learn_wide(state, keys.keys, keys.offsets, targets, fake_negative, predictions)
            self.examples += len(batch)
            return predictions
        encoded = self.encoder.deep_input(batch.pages)
        inputs = Inputs(keys.keys, keys.offsets, encoded.ids, encoded.offsets, encoded.numbers)
        start, begun = self.examples, 0
        for end in range(1, len(bounds)):
            due = self._due(start + int(bounds[end - 1]), start + int(bounds[end]))
            if not due and end + 1 < len(bounds):
                continue
            deep = self.deep.prepare(encoded.ids)
            learn_micro_batches(state, deep, inputs, targets, bounds[begun : end + 1], fake_negative, predictions, wide)
            self._add_to_window(batch.ids[bounds[begun] : bounds[end]], wide[bounds[begun] : bounds[end]])
            begun = end
            for action in due:
                action()
        if self.deep.vocabulary.over_high_water:  # however many new ids an example brings
            self._evict()
        return predictions

    def _add_to_window(self, ids: U64, wide: F32) -> None:
        """Count learned examples, and store their wide logits for warm starts."""
        indices = np.arange(self.examples, self.examples + len(ids)) % len(self.window_ids)
        self.window_ids[indices], self.window_wide[indices] = ids, wide
        self.examples += len(ids)

    def _due(self, before: int, after: int) -> list[Callable[[], None]]:
        """What is due after a micro-batch: freezing quantiles (until the first warm start), eviction, a warm start."""
        assert self.deep is not None
        due: list[Callable[[], None]] = []
        if not self.warm_starts and before.bit_length() != after.bit_length() and after >= FIRST_FREEZE:
            due.append(self.deep.freeze_quantiles)
        for every, action in (
            (self.deep.vocabulary.evict_every(), self._evict),
            (self.spec.deep.warm_start.every, self._warm_start),
        ):
            if before // every != after // every:
                due.append(action)
        return due

    def _evict(self) -> None:
        assert self.deep is not None
        self.deep.vocabulary.evict(self.watermark_ms)

    def _record_results(self, batch: ExampleBatch, predictions: F32) -> None:
        """Update metrics, statistics and times after a learned record; warm-start early on drift."""
        first_label, installed = batch.first_labels(), batch.installs()
        members = self.slices.members(batch.pages)
        if self.spec.label.policy == "fake_negative":  # all first labels are negative there
            losses = self.progress.record(predictions, batch.labels, members, ~first_label)
        elif first_label.all():
            losses = self.progress.record(predictions, batch.labels, members)
        else:
            losses = self.progress.record(predictions[first_label], batch.labels[first_label], members[first_label])
        labels, weights = batch.labels.astype(np.float64), batch.weights.astype(np.float64)
        self.statistics.learn(batch.pages, Outcomes(labels, weights, batch.reasons, batch.time_ms))
        self.installs += [(int(batch.ids[b]), int(batch.ingest_ms[b])) for b in installed]
        self.watermark_ms = max(self.watermark_ms, int(batch.time_ms.max()))
        self.learned_ms = max(self.learned_ms, int(batch.ingest_ms.max()))
        ends = [*batch.pages.starts[: RECENT_PAGES + 1].tolist(), len(batch.pages.words)]
        self.recent_pages.extend(batch.pages.words[a:b].tobytes() for a, b in pairwise(ends[: RECENT_PAGES + 1]))
        if self.deep and len(losses) and np.isfinite(losses).all() and self._drifted(float(losses.mean())):
            self._warm_start()

    def _drifted(self, loss: float) -> bool:
        """Whether ADWIN finds that records' mean log loss has risen, and the last warm start is long enough ago."""
        if len(self.losses) == LOSSES_MAX:
            self._reset_drift()
        before = self.drift.estimation
        self.losses.append(loss)
        self.drift.update(loss)
        risen = bool(self.drift.drift_detected) and self.drift.estimation > before
        return risen and self.examples - self.warm_start_at >= self.spec.deep.warm_start.every // EARLY_SHARE

    def _warm_start(self) -> None:
        """Train the deep part on the last `window` examples, from its own embeddings and layers; effective at once.

        Features are read again from the log; wide logits are those recorded when each example was predicted.
        """
        assert self.deep is not None
        if self.reread is None:
            return
        assert self.records, "the record that is being learned was noted"
        self.warm_starts += 1
        self.warm_start_at = self.examples
        warm_start(self.deep, self._window(self.reread(self.records[0][0])))
        self._reset_drift()

    def _reset_drift(self) -> None:
        self.losses: list[float] = []  # ADWIN's input since the last warm start: replayed into it after a restart
        self.drift: Any = ADWIN(delta=ADWIN_DELTA)  # type: ignore[no-untyped-call]  # River's class has no types

    def _window(self, records: Iterator[Sequence[Examples]]) -> Iterator[WindowChunk]:
        """The window's examples as they were learned, a chunk at a time."""
        window = len(self.window_ids)
        index = max(self.records[0][1], self.examples - window)
        for pages in chunked(records, WARM_CHUNK):
            batch, _ = batch_of(pages, self.layout, self.spec.deep.micro_batch)
            keep, index = match_window(batch.ids, self.window_ids, index, self.examples)
            if keep.any():
                batch = batch.take(keep)
                wide = self.window_wide[np.arange(index - len(batch), index) % window]
                yield WindowChunk(self.encoder.deep_input(batch.pages), wide, batch.labels, batch.weights)
            if index == self.examples:
                break
        if index != self.examples:
            raise LogError(
                f"{self.examples - index} of the last {window} examples are missing from the log, though their records "
                "are there: the topic was recreated; give the spec a new name, to learn it from the log's beginning"
            )

    def finite(self) -> bool:
        """Whether every parameter of the deep part and every prediction so far is finite."""
        return (self.deep is None or self.deep.finite()) and bool(np.isfinite(self.progress.state.sums).all())

    def drop_records_before(self, offset: int) -> None:
        """The log has lost what precedes `offset`: warm starts no longer read it."""
        while self.records and self.records[0][0] < offset:
            self.records.popleft()

    def _note_record(self, offset: int) -> None:
        """Note where this record's examples begin; drop records older than the window."""
        self.records.append((offset, self.examples))
        while len(self.records) > 1 and self.records[1][1] <= self.examples - len(self.window_ids):
            self.records.popleft()
