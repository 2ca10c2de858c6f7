"""What a person has decided outlives the store: it's kept beside the checkpoints, and put back when it was lost."""

from pathlib import Path

import structlog

from stream.runtime.errors import BadSnapshot
from stream.snapshots.manifest import UNDECIDED, Decision
from stream.snapshots.store import SnapshotStore
from stream.snapshots.version_files import VersionFiles

log = structlog.get_logger("pins")


class PinKeeper:
    """Keeps the latest decision in a folder, with the version that it pins. To let go of a pin is a decision too.

    Raises StoreUnavailable, BadSnapshot, OSError.
    """

    def __init__(self, store: SnapshotStore, folder: Path) -> None:
        self._store = store
        self._files = VersionFiles(folder)
        try:
            self._kept = self._files.decision()
            if self._kept.version:
                self._files.manifest(self._kept.version)
        except BadSnapshot as bad:
            log.error("the pinned version that was kept here can't be read", why=str(bad))
            self._files.forget()
            self._kept = UNDECIDED

    def look(self) -> None:
        """Keep what was decided since; or put back what the store has lost: it was wiped, or is an older copy."""
        decision = self._store.decision()
        if decision.number > self._kept.number:
            self._keep(decision)
        elif decision.number < self._kept.number:
            self._put_back()

    def _keep(self, decision: Decision) -> None:
        if decision.version:
            self._files.save(self._store, self._store.manifest(decision.version))
        else:
            self._files.forget()
        self._files.decide(decision)
        self._kept = decision

    def _put_back(self) -> None:
        manifest = self._files.manifest(self._kept.version) if self._kept.version else None
        if manifest:
            self._store.put_blobs(self._files.blobs(manifest))
        self._store.put_back(self._kept, manifest)
        what = f"version {self._kept.version} is pinned" if manifest else "nothing is pinned"
        log.warning("the store had lost the latest decision; it has it again", decision=what)
