"""Writes the events of calls to the log, and says when it has them."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final

from ranker.http.event_batch import Outgoing
from stream.log.protocol import Log, Sender
from stream.runtime.errors import LogError, LogUnavailable

ACKS: Final = "all"


class EventWriter:
    """Sends records without waiting for the log. `log` returns None while it isn't connected. For one thread."""

    def __init__(self, log: Callable[[], Log | None]) -> None:
        self._log = log
        self._sender: Sender | None = None

    def partitions(self, topic: str) -> int:
        """Partitions of a topic. Raises LogError, LogUnavailable."""
        return self._connected().partitions(topic)

    def write(self, records: Sequence[Outgoing]) -> "Future[None]":
        """Send; the future is done once the log has all of them, or raises the first failure."""
        if self._sender is None:
            self._sender = self._connected().sender(ACKS)
        waiting = _Acknowledgements(len(records))
        for topic, partition, value, key in records:
            self._sender.send(topic, partition, value, waiting.settled, key)
        return waiting.future

    def close(self) -> None:
        """Close without waiting; safe to call twice."""
        if self._sender is not None:
            self._sender.close()

    def _connected(self) -> Log:
        log = self._log()
        if log is None:
            raise LogUnavailable("the ranker isn't connected to Kafka yet")
        return log


class _Acknowledgements:
    """Counts the records of one call that are settled; called by the log's threads."""

    def __init__(self, records: int) -> None:
        self.future: Future[None] = Future()
        self.future.set_running_or_notify_cancel()  # whoever gives up waiting can't cancel it
        self._open, self._lock = records, threading.Lock()
        if not records:
            self.future.set_result(None)

    def settled(self, failure: LogError | None) -> None:
        """One record is."""
        with self._lock:
            self._open -= 1
            if self.future.done():
                return
            if failure is not None:
                self.future.set_exception(failure)
            elif not self._open:
                self.future.set_result(None)
