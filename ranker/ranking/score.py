"""Scoring a page in small batches on several threads: kernels release the GIL, each batch is one call."""

import time
from collections import deque
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final

import numpy as np

from ranker.kernels.page import Run
from ranker.versions.model import BATCH_ITEMS, BATCH_ITEMS_MAX, Version, sigmoid
from stream.tables.dtypes import F32, U64, Bools

SWITCH_S: Final = 1e-4  # after which a thread yields the interpreter to others: a request needs it many times

BATCH_ITEMS_MIN: Final = 50  # of a page that is split over threads: less isn't worth waking another thread,
SMALL_ITEMS_MIN: Final = 100  # and by a small network less than this
SMALL_WEIGHTS: Final = 50_000  # of a small one, the first layer's for users and items aside

Span = tuple[int, int]


class _Job:
    """A page's batches: a free thread takes the next. `results` has what helpers scored, or the exception."""

    def __init__(self, version: Version, run: Run, batch_items: int, deadline_s: float | None) -> None:
        self.version, self.run, self.deadline_s = version, run, deadline_s
        n = len(run.logits)
        self.spans = deque((first, min(first + batch_items, n)) for first in range(0, n, batch_items))
        self.results: SimpleQueue[Span | BaseException] = SimpleQueue()

    def score_next(self) -> Span | None:
        """Score a batch; None when none is left."""
        try:
            span = self.spans.popleft()
        except IndexError:
            return None
        self.version.score(self.run, *span)
        return span

    def past(self) -> bool:
        """Whether it is past the deadline."""
        return self.deadline_s is not None and time.monotonic() >= self.deadline_s


class Scorer:
    """`threads` threads score a page, the caller's among them, in batches of at most `batch_items` items."""

    def __init__(self, threads: int, batch_items: int = BATCH_ITEMS) -> None:
        assert 1 <= batch_items <= BATCH_ITEMS_MAX, f"a batch has 1 to {BATCH_ITEMS_MAX} items, not {batch_items}"
        self._batch_items = batch_items
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._helpers = [Thread(target=self._help, name=f"score-{i}", daemon=True) for i in range(1, threads)]
        for helper in self._helpers:
            helper.start()

    def score(
        self, version: Version, words: U64, deadline_s: float | None = None, *, time_ms: int | None = None
    ) -> tuple[F32, Bools]:
        """Probabilities, float32 [n], and which of them were scored before `deadline_s` (of time.monotonic).

        With `time_ms` the page's statistics are written as of then, possibly not those of items that weren't scored.
        The first batch is always scored: a late answer is better than none.
        """
        run, threads = version.begin(words, time_ms), 1 + len(self._helpers)
        least = SMALL_ITEMS_MIN if version.item_weights < SMALL_WEIGHTS else BATCH_ITEMS_MIN
        share = max(least, -(-len(run.logits) // threads))
        job = _Job(version, run, min(self._batch_items, share), deadline_s)
        done, waiting = np.zeros(len(job.run.logits), bool), len(job.spans)
        for _ in range(min(len(self._helpers), waiting - 1)):
            self._jobs.put(job)
        span = job.score_next()
        while span is not None:
            done[slice(*span)] = True
            waiting -= 1
            span = None if job.past() else job.score_next()
        while waiting > len(job.spans):
            try:
                result = job.results.get(
                    timeout=None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
                )
            except Empty:
                break
            if isinstance(result, BaseException):
                raise result
            done[slice(*result)] = True
            waiting -= 1
        return np.where(done, sigmoid(job.run.logits), np.float32(0.0)), done

    def close(self) -> None:
        """End the threads."""
        for _ in self._helpers:
            self._jobs.put(None)
        for helper in self._helpers:
            helper.join()

    def _help(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                while not job.past() and (span := job.score_next()) is not None:
                    job.results.put(span)
            except Exception as bad:  # noqa: BLE001  # whoever asked raises it
                job.results.put(bad)
