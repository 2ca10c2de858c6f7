"""A reader that polls in a thread of its own: its owner waits for a queue, which costs next to nothing.

Each short poll of a Kafka consumer costs about a millisecond of CPU.
"""

import queue
import threading
from typing import Final

from stream.log.protocol import Reader, Record
from stream.runtime.errors import ThalwegError

POLL_S: Final = 0.1
RECORDS_MAX: Final = 1_000  # of one poll


class BackgroundReader:
    """Polls `reader` until `close`. Only its thread uses the reader from now on."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._found: queue.SimpleQueue[list[Record] | ThalwegError] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="background-reader", daemon=True)
        self._thread.start()

    def poll(self, timeout_s: float) -> list[Record]:
        """All records that have come since, if none those of the next `timeout_s`. Raises the reader's error."""
        records: list[Record] = []
        while True:
            try:
                found = self._found.get(timeout=0.0 if records else max(0.0, timeout_s))
            except queue.Empty:
                return records
            if isinstance(found, ThalwegError):
                self._found.put(found)  # the thread has ended: each further poll raises it, too
                if records:
                    return records
                raise found
            records += found

    def close(self) -> None:
        """End the thread and close the reader; safe to call twice."""
        self._stop.set()
        self._thread.join()
        self._reader.close()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if records := self._reader.poll(POLL_S, RECORDS_MAX):
                    self._found.put(records)
        except ThalwegError as bad:
            self._found.put(bad)
