"""The Wide & Deep model: P(Y=1|x) = σ(wide + deep), one logistic loss, both parts at once (Cheng et al. 2016).

A record of `examples` is learned in log order: cut into micro-batches at fixed places, duplicates
dropped, then for each micro-batch predict, record, learn. Organic installs of the record, each once, move the
statistics that are of them, and nothing else. Whatever else changes the model happens at an
example's index. No clock, no I/O, no randomness but the seed: the same records give the same bits.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from river.drift import ADWIN

from learner.deep.deep import FIRST_FREEZE, Deep
from learner.deep.joint_step import Given, Told, learn_record, learn_wide
from learner.deep.warm_start import Window, warm_start
from learner.training.dedup import NO_SOURCE, Seen
from learner.training.example_batch import Flat, flatten, gathered, known_again
from learner.training.progressive_validation import Progress
from learner.training.shown_items import ShownItems
from learner.training.slices import Slices
from learner.wide.ftrl import Ftrl
from stream.events.codec import organic_id
from stream.events.types import Examples, Organic, TrainingEvent
from stream.features.encoder import I64, Encoder, one_page
from stream.features.page_features import F32, Layout
from stream.features.statistics import Statistics, StatisticsProgram
from stream.runtime.errors import LogError
from stream.snapshots.manifest import INGESTS_MAX
from stream.spec.spec import Spec
from stream.tables.hash_table import U64

ADWIN_DELTA = 0.002
LOSSES_MAX = 100_000  # records; then ADWIN starts anew, so that checkpoints stay small
EARLY_SHARE = 10  # an early warm start comes no sooner than a tenth of the usual distance after the last
RECENT_PAGES = 4
WARM_CHUNK = 512  # examples that a warm start encodes at once
Reread = Callable[[int], Iterator[Sequence[Examples]]]  # records of `examples` from an offset on


@dataclass
class Model:
    """Everything that is learned. `bad` collects what couldn't be: (examples, reason), for the caller to take."""

    spec: Spec
    seed: int = 0
    reread: Reread | None = None  # without it there are no warm starts
    examples: int = 0  # learned
    duplicates: int = 0
    organic: int = 0  # installs without a page that were learned
    watermark_ms: int = 0  # greatest event time of a learned page
    learned_ms: int = 0  # ingest time of the newest label
    warm_starts: int = 0
    warm_at: int = 0  # example index of the last warm start
    bad: list[tuple[Examples, str]] = field(default_factory=list)
    installs: list[tuple[int, int]] = field(
        default_factory=list
    )  # (id, ingest ms) first learned since the last publish; of many those of the least ids, which are hashes

    def __post_init__(self) -> None:
        spec = self.spec
        self.layout = Layout(spec)
        self.encoder = Encoder(spec, self.layout)
        self.statistics = Statistics(StatisticsProgram(spec, self.layout))
        self.wide = Ftrl.of(spec, self.encoder.alphas)
        lists, numbers = len(self.encoder.deep_lists), len(self.encoder.deep_numbers)
        self.deep = Deep(spec.deep, lists, numbers, self.seed) if "deep" in spec.parts else None
        self.slices = Slices(spec, self.layout)
        self.progress = Progress(self.slices.names)
        self.seen = Seen()
        self.shown = ShownItems()
        window = spec.deep.warm_start.window if self.deep else 0
        self.recent_ids: U64 = np.zeros(window, np.uint64)  # ring by example index
        self.recent_wide: F32 = np.zeros(window, np.float32)
        self.records: deque[tuple[int, int]] = deque()  # (offset, example index at its start) of the window
        self._forget_losses()
        self.recent_pages: deque[bytes] = deque(maxlen=RECENT_PAGES)  # features of pages just learned

    @property
    def learned(self) -> int:
        """Examples and organic installs learned: while it stays, so does all that a version holds."""
        return self.examples + self.organic

    def predict(self, words: U64) -> F32:
        """P(Y=1) of each item of a page, float32 [n], by the model as it is now."""
        batch = one_page(words)
        keys = self.encoder.wide_keys(batch)
        weights = self.wide.weights(self.wide.table.rows_of(keys.keys))
        logits = np.add.reduceat(weights, keys.offsets[:-1])  # every example has a key: the bias
        if self.deep:
            logits = logits + self.deep.score(self.encoder.deep_input(batch))
        predictions: F32 = (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
        return predictions

    def learn(self, record: Sequence[TrainingEvent], offset: int, source: int = NO_SOURCE) -> int:
        """Learn one record of `examples`. `source`: the partition of `events` that it came of.

        Returns how many examples of it were new.
        """
        new = self._learn_examples([event for event in record if isinstance(event, Examples)], offset, source)
        self._learn_organic([event for event in record if isinstance(event, Organic)], source)
        return new

    def _learn_organic(self, installs: Sequence[Organic], source: int) -> None:
        """Move the statistics of organic installs. Without such statistics they aren't even remembered."""
        if not installs or not len(self.statistics.program.organic):
            return
        ids = np.array([organic_id(one.user, one.install_id) for one in installs], np.uint64)
        new = [one for one, is_new in zip(installs, self.seen.new(ids, source), strict=True) if is_new]
        self.duplicates += len(installs) - len(new)
        self.organic += len(new)
        self.statistics.learn_organic(new)

    def _learn_examples(self, record: Sequence[Examples], offset: int, source: int) -> int:
        """The record's labelled pages. Returns how many examples were new."""
        flat, bad = flatten(record, self.layout, self.spec.deep.micro_batch)
        self.bad += bad
        refused = {id(examples) for examples, _ in bad}
        for examples in record:
            if id(examples) not in refused:
                self.shown.show(examples.page.items, examples.page.time_ms)
        new = self.seen.new(flat.ids, source)
        if not new.all():
            self.duplicates += int(len(flat) - new.sum())
            flat = flat.take(new)
        if not len(flat):
            return 0
        self._remember(offset)
        self._note(flat, self._learn(flat, flat.cuts()))
        if len(self.installs) > 2 * INGESTS_MAX:
            self.installs = sorted(self.installs)[:INGESTS_MAX]
        return len(flat)

    def _learn(self, flat: Flat, cuts: I64) -> F32:
        """Micro-batches between neighbouring cuts: predict, then learn; between them whatever is due at an example's
        index. Returns predictions."""
        keys, time_ms = self.encoder.wide_keys(flat.batch), int(flat.time_ms.max())
        fake_negative = self.spec.label.policy == "fake_negative"
        wide, predictions = np.empty((2, len(flat)), np.float32)
        state = self.wide.prepare(keys, time_ms)
        told = Told(flat.ids, flat.labels, flat.weights, flat.time_ms)
        if self.deep is None:
            learn_wide(state, keys.keys, keys.offsets, told, fake_negative, predictions)
            self.examples += len(flat)
            return predictions
        known = self.encoder.deep_input(flat.batch)
        given = Given(keys.keys, keys.offsets, known.ids, known.offsets, known.numbers)
        start, begun = self.examples, 0
        for end in range(1, len(cuts)):
            due = self._due(start + int(cuts[end - 1]), start + int(cuts[end]))
            if not due and end + 1 < len(cuts):
                continue
            deep = self.deep.prepare(known.ids)
            learn_record(state, deep, given, told, cuts[begun : end + 1], fake_negative, predictions, wide)
            self._keep_recent(flat.ids[cuts[begun] : cuts[end]], wide[cuts[begun] : cuts[end]])
            begun = end
            for happen in due:
                happen()
        if self.deep.vocabulary.crowded:  # however many new ids an example brings
            self._forget()
        return predictions

    def _keep_recent(self, ids: U64, wide: F32) -> None:
        """Examples were learned: the ring remembers their wide logits for warm starts."""
        places = np.arange(self.examples, self.examples + len(ids)) % len(self.recent_ids)
        self.recent_ids[places], self.recent_wide[places] = ids, wide
        self.examples += len(ids)

    def _due(self, before: int, after: int) -> list[Callable[[], None]]:
        """What is due after a micro-batch: new quantiles, until the first warm start; forgetting; a warm start."""
        assert self.deep is not None
        due: list[Callable[[], None]] = []
        if not self.warm_starts and before.bit_length() != after.bit_length() and after >= FIRST_FREEZE:
            due.append(self.deep.freeze_quantiles)
        every = self.deep.vocabulary.sweep_every()
        if before // every != after // every:
            due.append(self._forget)
        every = self.spec.deep.warm_start.every
        if before // every != after // every:
            due.append(self._warm_start)
        return due

    def _forget(self) -> None:
        assert self.deep is not None
        self.deep.vocabulary.sweep(self.watermark_ms)

    def _note(self, flat: Flat, predictions: F32) -> None:
        """What a record leaves besides weights: figures, statistics, marks, and perhaps an early warm start."""
        first_label, installed = flat.first_labels(), flat.installs()
        members = self.slices.members(flat.batch)
        if self.spec.label.policy == "fake_negative":  # all first labels are negative there
            losses = self.progress.record(predictions, flat.labels, members, ~first_label)
        elif first_label.all():
            losses = self.progress.record(predictions, flat.labels, members)
        else:
            losses = self.progress.record(predictions[first_label], flat.labels[first_label], members[first_label])
        labels, weights = flat.labels.astype(np.float64), flat.weights.astype(np.float64)
        self.statistics.learn(flat.batch, labels, weights, flat.reasons, flat.time_ms)
        self.installs += [(int(flat.ids[b]), int(flat.ingest_ms[b])) for b in installed]
        self.watermark_ms = max(self.watermark_ms, int(flat.time_ms.max()))
        self.learned_ms = max(self.learned_ms, int(flat.ingest_ms.max()))
        ends = [*flat.batch.starts[: RECENT_PAGES + 1].tolist(), len(flat.batch.words)]
        self.recent_pages.extend(flat.batch.words[a:b].tobytes() for a, b in pairwise(ends[: RECENT_PAGES + 1]))
        if self.deep and len(losses) and np.isfinite(losses).all() and self._feed_drift(float(losses.mean())):
            self._warm_start()

    def _feed_drift(self, loss: float) -> bool:
        """Has the mean log loss of records risen, says ADWIN, and is the last warm start long enough ago?"""
        if len(self.losses) == LOSSES_MAX:
            self._forget_losses()
        before = self.drift.estimation
        self.losses.append(loss)
        self.drift.update(loss)
        risen = bool(self.drift.drift_detected) and self.drift.estimation > before
        return risen and self.examples - self.warm_at >= self.spec.deep.warm_start.every // EARLY_SHARE

    def _warm_start(self) -> None:
        """The deep part starts anew from its own embeddings and layers, on the last `window` examples.

        It takes over at once. Features are read again from the log; wide logits are those recorded when
        each was predicted.
        """
        assert self.deep is not None
        if self.reread is None:
            return
        assert self.records, "the record that is being learned was remembered"
        self.warm_starts += 1
        self.warm_at = self.examples
        warm_start(self.deep, self._window(self.reread(self.records[0][0])))
        self._forget_losses()

    def _forget_losses(self) -> None:
        self.losses: list[float] = []  # what ADWIN was fed since the last warm start, to feed it again after a restart
        self.drift: Any = ADWIN(delta=ADWIN_DELTA)  # type: ignore[no-untyped-call]  # River's class has no types

    def _window(self, records: Iterator[Sequence[Examples]]) -> Iterator[Window]:
        """The window's examples as they were learned, some at a time."""
        window = len(self.recent_ids)
        index = max(self.records[0][1], self.examples - window)
        for pages in gathered(records, WARM_CHUNK):
            flat, _ = flatten(pages, self.layout, self.spec.deep.micro_batch)
            keep, index = known_again(flat.ids, self.recent_ids, index, self.examples)
            if keep.any():
                flat = flat.take(keep)
                wide = self.recent_wide[np.arange(index - len(flat), index) % window]
                yield Window(self.encoder.deep_input(flat.batch), wide, flat.labels, flat.weights)
            if index == self.examples:
                break
        if index != self.examples:
            raise LogError(
                f"{self.examples - index} of the last {window} examples aren't in the log any more, though their "
                "records are: the topic was made anew; give the spec a new name, to learn it from the log's beginning"
            )

    def finite(self) -> bool:
        """Is every parameter of the deep part and every prediction so far a number?"""
        return (self.deep is None or self.deep.finite()) and bool(np.isfinite(self.progress.sums).all())

    def forget_before(self, offset: int) -> None:
        """The log has lost what lies before `offset`: warm starts do without it."""
        while self.records and self.records[0][0] < offset:
            self.records.popleft()

    def _remember(self, offset: int) -> None:
        """Note where this record's examples begin; forget records before the window."""
        self.records.append((offset, self.examples))
        while len(self.records) > 1 and self.records[1][1] <= self.examples - len(self.recent_ids):
            self.records.popleft()
