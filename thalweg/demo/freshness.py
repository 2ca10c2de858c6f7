"""Freshness: from an install's append to the log until an answer by a version that has learned it.

Wide weights and statistics of a version have learned it first; its deep part has when it was cut at that version or a
later one, which the manifest says.
"""

from collections.abc import Sequence

import numpy as np

from stream.runtime.errors import BadSnapshot
from stream.snapshots.manifest import Manifest
from stream.snapshots.store import SnapshotStore


def manifests_between(store: SnapshotStore, after: int, upto: int) -> list[Manifest]:
    """The manifests of versions in (after, upto], newest first, along their parents. Stops where one is gone.

    Raises BadSnapshot when `upto` itself isn't there, StoreUnavailable.
    """
    if upto <= after:
        return []
    found = [store.manifest(upto)]
    while found[-1].parent > after:
        try:
            found.append(store.manifest(found[-1].parent))
        except BadSnapshot:
            break
    return found


def percentile(values: Sequence[float], p: float) -> float | None:
    """The exact p-th percentile; None of nothing."""
    return float(np.percentile(np.asarray(values, np.float64), p)) if len(values) else None


class Freshness:
    """Collects, for each version that answers for the first time, the waits of the installs that are new in it.

    An install that a skipped version learned is served by the first version after it that answers.
    """

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store
        self.version = 0
        self.served_ms: list[float] = []
        self.served_deep_ms: list[float] = []  # by the deep part, too
        self.servable_ms: list[float] = []
        self.versions: list[int] = []
        self._deep_waits: list[Manifest] = []  # whose installs the deep part that answers hasn't learned

    def answered(self, version: int, appended_ms: int, live_since_ms: int) -> None:
        """A reply by `version` was appended at `appended_ms`; its ranker swapped the version in at `live_since_ms`."""
        if version <= self.version:
            return
        manifests = manifests_between(self._store, self.version, version)
        for manifest in manifests:
            self.served_ms += [float(appended_ms - ingest_ms) for ingest_ms in manifest.ingest_ms]
            self.servable_ms += [float(live_since_ms - ingest_ms) for ingest_ms in manifest.ingest_ms]
        self._answered_deep(manifests, appended_ms)
        self.version = version
        self.versions.append(version)

    def _answered_deep(self, manifests: Sequence[Manifest], appended_ms: int) -> None:
        """The first of these, whose version answered, has a deep part of its own age or an older one."""
        upto = manifests[0].deep_version
        self._deep_waits += manifests if upto else []  # else there is none, or nobody says
        for manifest in self._deep_waits:
            if manifest.version <= upto:
                self.served_deep_ms += [float(appended_ms - ingest_ms) for ingest_ms in manifest.ingest_ms]
        self._deep_waits = [manifest for manifest in self._deep_waits if manifest.version > upto]
