"""Writes new values of requests to the topic `feature.names`, beside ranking."""

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Final

from stream.events.topics import NAMES
from stream.features.new_values import NewValues
from stream.log.protocol import Log
from stream.runtime.errors import LogError

EVERY_S: Final = 5.0

log = logging.getLogger(__name__)


class NameWriter:
    """Writes what `values` has noted. `connect` opens a log of its own: ranking doesn't depend on these writes.

    What can't be written is retried with the next names; there are no more than a process notes in a day.
    """

    def __init__(self, values: NewValues, connect: Callable[[], Log]) -> None:
        self._values, self._connect = values, connect
        self._is_failing = False

    def run(self, stop: threading.Event) -> None:
        """Write from time to time until `stop` is set."""
        while not stop.wait(EVERY_S):
            self.write()

    def write(self) -> None:
        """Write what is new."""
        if not (named := self._values.take()):
            return
        try:
            with closing(self._connect()) as target:
                target.partitions(NAMES.name)  # raises, with the remedy, where there's no such topic
                for key, value in named:
                    target.send(NAMES.name, 0, value, key)
                target.flush()
        except LogError as error:
            if not self._is_failing:
                log.warning("names of values can't be written to %s: %s; ranking goes on", NAMES.name, error)
            self._is_failing = True
            self._values.put_back(named)
        else:
            self._is_failing = False
