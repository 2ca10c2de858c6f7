"""The Wide & Deep model: P(Y=1|x) = σ(wide + deep), one logistic loss, both parts at once (Cheng et al. 2016).

A record of `examples` is learned in log order: cut into micro-batches at fixed places, duplicates
dropped, then for each micro-batch predict, record, learn. Whatever else changes the model happens at an
example's index. No clock, no I/O, no randomness but the seed: the same records give the same bits.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from river.drift import ADWIN

from learner.deep import FIRST_FREEZE, Deep
from learner.ftrl import Ftrl, FtrlRates
from learner.progress import Progress
from learner.seen import Seen
from learner.slices import Slices
from stream.encoder import I64, Batch, DeepInput, Encoder, WideKeys, one_page
from stream.errors import BadEvent, LogError
from stream.events import INSTALLED, LATE_POSITIVE, WINDOW_CLOSED, Examples
from stream.features import F32, Layout, words_of
from stream.spec import Spec
from stream.statistics import Statistics, StatisticsProgram
from stream.table import U64, find_many

ADWIN_DELTA = 0.002
LOSSES_MAX = 100_000  # records; then ADWIN starts anew, so that checkpoints stay small
EARLY_SHARE = 10  # an early warm start comes no sooner than a tenth of the usual distance after the last
RECENT_PAGES = 4
WARM_CHUNK = 512  # examples that a warm start encodes at once
Which = npt.NDArray[np.bool_] | I64 | slice
Reread = Callable[[int], Iterable[Sequence[Examples]]]  # records of `examples` from an offset on


@dataclass
class Flat:
    """The examples of a record in columns: a Batch, and arrays [B] of what else is known of each."""

    batch: Batch
    ids: U64
    labels: F32
    weights: F32
    reasons: I64
    ingest_ms: I64
    time_ms: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, which: Which) -> "Flat":
        """Only these examples (the pages stay)."""
        batch = Batch(self.batch.words, self.batch.starts, self.batch.page[which], self.batch.position[which])
        return Flat(
            batch,
            self.ids[which],
            self.labels[which],
            self.weights[which],
            self.reasons[which],
            self.ingest_ms[which],
            self.time_ms[which],
        )


def joined(flats: Sequence[Flat]) -> Flat:
    """Several records' examples as one."""
    words = np.cumsum([0, *(len(f.batch.words) for f in flats)])
    pages = np.cumsum([0, *(len(f.batch.starts) for f in flats)])
    batch = Batch(
        np.concatenate([f.batch.words for f in flats]),
        np.concatenate([f.batch.starts + w for f, w in zip(flats, words, strict=False)]),
        np.concatenate([f.batch.page + p for f, p in zip(flats, pages, strict=False)]),
        np.concatenate([f.batch.position for f in flats]),
    )
    columns = zip(*((f.ids, f.labels, f.weights, f.reasons, f.ingest_ms, f.time_ms) for f in flats), strict=True)
    return Flat(batch, *(np.concatenate(c) for c in columns))


@dataclass
class Model:
    """Everything that is learned. `bad` collects what couldn't be: (examples, reason), for the caller to take."""

    spec: Spec
    seed: int = 0
    reread: Reread | None = None  # without it there are no warm starts
    examples: int = 0  # learned
    duplicates: int = 0
    watermark_ms: int = 0  # greatest event time of a learned page
    learned_ms: int = 0  # ingest time of the newest label
    warm_starts: int = 0
    warm_at: int = 0  # example index of the last warm start
    bad: list[tuple[Examples, str]] = field(default_factory=list)
    installs: list[tuple[int, int]] = field(
        default_factory=list
    )  # (id, ingest ms) first learned since the last publish

    def __post_init__(self) -> None:
        spec = self.spec
        self.layout = Layout(spec)
        self.encoder = Encoder(spec, self.layout)
        self.statistics = Statistics(StatisticsProgram(spec, self.layout))
        self.wide = Ftrl(FtrlRates(self.encoder.alphas, spec.wide.beta, spec.wide.l1, spec.wide.l2))
        lists, numbers = len(self.encoder.deep_lists), len(self.encoder.deep_numbers)
        self.deep = Deep(spec.deep, lists, numbers, self.seed) if "deep" in spec.parts else None
        self.slices = Slices(spec, self.layout)
        self.progress = Progress(self.slices.names)
        self.seen = Seen()
        window = spec.deep.warm_start.window if self.deep else 0
        self.recent_ids: U64 = np.zeros(window, np.uint64)  # ring by example index
        self.recent_wide: F32 = np.zeros(window, np.float32)
        self.records: deque[tuple[int, int]] = deque()  # (offset, example index at its start) of the window
        self._forget_losses()
        self.recent_pages: deque[bytes] = deque(maxlen=RECENT_PAGES)  # features of pages just learned

    def predict(self, words: U64) -> F32:
        """P(Y=1) of each item of a page, float32 [n], by the model as it is now."""
        batch = one_page(words)
        keys = self.encoder.wide_keys(batch)
        places = find_many(self.wide.table.slots, keys.keys)
        rows = self.wide.table.slots[places]
        rows[:, 1] &= np.uint64(2**63 - 1)  # n isn't negative
        weights = np.where(places >= 0, self.wide.weights(rows), np.float32(0))
        logits = np.add.reduceat(weights, keys.offsets[:-1])  # every example has a key: the bias
        if self.deep:
            logits = logits + self.deep.score(self.encoder.deep_input(batch))
        predictions: F32 = (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
        return predictions

    def learn(self, record: Sequence[Examples], offset: int) -> int:
        """Learn one record of `examples`. Returns how many examples of it were new."""
        flat, cuts = self._flatten(record)
        new = self.seen.new(flat.ids)
        self.duplicates += int(len(flat) - new.sum())
        flat, cuts = flat.take(new), cuts[new]
        if not len(flat):
            return 0
        self._remember(offset)
        keys = self.encoder.wide_keys(flat.batch)
        given = self.encoder.deep_input(flat.batch) if self.deep else None
        predictions = np.empty(len(flat), np.float32)
        bounds = [0, *(np.flatnonzero(np.diff(cuts)) + 1).tolist(), len(flat)]
        for first, last in pairwise(bounds):
            predictions[first:last] = self._step(
                flat.take(slice(first, last)), keys.part(first, last), given.part(first, last) if given else None
            )
        self._note(flat, predictions)
        return len(flat)

    def _step(self, flat: Flat, keys: WideKeys, given: DeepInput | None) -> F32:
        """One micro-batch: predict, then learn; then whatever is due at this example's index. Returns predictions."""
        deep_logits = self.deep.predict(given) if self.deep and given else np.zeros(len(flat), np.float32)
        fake = self.spec.label.policy == "fake_negative"
        wide, gradients = self.wide.predict_then_learn(keys, deep_logits, flat.labels, flat.weights, fake_negative=fake)
        before, self.examples = self.examples, self.examples + len(flat)
        if self.deep:
            self.deep.learn(gradients, flat.ids)
            places = np.arange(before, self.examples) % len(self.recent_ids)
            self.recent_ids[places], self.recent_wide[places] = flat.ids, wide
            self._whatever_is_due(before)
        predictions: F32 = (1.0 / (1.0 + np.exp(-(wide + deep_logits)))).astype(np.float32)
        return predictions

    def _note(self, flat: Flat, predictions: F32) -> None:
        """What a record leaves besides weights: figures, statistics, marks, and perhaps an early warm start."""
        first_label = (flat.reasons == INSTALLED) | (flat.reasons == WINDOW_CLOSED)
        members = self.slices.members(flat.batch)[first_label]
        losses = self.progress.record(predictions[first_label], flat.labels[first_label], members)
        labels, weights = flat.labels.astype(np.float64), flat.weights.astype(np.float64)
        self.statistics.learn(flat.batch, labels, weights, flat.reasons, flat.time_ms)
        positive = (flat.labels > 0.5) & ((flat.reasons == INSTALLED) | (flat.reasons == LATE_POSITIVE))
        self.installs += zip(flat.ids[positive].tolist(), flat.ingest_ms[positive].tolist(), strict=True)
        self.watermark_ms = max(self.watermark_ms, int(flat.time_ms.max()))
        self.learned_ms = max(self.learned_ms, int(flat.ingest_ms.max()))
        ends = [*flat.batch.starts[: RECENT_PAGES + 1].tolist(), len(flat.batch.words)]
        self.recent_pages.extend(flat.batch.words[a:b].tobytes() for a, b in pairwise(ends[: RECENT_PAGES + 1]))
        if self.deep and len(losses) and np.isfinite(losses).all() and self._feed_drift(float(losses.mean())):
            self._warm_start()

    def _whatever_is_due(self, before: int) -> None:
        """Quantiles at doublings until the first warm start; warm starts every so many examples."""
        assert self.deep is not None
        if not self.warm_starts and before.bit_length() != self.examples.bit_length() and self.examples >= FIRST_FREEZE:
            self.deep.freeze_quantiles()
        every = self.spec.deep.warm_start.every
        if before // every != self.examples // every:
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
        self.deep.warm(self._window(self.reread(self.records[0][0])))
        self._forget_losses()

    def _forget_losses(self) -> None:
        self.losses: list[float] = []  # what ADWIN was fed since the last warm start, to feed it again after a restart
        self.drift: Any = ADWIN(delta=ADWIN_DELTA)  # type: ignore[no-untyped-call]  # River's class has no types

    def _window(self, records: Iterable[Sequence[Examples]]) -> Iterator[tuple[DeepInput, F32, F32, F32]]:
        """Micro-batches of the window's examples as they were learned: (input, wide logits, labels, weights)."""
        window = len(self.recent_ids)
        index = max(self.records[0][1], self.examples - window)
        chunk: list[Flat] = []
        for record in records:
            flat, _ = self._flatten(record, quiet=True)
            keep = []
            for i, known in enumerate(flat.ids.tolist()):
                if index < self.examples and known == int(self.recent_ids[index % window]):
                    keep.append(i)
                    index += 1
            chunk.append(flat.take(np.array(keep, np.int64)))
            if sum(map(len, chunk)) >= WARM_CHUNK:
                yield from self._batches(joined(chunk), index)
                chunk = []
            if index == self.examples:
                break
        if index != self.examples:
            raise LogError(
                f"{self.examples - index} of the last {window} examples aren't in the log any more, though their "
                "records are: the topic was made anew; give the spec a new name, to learn it from the log's beginning"
            )
        if chunk:
            yield from self._batches(joined(chunk), index)

    def _batches(self, flat: Flat, end: int) -> Iterator[tuple[DeepInput, F32, F32, F32]]:
        """Micro-batches of these examples, the last of which has index end − 1."""
        size = self.spec.deep.micro_batch
        wide = self.recent_wide[np.arange(end - len(flat), end) % len(self.recent_wide)]
        given = self.encoder.deep_input(flat.batch)
        for first in range(0, len(flat), size):
            last = min(first + size, len(flat))
            yield given.part(first, last), wide[first:last], flat.labels[first:last], flat.weights[first:last]

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

    def _flatten(self, record: Sequence[Examples], *, quiet: bool = False) -> tuple[Flat, I64]:
        """A record in columns, and which micro-batch each example is in: cut before anything is dropped."""
        words: list[U64] = []
        columns: list[list[float]] = [[] for _ in range(8)]
        page, position, ids, labels, weights, reasons, ingest, times = columns
        cut: list[int] = []
        count = 0
        for examples in record:
            n = len(examples.ids)
            try:
                words.append(words_of(examples.page.features, self.layout, len(examples.page.items)))
            except BadEvent as bad:
                if not quiet:
                    self.bad.append((examples, str(bad)))
                count += n
                continue
            cut += [(count + i) // self.spec.deep.micro_batch for i in range(n)]
            count += n
            page += [len(words) - 1] * n
            position += examples.positions
            ids += examples.ids
            labels += examples.labels
            weights += examples.weights
            reasons += examples.reasons
            ingest += examples.ingest_ms
            times += [examples.page.time_ms] * n
        starts = np.cumsum([0, *map(len, words)])[:-1] if words else np.zeros(0, np.int64)
        batch = Batch(
            np.concatenate(words) if words else np.zeros(0, np.uint64),
            starts.astype(np.int64),
            np.array(page, np.int64),
            np.array(position, np.int64),
        )
        flat = Flat(batch, np.array(ids, np.uint64), np.array(labels, np.float32), np.array(weights, np.float32),
                    np.array(reasons, np.int64), np.array(ingest, np.int64), np.array(times, np.float64))  # fmt: skip
        return flat, np.array(cut, np.int64)
