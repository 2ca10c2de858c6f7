"""A pinned version outlives the store: it is kept beside the checkpoints, and put back when the store was wiped."""

from pathlib import Path

import structlog

from stream.errors import BadSnapshot
from stream.snapshot import SnapshotStore
from stream.version_files import VersionFiles

log = structlog.get_logger("pins")


class PinKeeper:
    """Keeps in a folder what a person has pinned. Raises StoreUnavailable, BadSnapshot, OSError."""

    def __init__(self, store: SnapshotStore, folder: Path) -> None:
        self._store = store
        self._files = VersionFiles(folder)
        try:
            manifest = self._files.load()
        except BadSnapshot as bad:
            log.error("the pinned version that was kept here can't be read", why=str(bad))
            self._files.forget()
            manifest = None
        self._kept = manifest.version if manifest else 0

    def look(self) -> None:
        """Keep what is pinned now; or put back what was."""
        pinned = self._store.pinned()
        if pinned == self._kept or (pinned is None and not self._kept):
            return
        if pinned is None:
            self._put_back()
        elif pinned == 0:
            self._files.forget()
            self._kept = 0
        else:
            self._files.save(self._store, self._store.manifest(pinned))
            self._kept = pinned

    def _put_back(self) -> None:
        manifest = self._files.load()
        assert manifest is not None, "it was there when this one started"
        self._store.put_blobs(self._files.blobs(manifest))
        self._store.repin(manifest)
        log.warning("the store had lost the pinned version; it has it again", version=manifest.version)
