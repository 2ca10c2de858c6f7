"""Scoring a page in small batches on several threads. Kernels and BLAS let go of the GIL."""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final

import numpy as np
import numpy.typing as npt

from ranker.model import Version
from stream.features import F32
from stream.table import U64

BATCH_ITEMS: Final = 50

Bools = npt.NDArray[np.bool_]


class Scorer:
    """`threads` threads score a page, the caller's among them."""

    def __init__(self, threads: int, batch_items: int = BATCH_ITEMS) -> None:
        self._helpers = threads - 1
        self._batch_items = batch_items
        self._pool = ThreadPoolExecutor(max(1, self._helpers), thread_name_prefix="score")

    def score(self, version: Version, words: U64, deadline_s: float | None = None) -> tuple[F32, Bools]:
        """Probabilities, float32 [n], and which of them were scored before `deadline_s` (of time.monotonic).

        The first batch is always scored: an answer that is late is better than none.
        """
        n = int(words[1])
        scores = np.zeros(n, np.float32)
        done = np.zeros(n, bool)
        batches = deque(np.arange(n)[i : i + self._batch_items] for i in range(0, n, self._batch_items))

        def score_next() -> bool:
            try:
                batch = batches.popleft()
            except IndexError:
                return False
            scores[batch] = version.probabilities(words, batch)
            done[batch] = True
            return True

        def score_rest() -> None:
            while not _past(deadline_s) and score_next():
                pass

        helping = [self._pool.submit(score_rest) for _ in range(min(self._helpers, len(batches) - 1))]
        score_next()
        score_rest()
        _wait(helping, deadline_s)
        in_time = done.copy()  # before the scores, which a late helper may still write
        return np.where(in_time, scores, np.float32(0.0)), in_time

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _past(deadline_s: float | None) -> bool:
    return deadline_s is not None and time.monotonic() >= deadline_s


def _wait(helping: "list[Future[None]]", deadline_s: float | None) -> None:
    """Until all helpers are through or the deadline has passed; one that hasn't begun isn't needed any more."""
    for future in helping:
        if future.cancel():
            continue
        left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        if wait([future], left_s).done:
            future.result()  # raises what it raised
