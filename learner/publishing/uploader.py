"""The publisher's I/O thread: only it talks to the store, so learning never waits for the store.

Before it uploads it must acquire ownership of the model: once its learner has reached the head's offset, and not
before, it takes a fencing token. So a learner that is still catching up fences nobody, and a fenced one can't publish.
"""

import threading
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple

import structlog

from learner.publishing.pins import PinBackup
from learner.publishing.retention import Retention
from learner.publishing.version_allocator import HighWater, VersionAllocator
from learner.publishing.version_builder import BuiltVersion
from learner.training import metrics
from stream.runtime.errors import BadSnapshot, Fenced, SnapshotError
from stream.snapshots.manifest import Head
from stream.snapshots.store import SnapshotStore

BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0)
ACQUIRE_EVERY_S = 0.2  # how often ownership is tried
CHECK_EVERY_S = 1.0  # how often the store is checked for lost versions, at least
RETAIN_EVERY = 64  # versions
log = structlog.get_logger("publisher")


@dataclass(frozen=True)
class PublishConfig:
    """Cadences, ms; versions that the store keeps; where rejected versions, pins and version numbers are recorded."""

    every_ms: int
    deep_every_ms: int
    keep_versions: int
    quarantine: Path
    pins: Path
    numbers: Path


class StoreState(NamedTuple):
    """The store's head, its newest version, and up to where the head has learned (`Manifest.position`)."""

    head: Head | None
    newest_version: int
    position: tuple[int, int]


class Uploader(threading.Thread):
    """Uploads versions, one at a time. The learner's thread reads the attributes without an underscore."""

    def __init__(
        self, model: str, store: SnapshotStore, config: PublishConfig, used: HighWater, log_ms: int = 0
    ) -> None:
        super().__init__(name="publisher", daemon=True)
        self._model, self._store, self._config, self._used = model, store, config, used
        self._log_ms = log_ms
        self._pins: PinBackup | None = None
        self._allocator = VersionAllocator(config.numbers)
        self._check_every_s = min(CHECK_EVERY_S, config.every_ms / 1_000)
        self._checked_s = 0.0
        self._warned: dict[str, str] = {}  # the last warning on each subject
        self._version: BuiltVersion | None = None  # being uploaded
        self._wake = threading.Condition()
        self._stopping = False
        self.retention = Retention(store, config.keep_versions)
        self._since_retained = RETAIN_EVERY - 1  # retain at once: a predecessor may have been killed too early
        self._base_requested_at = 0  # what had been published when a base was last requested because that was lost
        self.offset = 0  # the learner's next offset, set by its thread
        self.token = 0  # 0: none yet
        self.owns_model = False  # from then on it accepts versions
        self.published = 0  # newest version in the store
        self.head_version = 0  # when a base was last requested; 0: none
        self.newest_version = 0  # when a base was last requested: the next version must be greater
        self.needs_base = False
        self.invalid = ""  # why a version couldn't be packed
        self.fenced: Fenced | None = None

    @property
    def busy(self) -> bool:
        """Whether an upload is running."""
        return self._version is not None

    def upload(self, version: BuiltVersion) -> None:
        """Hand over a version; the caller has checked that it isn't busy."""
        with self._wake:
            assert self.owns_model, "ownership first"
            assert self._version is None, "one version at a time"
            self._version = version
            self._wake.notify()

    def run(self) -> None:
        """Until `stop`, or until another learner owns the model."""
        while not self.fenced:
            if not self.owns_model:
                self._acquire()
            with self._wake:
                if self._version is None:
                    if self._stopping:
                        return
                    self._wake.wait(self._check_every_s if self.owns_model else ACQUIRE_EVERY_S)
                version = self._version
            if version is not None:
                self._upload(version)
            if self.owns_model and time.monotonic() - self._checked_s >= self._check_every_s:
                self._checked_s = time.monotonic()
                self._check_store()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop; a running upload may finish within the timeout."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self.join(timeout_s)

    def _acquire(self) -> None:
        """Take ownership of the model, if its learner has caught up. Then a full base is next."""
        try:
            state = self._store_state()
            if self._position >= state.position and not self.token:
                self.token = self._store.take_token(max(self._used.token, self._allocator.read().token))
                state = self._store_state()  # the previous owner may have published until it was fenced
        except SnapshotError as error:
            self._warn_once("acquire", "learning, but nothing is published until the store is available", error)
            return
        if self._warned.pop("acquire", ""):
            log.info("the store is available")
        if self._position < state.position:
            self._warn_behind(state)
            return
        self.head_version = state.head.version if state.head else 0
        self.newest_version = max(state.newest_version, self._used.version, self._allocator.read().version)
        self.needs_base = self.owns_model = True

    @property
    def _position(self) -> tuple[int, int]:
        """Up to where the learner has learned."""
        return self._log_ms, self.offset

    def _warn_behind(self, state: StoreState) -> None:
        """Once: catching up may take long, or the learner may stay behind permanently."""
        if state.head and "behind" not in self._warned:
            self._warned["behind"] = "warned"
            log.warning(
                "learning, but nothing is published before as much was learned as the live version has; "
                "if `examples` was recreated since: `thalweg restore --rebase`, or another name for the model",
                live=state.head.version, learned=self._position[1], wanted=state.position[1],
            )  # fmt: skip

    def _store_state(self) -> StoreState:
        """Read the store's state; a head or a manifest that can't be read counts as lost."""
        head, position = self._head(), (0, 0)
        versions = self._store.versions()
        try:
            position = self._store.manifest(head.version).position if head else position
        except BadSnapshot as error:
            self._warn_once("live", "the live version can't be read: a full base will replace it", error)
        return StoreState(head, max([head.version if head else 0, *versions]), position)

    def _head(self) -> Head | None:
        """The head; None when there is none, or it can't be read."""
        try:
            return self._store.head()
        except BadSnapshot as error:
            self._warn_once("live", "the head can't be read: a full base will replace it", error)
            return None

    def _upload(self, version: BuiltVersion) -> None:
        try:
            self._upload_with_retries(version)
        except Fenced as error:
            self.fenced = error
        except BadSnapshot as error:
            log.warning("a version couldn't be published; a full base is next", reason=str(error))
            self._request_base()
        finally:
            self._version = None

    def _upload_with_retries(self, version: BuiltVersion) -> None:
        try:
            blobs, manifest = version.blobs, version.manifest
        except BadSnapshot as error:  # such as a weight that isn't finite
            self.invalid = str(error)
            raise
        self._allocator.reserve(manifest.version, manifest.token)
        for attempt in count():
            try:
                if attempt:  # it may be full of old versions
                    self.retention.apply()
                self._store.put_blobs(blobs, renew=version.full)
                self._store.publish(manifest)
                self.published = manifest.version
                if attempt:
                    log.info("the store is available again", version=self.published)
                self._since_retained += 1
                if self._since_retained == RETAIN_EVERY:
                    self._since_retained = 0
                    self.retention.apply()
                return
            except (Fenced, BadSnapshot):
                raise
            except SnapshotError as error:  # unavailable, full, or access denied: people can fix each meanwhile
                if attempt == 0:
                    log.warning("can't publish; trying again", reason=str(error))
                if self._stopping:
                    return
                with self._wake:
                    self._wake.wait(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])

    def _request_base(self) -> None:
        """The next version must be a full base that follows whatever head the store has now."""
        try:
            head, versions = self._head(), self._store.versions()
        except SnapshotError as error:
            log.warning("can't read the head; the next version will be checked against it", reason=str(error))
        else:
            self.head_version = head.version if head else 0
            self.newest_version = max([self.head_version, *versions])
        self.needs_base = True

    def _check_store(self) -> None:
        """Find out whether the store was wiped or replaced by an older copy, or another learner owns it; sync pins."""
        try:
            head = self._head()
        except SnapshotError as error:
            self._warn_once("check", "can't check the store for lost versions", error)
            return
        self._warned.pop("check", "")
        if head and head.token > self.token:
            self.fenced = Fenced(
                f"another learner owns {self._model}: version {head.version} is its own, under token {head.token}, and "
                f"this one has {self.token}; end one of the two, or give one a model name of its own"
            )
            return
        lost = head is None or head.version < self.published or head.token < self.token
        if lost and self.published != self._base_requested_at and not self.needs_base:
            self._base_requested_at = self.published  # once: the learner may be building it by now
            log.warning("the store has lost what was published; a full base is next", published=self.published)
            self._request_base()
        self._sync_pins()
        self._measure_memory()

    def _sync_pins(self) -> None:
        """Errors are logged; publishing goes on."""
        try:
            if self._pins is None:
                self._pins = PinBackup(self._store, self._config.pins)
            self._pins.sync()
        except (SnapshotError, OSError) as error:
            self._warn_once("pins", "can't back up or restore pins", error)
        else:
            self._warned.pop("pins", "")

    def _measure_memory(self) -> None:
        """Export the memory of the store's server; a login may lack the right to ask."""
        try:
            memory = self._store.memory()
        except SnapshotError as error:
            self._warn_once("memory", "can't ask the store how full it is", error)
        else:
            self._warned.pop("memory", "")
            metrics.REDIS_USED.set(memory.used)
            metrics.REDIS_LIMIT.set(memory.limit)

    def _warn_once(self, subject: str, what: str, why: Exception) -> None:
        """Once per reason, until the subject has recovered."""
        if self._warned.get(subject) != str(why):
            log.warning(what, reason=str(why))
        self._warned[subject] = str(why)
