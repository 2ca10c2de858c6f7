"""The Wide & Deep model: P(Y=1|x) = σ(wide + deep), one logistic loss, both parts jointly (Cheng et al. 2016).

`learn_record` is the learner's step: a record's examples are deduplicated; then each micro-batch, cut at fixed indices,
is predicted and learned; then its figures are recorded and the statistics moved. Everything else that changes the model
happens at an example index. No clock, no I/O, no randomness but the seed: the same records give the same bits.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from learner.deep.deep_model import FIRST_FREEZE, DeepModel
from learner.deep.joint_step import learn_micro_batches, learn_wide
from learner.deep.warm_start import warm_start
from learner.training.dedup import NO_SOURCE, RecentIds
from learner.training.drift import DriftDetector
from learner.training.encoded_batch import BatchEncoder, EncodedBatch
from learner.training.progressive_validation import ProgressiveValidation
from learner.training.shown_items import ShownItems
from learner.training.training_records import RecordEncoder, TrainingRecord
from learner.training.warm_start_window import Reread, WarmStartWindow
from learner.wide.ftrl import Ftrl
from stream.events.codec import organic_id
from stream.events.topics import EXAMPLES
from stream.events.types import BadPart, Organic, TrainingEvent
from stream.features.encoder import Encoder, one_page
from stream.features.page_features import Layout
from stream.features.statistics import Statistics, StatisticsProgram
from stream.log.protocol import Record
from stream.snapshots.manifest import INGESTS_MAX
from stream.spec.spec import Spec
from stream.tables.dtypes import F32, F64, U64

EARLY_SHARE = 10  # an early warm start waits at least a tenth of the usual interval after the last one
RECENT_PAGES = 4


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
    rejected: list[BadPart] = field(default_factory=list)
    installs: list[tuple[int, int]] = field(
        default_factory=list
    )  # (id, ingest ms) first learned since the last publish; sampled by the smallest ids, which are hashes

    def __post_init__(self) -> None:
        spec = self.spec
        self.layout = Layout(spec)
        self.encoder = Encoder(spec, self.layout)
        self.statistics = Statistics(StatisticsProgram(spec, self.layout))
        self.batch_encoder = BatchEncoder(spec, self.layout, self.encoder, self.statistics.program)
        self.record_encoder = RecordEncoder(spec, self.layout, self.batch_encoder)
        self.wide = Ftrl.of(spec, self.encoder.alphas)
        lists, numbers = len(self.encoder.deep_lists), len(self.encoder.deep_numbers)
        self.deep = DeepModel(spec.deep, lists, numbers, self.seed) if "deep" in spec.parts else None
        self.progress = ProgressiveValidation(self.batch_encoder.slices.names)
        self.learned_ids = RecentIds()
        self.shown = ShownItems()
        self.window = WarmStartWindow(spec.deep.warm_start.window if self.deep else 0)
        self.drift = DriftDetector()
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

    def learn(self, events: Sequence[TrainingEvent], offset: int, source: int = NO_SOURCE) -> int:
        """Learn one record of `examples` from its events. `source`: the partition of `events` that it came from.

        Returns how many of its examples were new.
        """
        origin = Record(EXAMPLES.name, 0, offset, 0, None, None)
        return self.learn_record(self.record_encoder.of_events(events, origin, source))

    def learn_record(self, record: TrainingRecord) -> int:
        """Learn one record of `examples`. Returns how many of its examples were new."""
        self.rejected += record.rejected
        self.shown.add_pages(record.shown)
        batch = self._new_examples(record.batch, record.source)
        if len(batch):
            self.window.begin_record(record.origin.offset, self.examples)
            predictions = self._learn_parts(batch)
            losses = self._record_figures(batch, predictions)
            self.statistics.learn(batch.pages, batch.outcomes, batch.statistics)
            self._note(batch, record)
            if self.deep and len(losses) and math.isfinite(loss := float(losses.mean())) and self._drifted(loss):
                self._warm_start()
        self._learn_organic(record.organic, record.source)
        return len(batch)

    def _new_examples(self, batch: EncodedBatch, source: int) -> EncodedBatch:
        """The batch without examples that were learned before."""
        new = self.learned_ids.add(batch.targets.ids, source)
        if new.all():
            return batch
        self.duplicates += int(len(batch) - new.sum())
        return self.batch_encoder.encode(batch.take(new))

    def _learn_parts(self, batch: EncodedBatch) -> F32:
        """Predict, then learn each micro-batch; run whatever is due at an example index between them.

        Returns predictions, float32 [B].
        """
        inputs, targets, bounds = batch.inputs, batch.targets, batch.bounds
        fake_negative = self.spec.label.policy == "fake_negative"
        wide, predictions = np.empty((2, len(batch)), np.float32)
        state = self.wide.prepare(inputs.keys[inputs.key_offsets[0] : inputs.key_offsets[-1]], batch.newest_ms)
        if self.deep is None:
            learn_wide(state, inputs.keys, inputs.key_offsets, targets, fake_negative, predictions)
            self.examples += len(batch)
            return predictions
        start, begun, last = self.examples, 0, len(bounds) - 1
        is_due = bool(self._due(start, start + len(batch)))  # else there is one piece, however many micro-batches
        for end in range(1, last + 1) if is_due else (last,):
            due = self._due(start + int(bounds[end - 1]), start + int(bounds[end])) if is_due else ()
            if not due and end < last:
                continue
            deep = self.deep.prepare(inputs.ids[inputs.id_offsets[0] : inputs.id_offsets[-1]])
            learn_micro_batches(state, deep, inputs, targets, bounds[begun : end + 1], fake_negative, predictions, wide)
            piece = slice(bounds[begun], bounds[end])
            self.window.add(self.examples, targets.ids[piece], wide[piece])
            self.examples += int(bounds[end] - bounds[begun])
            begun = end
            for action in due:
                action()
        if self.deep.vocabulary.over_high_water:  # however many new ids an example brings
            self._evict()
        return predictions

    def _due(self, before: int, after: int) -> list[Callable[[], None]]:
        """What is due between two example indices: freezing quantiles (until the first warm start), eviction, a warm
        start."""
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

    def _record_figures(self, batch: EncodedBatch, predictions: F32) -> F64:
        """Record first labels, of `fake_negative` corrections too. Returns what they add to the sum of log losses."""
        labels, members, later = batch.targets.labels, batch.members, batch.later
        if later is None or self.spec.label.policy == "fake_negative":  # all first labels are negative there
            return self.progress.record(predictions, labels, members, later)
        return self.progress.record(predictions[~later], labels[~later], members[~later])

    def _note(self, batch: EncodedBatch, record: TrainingRecord) -> None:
        """Note what a version says of the examples it learned."""
        if batch.installs:
            self.installs += batch.installs
            if len(self.installs) > 2 * INGESTS_MAX:
                self.installs = sorted(self.installs)[:INGESTS_MAX]
        self.watermark_ms = max(self.watermark_ms, batch.newest_ms)
        self.learned_ms = max(self.learned_ms, batch.ingest_ms)
        ends = record.page_ends[: RECENT_PAGES + 1].tolist()
        self.recent_pages.extend(batch.pages.words[a:b].tobytes() for a, b in pairwise(ends))

    def _learn_organic(self, installs: Sequence[Organic], source: int) -> None:
        """Update the statistics of organic installs; without such statistics not even the ids are remembered."""
        if not installs or not len(self.statistics.program.organic):
            return
        ids = np.array([organic_id(one.user, one.install_id) for one in installs], np.uint64)
        new = [one for one, is_new in zip(installs, self.learned_ids.add(ids, source), strict=True) if is_new]
        self.duplicates += len(installs) - len(new)
        self.organic += len(new)
        self.statistics.learn_organic(new)

    def _drifted(self, loss: float) -> bool:
        """Whether records' mean log loss has risen, and the last warm start is long enough ago."""
        risen = self.drift.add(loss)
        return risen and self.examples - self.warm_start_at >= self.spec.deep.warm_start.every // EARLY_SHARE

    def _warm_start(self) -> None:
        """Train the deep part on the last examples, from its own embeddings and layers; effective at once."""
        assert self.deep is not None
        if self.reread is None:
            return
        self.warm_starts += 1
        self.warm_start_at = self.examples
        warm_start(self.deep, self.window.chunks(self.reread, self.examples, self.record_encoder))
        self.drift.reset()

    def finite(self) -> bool:
        """Whether every parameter of the deep part and every prediction so far is finite."""
        return (self.deep is None or self.deep.finite()) and bool(np.isfinite(self.progress.state.sums).all())
