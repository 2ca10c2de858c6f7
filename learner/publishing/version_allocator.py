"""Reserves version numbers and fencing tokens on disk: none is used twice, even when learner or store lose state.

Without it a learner that starts from a checkpoint, over a store that was wiped or is an older copy, would reuse the
numbers of versions that rankers serve. Nothing that is learned depends on these numbers.
"""

from pathlib import Path

import msgspec
import structlog

from stream.runtime.durable_files import replacing

BLOCK = 100
BYTES_MAX = 1_000
log = structlog.get_logger("numbers")


class HighWater(msgspec.Struct, frozen=True):
    """The greatest version number that may have been published, and the greatest fencing token used."""

    version: int = 0
    token: int = 0


class VersionAllocator:
    """Records in a file what may have been used. The uploading thread calls it before it uploads a version."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reserved = HighWater()
        self._logged = ""

    def read(self) -> HighWater:
        """As the file says now; zeros without one. A file that can't be read is logged: then only the store knows."""
        try:
            with self._path.open("rb") as file:
                return msgspec.json.decode(file.read(BYTES_MAX), type=HighWater)
        except FileNotFoundError:
            return HighWater()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._log_once(f"{self._path} can't be read ({error}): delete it if it stays so")
            return HighWater()

    def reserve(self, version: int, token: int) -> None:
        """Both may be used from now on: written to disk before this returns, once per BLOCK of versions.

        A failing disk is logged and doesn't delay the version: numbers are safe while the store remembers them.
        """
        if version <= self._reserved.version and token == self._reserved.token:
            return
        known = self.read()  # never lower than what another learner has written
        wanted = HighWater(max(known.version, version + BLOCK - 1), max(known.token, token))
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as file:
                file.write(msgspec.json.encode(wanted))
        except OSError as error:
            self._log_once(f"{self._path} can't be written ({error}): free space, or make it writable")
        else:
            self._reserved, self._logged = HighWater(version + BLOCK - 1, token), ""

    def _log_once(self, why: str) -> None:
        if why != self._logged:
            log.error("version numbers aren't reserved: after a lost store they might be used again", reason=why)
        self._logged = why
