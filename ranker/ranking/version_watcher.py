"""Serves the head, or the version that a person pinned: builds it beside the live one, validates it, swaps it in."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ranker import metrics
from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.freshness import FreshnessTracker, Learned
from ranker.retrieval.sweep import PoolBuilder
from ranker.retrieval.vector_indexer import VectorIndexer
from ranker.retrieval.vector_search import VectorSearch
from ranker.rules.rulebook import Rulebook
from ranker.versions.model import Version
from ranker.versions.version_loader import VersionLoader, VersionProvider
from stream.features.page_features import Catalogue
from stream.runtime.errors import BadSnapshot, SnapshotError, StoreUnavailable
from stream.snapshots.manifest import UNDECIDED, Head, Manifest
from stream.snapshots.store import SnapshotStore
from stream.snapshots.version_files import VersionFiles

POLL_S: Final = 0.05
RETRY_S: Final = (0.2, 0.5, 1.0, 2.0)
REJECTED_RETRY_S: Final = 30.0  # a rejected version may have lacked a blob that the store has again
SKIPPED_MAX: Final = 64
SAVE_EVERY_S: Final = 10.0
FIRST_SAVE_S: Final = 1.0  # while nothing is saved yet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedVersion:
    """The live version, the catalogue in its columns, its spec's rules, since when it is live (wall clock), and the
    search of its items' vectors."""

    version: Version
    catalogue: Catalogue
    rulebook: Rulebook
    since_ms: int
    nearest: VectorSearch | None = None


class VersionWatcher:
    """Keeps `served` at the store's head, or at the pinned version. `step` checks once; `run` repeats it until stopped.

    A version that fails validation is rejected: reported, counted, and not retried while the head stays.
    A store that is down changes nothing; neither does one that was wiped: a pin lasts until a person decides
    again, and the live version never becomes older, by the log offset it has learned, unless one is pinned.
    `files` save the live version for a start without a store. `loader` builds versions; by default this process does.
    """

    def __init__(
        self,
        store: SnapshotStore,
        model: str,
        cache: EntityCache,
        now_ms: Callable[[], int],
        files: VersionFiles | None = None,
        loader: VersionProvider | None = None,
    ) -> None:
        self.served: ServedVersion | None = None
        self.pool_builder, self.vector_indexer = PoolBuilder(), VectorIndexer()
        self.freshness = FreshnessTracker()
        self.rejection = ""  # why the last version was rejected
        self.checked = threading.Event()  # set by `run` after its first check, whatever it found
        self._store, self._cache, self._now_ms = store, cache, now_ms
        self._model = model
        self._loader = loader or VersionLoader(store, model)
        self._rejected_head: Head | None = None
        self._rejected_s = 0.0
        self._older: tuple[Head, int] | None = None  # a head found to be older than this live version
        self._files = files
        self._decision = self._saved_decision = UNDECIDED  # the latest one read, whatever the store knows now
        self._saved_version = 0

    def restore(self) -> None:
        """Serve the locally saved version until the store answers. One that isn't valid is skipped."""
        if self._files is None:
            return
        try:
            self._decision = self._saved_decision = self._files.decision()
        except (BadSnapshot, OSError) as error:
            log.error("whether a version is pinned is unknown until the store answers: %s", error)
        try:
            manifest = self._files.load()
            if manifest is None:
                return
            self._swap(VersionLoader(self._files, self._model).load(manifest.version), None)
        except Exception as error:  # whatever the folder has, a ranker must start
            expected = isinstance(error, BadSnapshot | OSError)
            log.error("the version saved in %s isn't served: %s", self._files.folder, error, exc_info=not expected)
            return
        self._saved_version = manifest.version
        log.info("version %d is served from %s until the store answers", manifest.version, self._files.folder)

    def items_loaded(self) -> None:
        """Sweep all items now that they are cached, before the first request."""
        version, catalogue = (self.served.version, self.served.catalogue) if self.served else (None, None)
        self.pool_builder.rebuild(version, self._cache.columns, catalogue)

    def save_live(self) -> None:
        """Save the live version and the latest decision to `files`, when they have changed."""
        served, decision = self.served, self._decision
        if self._files is None or served is None:
            return
        if (decision, served.version.number) != (self._saved_decision, self._saved_version):
            self._loader.save(self._files, served.version.manifest, decision)
            self._saved_decision, self._saved_version = decision, served.version.number

    def run_saver(self, stop: threading.Event) -> None:
        """`save_live` periodically until `stop` is set; in its own thread, so that swaps don't wait for the disk."""
        logged, pause_s = "", FIRST_SAVE_S
        while not stop.wait(pause_s):
            try:
                self.save_live()
                logged = ""
            except (SnapshotError, OSError) as error:
                if str(error) != logged:
                    log.warning("the live version isn't saved for a start without the store: %s", error)
                logged = str(error)
            pause_s = SAVE_EVERY_S if self._saved_version else FIRST_SAVE_S

    def run(self, stop: threading.Event) -> None:
        """`step` until `stop` is set; in a thread of its own."""
        failures = 0
        while not stop.is_set():
            try:
                self.step()
                if failures:
                    log.info("the snapshot store answers again")
                failures = 0
                self.checked.set()
                self._store.wait(POLL_S)
            except SnapshotError as error:
                if stop.is_set():  # the builder ends with the ranker
                    return
                if not failures:
                    log.warning("%s; the live version stays", error)
                self.checked.set()
                stop.wait(RETRY_S[min(failures, len(RETRY_S) - 1)])
                failures += 1

    def step(self) -> bool:
        """Read the head; swap when it names a newer version that passes validation. Raises SnapshotError."""
        self.freshness.observe()
        served = self.served
        try:
            head = self._target()
        except SnapshotError:
            self._refresh(served)  # items arrive while the store is unavailable, too
            raise
        if head is None or not self._should_load(head, served):
            self._refresh(served)
            return False
        started_s = time.monotonic()
        try:
            version = self._loader.load(head.version, served.version if served else None)
            metrics.BUILD.observe(time.monotonic() - started_s)
            self._swap(version, served)
        except StoreUnavailable:
            raise
        except BadSnapshot as error:
            self._reject(head, str(error))
            return False
        except Exception as error:  # whatever a version contains, the live one stays
            log.exception("version %d breaks the ranker", head.version)
            self._reject(head, f"it breaks the ranker, whose log says where ({error!r:.200})")
            return False
        return True

    def _target(self) -> Head | None:
        """The pinned version, else the head; None when the store has neither."""
        decision = self._store.decision()
        if decision.number > self._decision.number:
            pinned, before = decision.version, self._decision.version
            if pinned != before:
                log.warning("version %d is pinned" if pinned else "version %d is no longer pinned", pinned or before)
            self._decision = decision
        return Head(self._decision.version, 0) if self._decision.version else self._store.head()

    def _is_older(self, head: Head, live: Manifest) -> bool:
        """Whether the head has learned less of the log than `live`. Version numbers compare within one learner only."""
        older = (head, live.version) == self._older
        if not older and (head.token != live.token or head.version < live.version):
            try:
                manifest = self._store.manifest(head.version)
            except BadSnapshot:
                return False  # the load rejects it with its own reason
            learned, learned_live = ((one.position, one.version) for one in (manifest, live))
            older = learned < learned_live
            if older:
                known = self._older is not None and (self._older[0].token, self._older[1]) == (head.token, live.version)
                self._older = head, live.version
                self.rejection = (
                    f"the head, version {head.version}, has learned up to offset {learned[0][1]} of examples, version "
                    f"{live.version} up to {learned_live[0][1]}; the newer one stays live, unless version "
                    f"{head.version} is pinned"
                )
                log.log(
                    logging.DEBUG if known else logging.WARNING, self.rejection
                )  # many may follow until it catches up
        metrics.HEAD_IS_OLDER.labels(self._model).set(older)
        return older

    def _should_load(self, head: Head, served: ServedVersion | None) -> bool:
        if head == self._rejected_head and time.monotonic() - self._rejected_s < REJECTED_RETRY_S:
            return False
        if served is None:
            return True
        live = served.version.manifest
        if head.version == live.version and head.token in (0, live.token):
            return False
        return bool(self._decision.version) or not self._is_older(head, live)

    def _reject(self, head: Head, reason: str) -> None:
        self.rejection = reason
        self._rejected_head, self._rejected_s = head, time.monotonic()
        metrics.REJECTED_VERSIONS.inc()
        serving = f"version {self.served.version.number} stays live" if self.served else "nothing is live yet"
        message = f"version {head.version} is rejected: {reason}; {serving}"
        log.error(message)
        try:
            self._store.report(message)
        except SnapshotError as error:
            log.info("the rejection isn't published on the notices: %s", error)

    def _swap(self, version: Version, old: ServedVersion | None) -> None:
        newer = old is not None and version.number > old.version.number
        learned = self._first_learned(version.manifest, old.version) if old and newer else []
        catalogue = self._cache.catalogue(version.plan.layout)
        self._cache.set_shown(version.shown)
        if old is None:
            self.pool_builder.rebuild(version, self._cache.columns, catalogue)
        now_ms, nearest = self._now_ms(), self._nearest(version)
        self.served = ServedVersion(version, catalogue, self._rulebook(version, catalogue, old), now_ms, nearest)
        metrics.SWAPS.inc()
        metrics.VERSION.labels(self._model).set(version.number)
        self.freshness.swapped_in(version.number, version.manifest.deep_version, learned, now_ms)
        self.pool_builder.refresh(version, self._cache.columns, catalogue)

    def _first_learned(self, manifest: Manifest, live: Version) -> list[Learned]:
        """Installs that this swap makes servable, by the version that learned them, skipped versions among them."""
        found = [(manifest.version, manifest.ingest_ms)]
        try:
            for _ in range(SKIPPED_MAX):
                if manifest.parent <= live.number:
                    break
                manifest = self._store.manifest(manifest.parent)
                found.append((manifest.version, manifest.ingest_ms))
        except SnapshotError as error:
            log.info("installs of skipped versions aren't counted in servable and freshness metrics: %s", error)
        return found[::-1]

    def _refresh(self, served: ServedVersion | None) -> None:
        """Include items that have arrived, and an index that was finished, since the swap."""
        if served is None:
            self.pool_builder.refresh(None, self._cache.columns)
            return
        catalogue = self._cache.catalogue(served.version.plan.layout)
        self.pool_builder.refresh(served.version, self._cache.columns, catalogue)
        nearest = self._nearest(served.version)
        if catalogue is not served.catalogue or nearest is not served.nearest:
            rulebook = self._rulebook(served.version, catalogue, served)
            self.served = ServedVersion(served.version, catalogue, rulebook, served.since_ms, nearest)

    def _nearest(self, version: Version) -> VectorSearch | None:
        """The search of this version's vectors, by the newest index."""
        return self.vector_indexer.search_of(version.learned_items.view) if version.learned_items else None

    def _rulebook(self, version: Version, catalogue: Catalogue, old: ServedVersion | None) -> Rulebook:
        """The rules of this version's spec; those of `old` when they are the same."""
        if old is not None and old.version.plan is version.plan and old.catalogue is catalogue:
            return old.rulebook
        return Rulebook(version.plan.spec, catalogue, self._cache.items)
