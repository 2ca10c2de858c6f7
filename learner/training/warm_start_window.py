"""The last examples, which a warm start trains on: their ids and wide logits here, their features read from the log."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from learner.deep.warm_start import WindowChunk
from learner.training.training_records import RecordEncoder
from stream.events.types import Examples
from stream.runtime.errors import LogError
from stream.tables.dtypes import F32, U64
from stream.tables.jit import kernel

CHUNK: Final = 512  # examples that are encoded at once
Reread = Callable[[int], Iterator[Sequence[Examples]]]  # records of `examples` from an offset on


class WarmStartWindow:
    """Rings by example index: `ids` uint64 [size], `wide` float32 [size], the wide logits of when each was predicted.

    `records`: (offset, example index at its start) of the records that have these examples.
    """

    def __init__(self, size: int) -> None:
        self.ids: U64 = np.zeros(size, np.uint64)
        self.wide: F32 = np.zeros(size, np.float32)
        self.records: deque[tuple[int, int]] = deque()

    def begin_record(self, offset: int, index: int) -> None:
        """A record's examples begin at this index; records older than the window are dropped."""
        self.records.append((offset, index))
        while len(self.records) > 1 and self.records[1][1] <= index - len(self.ids):
            self.records.popleft()

    def add(self, index: int, ids: U64, wide: F32) -> None:
        """Examples from this index on were learned."""
        slot = index % len(self.ids)
        if slot + len(ids) <= len(self.ids):
            self.ids[slot : slot + len(ids)], self.wide[slot : slot + len(ids)] = ids, wide
        else:
            slots = np.arange(index, index + len(ids)) % len(self.ids)
            self.ids[slots], self.wide[slots] = ids, wide

    def drop_records_before(self, offset: int) -> None:
        """The log has lost what precedes `offset`: warm starts no longer read it."""
        while self.records and self.records[0][0] < offset:
            self.records.popleft()

    def chunks(self, reread: Reread, end: int, encoder: RecordEncoder) -> Iterator[WindowChunk]:
        """The window's examples up to index `end` as they were learned, a chunk at a time.

        Raises LogError when the log no longer has them.
        """
        assert self.records, "the record that is being learned was noted"
        size, index = len(self.ids), max(self.records[0][1], end - len(self.ids))
        for pages in _chunked(reread(self.records[0][0]), CHUNK):
            examples = encoder.columns_of(pages)
            keep, index = match_window(examples.ids, self.ids, index, end)
            if keep.any():
                examples = examples.take(keep)
                wide = self.wide[np.arange(index - len(examples), index) % size]
                _, weights, earlier = encoder.batches.learned(examples)
                inputs = encoder.batches.features.deep_input(examples.pages)
                yield WindowChunk(inputs, wide, examples.labels, weights, earlier)
            if index == end:
                break
        if index != end:
            raise LogError(
                f"{end - index} of the last {size} examples are missing from the log, though their records "
                "are there: the topic was recreated; give the spec a new name, to learn it from the log's beginning"
            )


def _chunked(records: Iterator[Sequence[Examples]], examples_min: int) -> Iterator[list[Examples]]:
    """Pages of consecutive records, at least `examples_min` examples at a time."""
    pages: list[Examples] = []
    count = 0
    for record in records:
        pages += record
        count += sum(len(examples.ids) for examples in record)
        if count >= examples_min:
            yield pages
            pages, count = [], 0
    if pages:
        yield pages


@kernel
def match_window(ids: U64, ring: U64, index: int, end: int) -> tuple[Any, int]:
    """Which of these ids, in order, the ring contains from `index` on; and the index after the last match."""
    keep = np.zeros(ids.shape[0], np.bool_)
    for b in range(ids.shape[0]):
        if index < end and ids[b] == ring[index % ring.shape[0]]:
            keep[b] = True
            index += 1
    return keep, index
