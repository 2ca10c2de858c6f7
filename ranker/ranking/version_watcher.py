"""Following the head, or the version that a person pinned: built beside the live one, tried out, then swapped in."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ranker import metrics
from ranker.ranking.entity_cache import Shelf
from ranker.ranking.freshness import Freshness, Learned
from ranker.ranking.retrieve import Popular
from ranker.versions.model import Version
from ranker.versions.version_loader import Loader, Loads
from stream.features.page_features import Catalogue
from stream.runtime.errors import BadSnapshot, SnapshotError, StoreUnavailable
from stream.snapshots.manifest import UNDECIDED, Head, Manifest
from stream.snapshots.store import SnapshotStore
from stream.snapshots.version_files import VersionFiles

POLL_S: Final = 0.05
RETRY_S: Final = (0.2, 0.5, 1.0, 2.0)
TRY_AGAIN_S: Final = 30.0  # a refused version may have been refused for what its store lost meanwhile
SKIPPED_MAX: Final = 64
KEEP_EVERY_S: Final = 10.0
FIRST_KEEP_S: Final = 1.0  # while nothing is kept yet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """What is live: a version, the catalogue in its columns, and since when (wall clock)."""

    version: Version
    catalogue: Catalogue
    since_ms: int


class Follower:
    """Keeps `served` at the store's head, or at what is pinned. `step` looks once; `run` does so until it is stopped.

    A version that fails its dry run is refused: told, counted, and not looked at again while the head stays.
    A store that is down changes nothing; one that was wiped, neither: what was pinned stays so until a person
    decides anew, and the live version never becomes older, by what of the log it has learned, unless one is pinned.
    `files` keep the live version for a start without a store. `loader` loads what the store has; without one, this
    process does.
    """

    def __init__(
        self,
        store: SnapshotStore,
        model: str,
        shelf: Shelf,
        now_ms: Callable[[], int],
        files: VersionFiles | None = None,
        loader: Loads | None = None,
    ) -> None:
        self.served: Served | None = None
        self.popular = Popular()
        self.freshness = Freshness()
        self.refused = ""  # the last reason
        self.looked = threading.Event()  # set by `run` when it has looked once, whatever it found
        self._store, self._shelf, self._now_ms = store, shelf, now_ms
        self._model = model
        self._loader = loader or Loader(store, model)
        self._refused_head: Head | None = None
        self._refused_s = 0.0
        self._older: tuple[Head, int] | None = None  # a head that was seen to be older than this live version
        self._files = files
        self._decision = self._kept_decision = UNDECIDED  # the latest that was seen, whatever the store knows now
        self._kept = 0

    def restore(self) -> None:
        """Serve the version that was kept here, until the store says more. What can't be trusted is refused."""
        if self._files is None:
            return
        try:
            self._decision = self._kept_decision = self._files.decision()
        except (BadSnapshot, OSError) as bad:
            log.error("whether a version was pinned isn't known until the store answers: %s", bad)
        try:
            manifest = self._files.load()
            if manifest is None:
                return
            self._swap(Loader(self._files, self._model).load(manifest.version), None)
        except Exception as bad:  # whatever lies there, a ranker must start
            expected = isinstance(bad, BadSnapshot | OSError)
            log.error("the version that is kept in %s isn't served: %s", self._files.folder, bad, exc_info=not expected)
            return
        self._kept = manifest.version
        log.info("version %d is served from %s until the store answers", manifest.version, self._files.folder)

    def items_read(self) -> None:
        """All items there were at the start are on the shelf: the first request finds them, not those of a step ago."""
        served = self.served
        if served is None:
            self._shelf.by_popularity(max_age_s=0.0)
        else:
            self.popular.complete(served.version, self._shelf, self._shelf.catalogue(served.version.plan.layout))

    def keep(self) -> None:
        """Write the live version and the latest decision into the folder, when they're others than those there."""
        served, decision = self.served, self._decision
        if self._files is None or served is None:
            return
        if decision != self._kept_decision:
            self._files.save_decision(decision)
            self._kept_decision = decision
        if served.version.number != self._kept:
            self._files.save(self._store, served.version.manifest)
            self._kept = served.version.number

    def run_keeper(self, stop: threading.Event) -> None:
        """`keep` now and then, in a thread of its own: swaps don't wait for the disk."""
        said, pause_s = "", FIRST_KEEP_S
        while not stop.wait(pause_s):
            try:
                self.keep()
                said = ""
            except (SnapshotError, OSError) as bad:
                if str(bad) != said:
                    log.warning("the live version isn't kept for a start without the store: %s", bad)
                said = str(bad)
            pause_s = KEEP_EVERY_S if self._kept else FIRST_KEEP_S

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set; in a thread of its own."""
        failures = 0
        while not stop.is_set():
            try:
                self.step()
                if failures:
                    log.info("the snapshot store answers again")
                failures = 0
                self.looked.set()
                self._store.wait(POLL_S)
            except SnapshotError as bad:
                if not failures:
                    log.warning("%s; what is live serves on", bad)
                self.looked.set()
                stop.wait(RETRY_S[min(failures, len(RETRY_S) - 1)])
                failures += 1

    def step(self) -> bool:
        """Look at the head; swap when it names a newer version that passes. Raises SnapshotError."""
        served = self.served
        try:
            head = self._wish()
        except SnapshotError:
            self._refresh(served)  # items come while the store is away, too
            raise
        if head is None or not self._wanted(head, served):
            self._refresh(served)
            return False
        started_s = time.monotonic()
        try:
            version = self._loader.load(head.version, served.version if served else None)
            metrics.BUILD.observe(time.monotonic() - started_s)
            self._swap(version, served)
        except StoreUnavailable:
            raise
        except BadSnapshot as bad:
            self._refuse(head, str(bad))
            return False
        except Exception as bad:  # whatever a version holds, what is live serves on
            log.exception("version %d breaks the ranker", head.version)
            self._refuse(head, f"it breaks the ranker, whose log says where ({bad!r:.200})")
            return False
        return True

    def _wish(self) -> Head | None:
        """What should be served: a pinned version, else the head; None when the store knows neither."""
        decision = self._store.decision()
        if decision.number > self._decision.number:
            pinned, before = decision.version, self._decision.version
            if pinned != before:
                said = "version %d is pinned" if pinned else "nothing is pinned any more, not %d"
                log.warning(said, pinned or before)
            self._decision = decision
        return Head(self._decision.version, 0) if self._decision.version else self._store.head()

    def _is_older(self, head: Head, live: Manifest) -> bool:
        """Has the head learned less of the log than what is live? Numbers tell among versions of one learner only."""
        older = (head, live.version) == self._older
        if not older and (head.token != live.token or head.version < live.version):
            try:
                manifest = self._store.manifest(head.version)
            except BadSnapshot:
                return False  # to be refused with its own reason
            learned, lives = ((sum(one.offset.values()), one.version) for one in (manifest, live))
            older = learned < lives
            if older:
                known = self._older is not None and (self._older[0].token, self._older[1]) == (head.token, live.version)
                self._older = head, live.version
                self.refused = (
                    f"the head, version {head.version}, has learned up to offset {learned[0]} of examples, version "
                    f"{live.version} up to {lives[0]}; the newer one serves on, unless version {head.version} is pinned"
                )
                log.log(logging.DEBUG if known else logging.WARNING, self.refused)  # it may take many to catch up
        metrics.HEAD_IS_OLDER.set(older)
        return older

    def _wanted(self, head: Head, served: Served | None) -> bool:
        if head == self._refused_head and time.monotonic() - self._refused_s < TRY_AGAIN_S:
            return False
        if served is None:
            return True
        live = served.version.manifest
        if head.version == live.version and head.token in (0, live.token):
            return False
        return bool(self._decision.version) or not self._is_older(head, live)

    def _refuse(self, head: Head, why: str) -> None:
        self.refused = why
        self._refused_head, self._refused_s = head, time.monotonic()
        metrics.REJECTED.inc()
        serving = f"version {self.served.version.number} serves on" if self.served else "nothing is live yet"
        said = f"version {head.version} is refused: {why}; {serving}"
        log.error(said)
        try:
            self._store.report(said)
        except SnapshotError as away:
            log.info("the refusal isn't told on the notices: %s", away)

    def _swap(self, version: Version, old: Served | None) -> None:
        newer = old is not None and version.number > old.version.number
        learned = self._first_learned(version.manifest, old.version) if old and newer else []
        catalogue = self._shelf.catalogue(version.plan.layout)
        self._shelf.show(version.shown)
        if old is None:
            self.popular.refresh(version, self._shelf, catalogue)
        now_ms = self._now_ms()
        self.served = Served(version, catalogue, now_ms)
        metrics.SWAPS.inc()
        metrics.VERSION.set(version.number)
        self.freshness.servable(version.number, version.manifest.deep_version, learned, now_ms)
        self.popular.refresh(version, self._shelf, catalogue)

    def _first_learned(self, manifest: Manifest, live: Version) -> list[Learned]:
        """What became servable by this swap, by the version that learned it: by those that were skipped, too."""
        found = [(manifest.version, manifest.ingest_ms)]
        try:
            for _ in range(SKIPPED_MAX):
                if manifest.parent <= live.number:
                    break
                manifest = self._store.manifest(manifest.parent)
                found.append((manifest.version, manifest.ingest_ms))
        except SnapshotError as bad:
            log.info("installs of skipped versions aren't counted in servable_ms and freshness_ms: %s", bad)
        return found[::-1]

    def _refresh(self, served: Served | None) -> None:
        """Items may have come since the swap."""
        if served is None:
            return
        catalogue = self._shelf.catalogue(served.version.plan.layout)
        self.popular.refresh(served.version, self._shelf, catalogue)
        if catalogue is not served.catalogue:
            self.served = Served(served.version, catalogue, served.since_ms)
