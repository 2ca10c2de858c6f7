"""Pins outlive the store: the latest decision is backed up beside the checkpoints, and restored when it was lost."""

from pathlib import Path

import structlog

from stream.runtime.errors import BadSnapshot
from stream.snapshots.manifest import UNDECIDED, Decision
from stream.snapshots.store import SnapshotStore
from stream.snapshots.version_files import VersionFiles

log = structlog.get_logger("pins")


class PinBackup:
    """Backs up the latest decision in a folder, with the version that it pins. Unpinning is a decision too.

    Raises StoreUnavailable, BadSnapshot, OSError.
    """

    def __init__(self, store: SnapshotStore, folder: Path) -> None:
        self._store = store
        self._files = VersionFiles(folder)
        try:
            self._decision = self._files.decision()
            if self._decision.version:
                self._files.manifest(self._decision.version)
        except BadSnapshot as error:
            log.error("the backup of the pinned version can't be read", reason=str(error))
            self._files.clear()
            self._decision = UNDECIDED

    def sync(self) -> None:
        """Back up a newer decision; or restore one that the store has lost: it was wiped, or is an older copy."""
        decision = self._store.decision()
        if decision.number > self._decision.number:
            self._save(decision)
        elif decision.number < self._decision.number:
            self._restore()

    def _save(self, decision: Decision) -> None:
        if decision.version:
            self._files.save(self._store, self._store.manifest(decision.version))
        else:
            self._files.clear()
        self._files.save_decision(decision)
        self._decision = decision

    def _restore(self) -> None:
        manifest = self._files.manifest(self._decision.version) if self._decision.version else None
        if manifest:
            self._store.put_blobs(self._files.blobs(manifest))
        self._store.restore_decision(self._decision, manifest)
        what = f"version {self._decision.version} is pinned" if manifest else "nothing is pinned"
        log.warning("the store had lost the latest decision; it is restored", decision=what)
