"""Freshness: from an install's append to the log until a reply by a version that has learned it.

A version's wide weights and statistics have learned it first; its deep part has once a deep version at or after that
one is served, which the manifest says.
"""

from collections.abc import Sequence

import numpy as np

from stream.runtime.errors import BadSnapshot
from stream.snapshots.manifest import Manifest
from stream.snapshots.store import SnapshotStore


def manifests_between(store: SnapshotStore, after: int, upto: int) -> list[Manifest]:
    """The manifests of versions in (after, upto], newest first, along their parents. Stops where one was collected.

    Raises BadSnapshot when `upto` itself isn't there, StoreUnavailable.
    """
    if upto <= after:
        return []
    manifests = [store.manifest(upto)]
    while manifests[-1].parent > after:
        try:
            manifests.append(store.manifest(manifests[-1].parent))
        except BadSnapshot:
            break
    return manifests


def percentile(values: Sequence[float], p: float) -> float | None:
    """The exact p-th percentile; None of nothing."""
    return float(np.percentile(np.asarray(values, np.float64), p)) if len(values) else None


class DemoFreshness:
    """Collects the delays of installs, in ms, when a version that has learned them first answers.

    An install that a skipped version learned counts with the first version after it that answers.
    """

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store
        self.version = 0
        self.served_ms: list[float] = []
        self.served_deep_ms: list[float] = []  # by the deep part, too
        self.servable_ms: list[float] = []
        self._pending_deep: list[Manifest] = []  # whose installs no served deep part has learned

    def add_reply(self, version: int, replied_ms: int, live_since_ms: int) -> None:
        """A reply by `version` came at `replied_ms`; its ranker swapped the version in at `live_since_ms`."""
        if version <= self.version:
            return
        manifests = manifests_between(self._store, self.version, version)
        self.served_ms += _delays(manifests, replied_ms)
        self.servable_ms += _delays(manifests, live_since_ms)
        deep_version = manifests[0].deep_version
        self._pending_deep += manifests if deep_version else []  # else there is none, or the manifest doesn't say
        self.served_deep_ms += _delays([one for one in self._pending_deep if one.version <= deep_version], replied_ms)
        self._pending_deep = [one for one in self._pending_deep if one.version > deep_version]
        self.version = version


def _delays(manifests: Sequence[Manifest], until_ms: int) -> list[float]:
    """From the append of each install that is first learned in one of these."""
    return [float(until_ms - ingest_ms) for manifest in manifests for ingest_ms in manifest.ingest_ms]
