"""The Wide & Deep model: P(Y=1|x) = σ(wide + deep), one logistic loss, both parts jointly (Cheng et al. 2016).

`learn_records` is the learner's step: a record's examples are deduplicated; each micro-batch, cut at fixed indices, is
predicted and learned; then its figures are recorded and the statistics moved. Everything else that changes the model
happens at an example index. No clock, no I/O, no randomness but the seed: the same records give the same bits.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise

import numpy as np

from learner.deep.joint_step import learn_micro_batches, learn_wide
from learner.training.dedup import NO_SOURCE
from learner.training.encoded_batch import EncodedBatch
from learner.training.erasing import erase_ids, erase_user
from learner.training.model_state import ModelState
from learner.training.ranking_kernels import KEY
from learner.training.ranking_progress import PageColumns
from learner.training.recent_pages import PAGES_MAX
from learner.training.training_records import TrainingRecords
from stream.events.codec import organic_id
from stream.events.types import Organic, Removal, TrainingEvent
from stream.snapshots.manifest import INGESTS_MAX
from stream.tables.dtypes import F32, I64, Bools

RECORDS_MAX = 64  # that are tried as one step


class Model(ModelState):
    """The model that learns. The caller takes what `installs` collects."""

    def learn(self, events: Sequence[TrainingEvent], offset: int, source: int = NO_SOURCE) -> int:
        """Learn one record of `examples` from its events. `source`: the partition of `events` that it came from.

        Returns how many of its examples were new. `rejected` collects what is invalid.
        """
        (records,) = self.record_encoder.of_events([events], [offset], source)
        self.rejected += records.rejected[0]
        return self.learn_records(records, 0, 1)

    def return_to(self, earlier: ModelState) -> None:
        """As `ModelState.return_to`; users who were erased since then are erased from what comes back, too."""
        super().return_to(earlier)
        since = self.erased[len(earlier.erased) :]
        del self.erased[len(earlier.erased) :]
        erase_ids(self, since)

    def steps(self, records: TrainingRecords) -> Iterator[tuple[int, int]]:
        """Which records to learn in one step, first and past-last, step by step; ask when the step before is learned.

        Several at once only where nothing may happen between them: no action that is due, for an example's index or for
        drift, and no eviction. So the state is the same, to the bit, as if each had been learned by itself.
        """
        first = 0
        while first < len(records):
            last = min(len(records), first + RECORDS_MAX)
            while last > first + 1 and not self.is_quiet(records, first, last):
                last = (first + last) // 2
            last = max(last, first + 1)
            yield first, last
            first = last

    def learn_records(self, records: TrainingRecords, first: int, last: int) -> int:
        """Learn records first:last, as `steps` says. Returns how many of their examples were new."""
        pages = slice(records.page_ends[first], records.page_ends[last])
        self.shown.add_pages(records.shown.part(pages.start, pages.stop))
        batch, before = records.examples.batch(first, last), self.examples
        sources = records.sources[first:last]
        new, count = self._find_new(batch, records, first, last)
        if new.all():
            self._learn_batch(batch, records, first)
        else:
            for r, (begin, end) in enumerate(pairwise(batch.all_ends.tolist()), first):
                if new[begin:end].any():
                    columns = records.examples.batch(r, r + 1).take(new[begin:end])
                    self._learn_batch(self.batch_encoder.encode(columns), records, r)
        for organic, source in zip(records.organic[first:last], sources, strict=True):
            self._learn_organic(organic, source)
        for erased in chain.from_iterable(records.erased[first:last]):
            removed = erase_user(self, erased.user)
            self.removals.append(Removal(erased.user, erased.time_ms, f"learner {self.spec.name}", removed._asdict()))
        if self.held_out.is_due(before, self.examples):
            positives, labels = self.progress.state.sums[0, 2:4].tolist()
            self.held_out.act(self.examples, positives, positives / max(labels, 1.0), self.watermark_ms)
        return count

    def _find_new(self, batch: EncodedBatch, records: TrainingRecords, first: int, last: int) -> tuple[Bools, int]:
        """Deduplicate records' examples, and let those held out wait. Returns which of the others are new, bool [N],
        and how many of all."""
        sources, held_out = records.sources[first:last], records.held_out
        if held_out is None:
            new = self.learned_ids.add_records(batch.ids, batch.all_ends, sources)
            count = int(np.count_nonzero(new))
            self.duplicates += len(new) - count
            return new, count
        ends = held_out.ends[first : last + 1]
        rows = slice(ends[0], ends[-1])
        all_new, which = self.learned_ids.add_records(held_out.ids[rows], ends - ends[0], sources), held_out.which[rows]
        count = int(np.count_nonzero(all_new))
        self.duplicates += len(all_new) - count
        begin, end = held_out.own_ends[[first, last]].tolist()
        if end > begin:
            fresh = np.flatnonzero(all_new[which]) + begin
            self.held_out.examples += len(fresh)
            words = records.examples.columns.pages.words
            self.held_out.pages.add(held_out, fresh, words, records.words_ends)
        return all_new[~which], count

    def _learn_batch(self, batch: EncodedBatch, records: TrainingRecords, first: int) -> None:
        """Learn the new examples of records from `first` on."""
        if not len(batch):
            return
        for r, (begin, end) in enumerate(pairwise(batch.ends.tolist()), first):
            if end > begin:
                self._note_pages(records, r)
        self.sampled_out += len(batch) - len(batch.earlier)
        predictions = self._learn_parts(batch)
        self.unpredictable += int(np.isnan(predictions).sum())
        self._record_figures(batch, predictions, records.identities)
        if self.on_predicted:
            keys = records.identities[batch.pages.page, KEY]
            targets = batch.targets
            self.on_predicted(targets.ids, predictions, targets.labels, targets.weights, batch.earlier, keys)
        if self.learns_statistics:
            self.statistics.learn(batch.all_pages, batch.outcomes, batch.statistics)
        if self.retrieval:
            self.retrieval.learn(batch.all_pages, batch.outcomes)
        self._note(batch)
        if self.drift.is_due():
            self.act_on_drift()

    def _learn_parts(self, batch: EncodedBatch) -> F32:
        """Predict, then learn each micro-batch; run whatever is due at an example index between them.

        Returns predictions, float32 [B].
        """
        inputs, targets, bounds = batch.inputs, batch.targets, batch.bounds
        n = len(batch.earlier)
        wide, predictions = np.empty((2, n), np.float32)
        if not n:
            return predictions
        state = self.wide.prepare(inputs.keys[inputs.key_offsets[0] : inputs.key_offsets[-1]], batch.newest_ms)
        if self.deep is None:
            learn_wide(state, inputs.keys, inputs.key_offsets, targets, batch.earlier, predictions)
            self.examples += n
            return predictions
        self.deep.begin_record()
        start, begun, last = self.examples, 0, len(bounds) - 1
        is_due = bool(self.due(start, start + n))  # else there is one piece, however many micro-batches
        for end in range(1, last + 1) if is_due else (last,):
            due = self.due(start + int(bounds[end - 1]), start + int(bounds[end])) if is_due else ()
            if not due and end < last:
                continue
            deep = self.deep.prepare(inputs.ids[inputs.id_offsets[0] : inputs.id_offsets[-1]])
            learn_micro_batches(state, deep, inputs, targets, bounds[begun : end + 1], batch.earlier, predictions, wide)
            self.examples += int(bounds[end] - bounds[begun])
            begun = end
            for action in due:
                action()
        if self.deep.vocabulary.over_high_water:  # however many new ids an example brings
            self.evict()
        return predictions

    def _record_figures(self, batch: EncodedBatch, predictions: F32, identities: I64) -> None:
        """Record first labels, of early negatives corrections too, and look for drift in them."""
        labels, times_ms = batch.targets.labels, batch.targets.time_ms
        members, later, counts = batch.members, batch.later, batch.counts
        pages = PageColumns(identities, batch.pages.page, batch.pages.position, times_ms)
        if later is not None and not self.spec.label.are_negatives_early:  # only first labels count
            first = ~later
            predictions, labels, members, counts = predictions[first], labels[first], members[first], counts.part(first)
            times_ms = times_ms[first]
            pages, later = pages.part(first), None
        self.progress.record(predictions, labels, members, later, pages, counts)
        self.drift.add(predictions, labels, times_ms, counts, members)

    def _note(self, batch: EncodedBatch) -> None:
        """Note what a version says of the examples it learned."""
        if batch.installs:
            self.installs += batch.installs
            if len(self.installs) > 2 * INGESTS_MAX:
                self.installs = sorted(self.installs)[:INGESTS_MAX]
        self.left_out += batch.left_out
        self.watermark_ms = max(self.watermark_ms, batch.newest_ms)
        self.learned_ms = max(self.learned_ms, batch.ingest_ms)

    def _note_pages(self, records: TrainingRecords, r: int) -> None:
        """Keep the features of a record's first pages."""
        first = int(records.page_ends[r])
        ends = records.words_ends[first : min(first + PAGES_MAX, int(records.page_ends[r + 1])) + 1].tolist()
        words = records.examples.columns.pages.words
        self.recent_pages.extend(words[a:b].tobytes() for a, b in pairwise(ends))

    def _learn_organic(self, installs: Sequence[Organic], source: int) -> None:
        """Update what organic installs move; where they move nothing not even the ids are remembered."""
        if not installs or not (self.statistics.program.learns_organic or self.retrieval):
            return
        ids = np.array([organic_id(one.user, one.install_id) for one in installs], np.uint64)
        new = [one for one, is_new in zip(installs, self.learned_ids.add(ids, source), strict=True) if is_new]
        self.duplicates += len(installs) - len(new)
        self.organic += len(new)
        self.statistics.learn_organic(new)
        if self.retrieval and new:
            self.retrieval.learn_named(new)
