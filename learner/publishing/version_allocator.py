"""Version numbers and fencing tokens never come twice, though learner and store forget: blocks of numbers are reserved.

Without it a learner that starts from a checkpoint, over a store that was wiped or is an older copy, would give its
next versions the numbers of those that rankers serve. Nothing that is learned depends on these numbers.
"""

from pathlib import Path

import msgspec
import structlog

from stream.runtime.durable import replacing

BLOCK = 100
BYTES_MAX = 1_000
log = structlog.get_logger("numbers")


class Used(msgspec.Struct, frozen=True):
    """Up to which number versions may have been published, and the greatest token that was theirs."""

    version: int = 0
    token: int = 0


class Numbers:
    """Keeps in a file what may have been used. To be asked before a version leaves, by the thread that carries it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reserved = Used()
        self._said = ""

    def used(self) -> Used:
        """As the file says now; zeros without one. What can't be read is told: then only the store knows numbers."""
        try:
            with self._path.open("rb") as file:
                return msgspec.json.decode(file.read(BYTES_MAX), type=Used)
        except FileNotFoundError:
            return Used()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as bad:
            self._tell(f"{self._path} can't be read ({bad}): delete it if it stays so")
            return Used()

    def use(self, version: int, token: int) -> None:
        """From now on both may have been used: on the disk before this returns, once a BLOCK.

        A disk that refuses is told and doesn't hold the version up: nothing is at stake while the store remembers.
        """
        if version <= self._reserved.version and token == self._reserved.token:
            return
        known = self.used()  # never less than another learner has written
        wanted = Used(max(known.version, version + BLOCK - 1), max(known.token, token))
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as file:
                file.write(msgspec.json.encode(wanted))
        except OSError as bad:
            self._tell(f"{self._path} can't be written ({bad}): free space, or make it writable")
        else:
            self._reserved, self._said = Used(version + BLOCK - 1, token), ""

    def _tell(self, what: str) -> None:
        if what != self._said:
            log.error("version numbers aren't kept: after a lost store they might come again", why=what)
        self._said = what
