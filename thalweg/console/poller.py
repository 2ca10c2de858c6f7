"""The one thread that reads rooms and store, for all pages that are open."""

import logging
import threading
from collections.abc import Callable
from typing import Final

from thalweg.console.board import Board
from thalweg.console.loop_state import LoopState
from thalweg.console.rooms import RoomReader
from thalweg.console.version_log import VersionLog

WATCHED_S: Final = 1.0  # between two readings
IDLE_S: Final = 5.0  # the same while no page is open
STOP_S: Final = 10.0

log = logging.getLogger(__name__)


class Poller:
    """Reads until it is closed. `clock_s` is monotonic, `now_ms` the wall clock."""

    def __init__(
        self,
        model: str,
        rooms: RoomReader,
        versions: VersionLog,
        board: Board,
        clock_s: Callable[[], float],
        now_ms: Callable[[], int],
    ) -> None:
        self._rooms, self._versions, self._board = rooms, versions, board
        self._clock_s, self._now_ms = clock_s, now_ms
        self._loop = LoopState(model)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)
        self.ranker = ""  # where one answers over HTTP

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; safe to call twice."""
        self._is_closed.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)
        self._rooms.close()

    def read(self) -> None:
        """Read once, and send to all pages what has changed."""
        readings = self._rooms.read()
        self.ranker = next((one.http for one in readings if one.http and one.state == "up"), "")
        sections, point = self._loop.update(readings, self._clock_s())
        versions, entries = self._versions.update(readings)
        self._board.update(sections | {"versions": versions}, [[self._now_ms(), *point]], entries)

    def _run(self) -> None:
        next_s = self._clock_s()
        while not self._is_closed.is_set():
            try:
                self.read()
            except Exception:  # one reading that fails must not end all later ones
                log.exception("the rooms can't be read")
            next_s = max(next_s + (WATCHED_S if self._board.pages else IDLE_S), self._clock_s())
            self._is_closed.wait(next_s - self._clock_s())
