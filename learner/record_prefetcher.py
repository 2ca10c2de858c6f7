"""Reads, decodes and encodes the next records of `examples` on a thread of its own, while others are learned.

What is heavy there runs in kernels, which don't hold the interpreter's lock.
"""

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Final

from learner.training.training_records import RecordEncoder, TrainingRecords
from stream.log.protocol import Reader, Record
from stream.runtime.heartbeat import Heartbeat

POLL_S: Final = 0.02
HUNG_S: Final = 120.0  # opening a reader at a silent broker takes half a minute at most
CHUNK_BYTES: Final = 256 * 1024  # of records that are encoded at once
CHUNK_RECORDS: Final = 128
CHUNKS_READY: Final = 2  # chunks that wait to be learned
AfterPoll = Callable[[Reader, Sequence[Record]], None]


class RecordPrefetcher:
    """Takes records from a reader, which it opens and closes itself.

    `after_poll` gets the reader and what it has read, on the thread that reads. `is_reading`: a poll has succeeded.
    `heart` beats while that thread runs.
    """

    def __init__(self, open_reader: Callable[[], Reader], encoder: RecordEncoder, after_poll: AfterPoll) -> None:
        self._open, self._encoder, self._after_poll = open_reader, encoder, after_poll
        self._ready: queue.Queue[list[TrainingRecords]] = queue.Queue(CHUNKS_READY)
        self._stopping = Event()
        self.is_reading = False
        self.heart = Heartbeat("the thread that reads examples", HUNG_S)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._work = self._thread.submit(self._run)

    def take(self, timeout_s: float) -> list[TrainingRecords]:
        """The next records in order; empty after `timeout_s`.

        Raises what the reader raised, once all records before it were taken; then it is of no more use.
        """
        failed = self._work.done()  # asked first: what it left is complete then
        try:
            return self._ready.get(timeout=0 if failed else timeout_s)
        except queue.Empty:
            if failed:
                self._work.result()
            return []

    def close(self) -> None:
        """Stop reading; records that weren't taken are dropped."""
        self._stopping.set()
        self._thread.shutdown()

    def _run(self) -> None:
        reader = self._open()
        try:
            while not self._stopping.is_set():
                self.heart.beat()
                records = reader.poll(POLL_S)
                self.is_reading = True
                self._after_poll(reader, records)
                for chunk in chunks_of(records):
                    self._put(list(self._encoder.records(chunk)))
        finally:
            reader.close()

    def _put(self, chunk: list[TrainingRecords]) -> None:
        while not self._stopping.is_set():
            self.heart.beat()
            try:
                return self._ready.put(chunk, timeout=POLL_S)
            except queue.Full:
                continue


def chunks_of(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """Consecutive records of about CHUNK_BYTES."""
    first = size = 0
    for index, record in enumerate(records):
        length = len(record.value or b"")
        if index > first and (size + length > CHUNK_BYTES or index - first == CHUNK_RECORDS):
            yield records[first:index]
            first, size = index, 0
        size += length
    if records:
        yield records[first:]
