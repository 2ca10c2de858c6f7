"""The I/O thread of a publisher: it owns all talk with the store, so that learning never waits for it.

Before it may carry anything it enters: once its learner has reached what the head has learned, and not before, it
takes a fencing token. So a learner that has yet to catch up ends nobody, and one that was overtaken can't publish.
"""

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from learner.publishing.delta_chain import Cut
from learner.publishing.pins import PinKeeper
from learner.publishing.version_allocator import Numbers, Used
from stream.runtime.errors import BadSnapshot, Fenced, SnapshotError
from stream.snapshots.manifest import Head
from stream.snapshots.store import SnapshotStore

BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0)
ASK_S = 0.2  # how often the store is asked where its head is, before anything may be published
WATCH_S = 1.0  # how often the store is asked whether it has lost something, at least
RETAIN_EVERY = 64
log = structlog.get_logger("publisher")


@dataclass(frozen=True)
class Cadence:
    """How often what is published, ms.

    `quarantine` takes what the gate refused, `pins` the pinned version, `numbers` which versions there have been.
    """

    every_ms: int
    deep_every_ms: int
    keep_versions: int
    quarantine: Path
    pins: Path
    numbers: Path


@dataclass(frozen=True)
class _Live:
    """The head, the newest version that is kept, and how far in `examples` the head has learned."""

    head: Head | None
    newest: int
    reached: int


class Carrier(threading.Thread):
    """Takes cuts to the store, one at a time. What has no underscore is read by the learner's thread."""

    def __init__(self, model: str, store: SnapshotStore, cadence: Cadence, known: Used) -> None:
        super().__init__(name="publisher", daemon=True)
        self._model, self._store, self._cadence, self._known = model, store, cadence, known
        self._pins: PinKeeper | None = None
        self._numbers = Numbers(cadence.numbers)
        self._watch_s = min(WATCH_S, cadence.every_ms / 1_000)
        self._watched_s = 0.0
        self._said: dict[str, str] = {}  # the last complaint about each thing
        self._cut: Cut | None = None
        self._wake = threading.Condition()
        self._stopping = False
        self._since_retained = RETAIN_EVERY - 1  # at once: whoever was here before may have been killed too early
        self._asked_for = 0  # what had been published when a base was last asked for because that was lost
        self.offset = 0  # how far the learner is; its thread says so
        self.token = 0  # 0: none was taken yet
        self.entered = False  # from then on it takes cuts
        self.published = 0  # newest version that is in the store
        self.live = 0  # the head when a base was last asked for; 0: none
        self.newest = 0  # likewise the newest version that the next one must not be taken for
        self.failures = 0
        self.wants_base = False
        self.unfit = ""  # why a version couldn't even be packed
        self.fenced: Fenced | None = None

    @property
    def busy(self) -> bool:
        """Is a version still on its way?"""
        return self._cut is not None

    def carry(self, cut: Cut) -> None:
        """Take this version; the caller has seen that nothing is on its way."""
        with self._wake:
            assert self.entered, "entered first"
            assert self._cut is None, "one version at a time"
            self._cut = cut
            self._wake.notify()

    def run(self) -> None:
        """Until `stop`, or until another learner owns the model."""
        while not self.fenced:
            if not self.entered:
                self._enter()
            with self._wake:
                if self._cut is None:
                    if self._stopping:
                        return
                    self._wake.wait(self._watch_s if self.entered else ASK_S)
                cut = self._cut
            if cut is not None:
                self._deliver(cut)
            if self.entered and time.monotonic() - self._watched_s >= self._watch_s:
                self._watched_s = time.monotonic()
                self._watch()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Let the version on its way arrive, if it can in time."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self.join(timeout_s)

    def _enter(self) -> None:
        """Take the model over, if its learner has caught up. Then a full base is next."""
        try:
            live = self._look()
            if self.offset >= live.reached and not self.token:
                self.token = self._store.take_token(max(self._known.token, self._numbers.used().token))
                live = self._look()  # whoever was there can't publish any more: what it has published until now counts
        except SnapshotError as bad:
            self._tell("enter", "learning, but nothing is published until the store lets us", bad)
            return
        if self._said.pop("enter", ""):
            log.info("the store answers")
        if self.offset < live.reached:
            self._say_behind(live)
            return
        self.live = live.head.version if live.head else 0
        self.newest = max(live.newest, self._known.version, self._numbers.used().version)
        self.wants_base = self.entered = True

    def _say_behind(self, live: _Live) -> None:
        """Once: whoever waits for versions may wait for long, or for ever."""
        if live.head and "behind" not in self._said:
            self._said["behind"] = "told"
            log.warning(
                "learning, but nothing is published before as much was learned as the live version has; "
                "if `examples` was made anew since, give the model another name",
                live=live.head.version, learned=self.offset, wanted=live.reached,
            )  # fmt: skip

    def _look(self) -> _Live:
        """What is live. A head that can't be read counts as lost, and so does what it would say."""
        head, reached = self._head(), 0
        versions = self._store.versions()
        try:
            reached = self._store.manifest(head.version).offset.get(0, 0) if head else 0
        except BadSnapshot as bad:
            self._tell("live", "the live version can't be read: a full base will take its place", bad)
        return _Live(head, max([head.version if head else 0, *versions]), reached)

    def _head(self) -> Head | None:
        """The head; None when there's none, or none that makes sense."""
        try:
            return self._store.head()
        except BadSnapshot as bad:
            self._tell("live", "the head can't be read: a full base will take its place", bad)
            return None

    def _deliver(self, cut: Cut) -> None:
        try:
            self._try(cut)
        except Fenced as bad:
            self.fenced = bad
        except BadSnapshot as bad:
            log.warning("a version didn't get through; a full base is next", why=str(bad))
            self._ask_for_base()
        finally:
            self._cut = None

    def _try(self, cut: Cut) -> None:
        try:
            blobs, manifest = cut.blobs, cut.manifest
        except BadSnapshot as bad:  # such as a weight that isn't finite
            self.unfit = str(bad)
            raise
        self._numbers.use(manifest.version, manifest.token)
        attempt = 0
        while True:
            try:
                if attempt:  # it may be full of what is old
                    self._store.retain(self._cadence.keep_versions)
                self._store.put_blobs(blobs, renew=cut.full)
                self._store.publish(manifest)
                self.published = manifest.version
                if attempt:
                    log.info("the store is back", version=self.published)
                self._since_retained += 1
                if self._since_retained == RETAIN_EVERY:
                    self._since_retained = 0
                    self._store.retain(self._cadence.keep_versions)
                return
            except (Fenced, BadSnapshot):
                raise
            except SnapshotError as bad:  # away, full, or not letting us in: people can mend each without us
                self.failures += 1
                if attempt == 0:
                    log.warning("can't publish; trying again", why=str(bad))
                if self._stopping:
                    return
                with self._wake:
                    self._wake.wait(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
                attempt += 1

    def _ask_for_base(self) -> None:
        """The next version is to stand on its own, on top of whatever the store says is live."""
        try:
            head, versions = self._head(), self._store.versions()
        except SnapshotError as bad:
            log.warning("can't look at the head; the next version will tell", why=str(bad))
        else:
            self.live = head.version if head else 0
            self.newest = max([self.live, *versions])
        self.wants_base = True

    def _watch(self) -> None:
        """Was the store wiped, or replaced by an older copy? Does another learner own it? What does a person want?"""
        try:
            head = self._head()
        except SnapshotError as bad:
            self._tell("watch", "can't look after what was published", bad)
            return
        self._said.pop("watch", "")
        if head and head.token > self.token:
            self.fenced = Fenced(
                f"another learner owns {self._model}: version {head.version} is its own, under token {head.token}, and "
                f"this one has {self.token}; end one of the two, or give one a model name of its own"
            )
            return
        lost = head is None or head.version < self.published or head.token < self.token
        if lost and self.published != self._asked_for and not self.wants_base:
            self._asked_for = self.published  # once: the learner may be cutting it by now
            log.warning("the store has lost what was published; a full base is next", published=self.published)
            self._ask_for_base()
        self._look_after_pins()

    def _look_after_pins(self) -> None:
        """Whatever lies in their folder, publishing goes on."""
        try:
            if self._pins is None:
                self._pins = PinKeeper(self._store, self._cadence.pins)
            self._pins.look()
        except (SnapshotError, OSError) as bad:
            self._tell("pins", "can't look after what is pinned", bad)
        else:
            self._said.pop("pins", "")

    def _tell(self, of: str, what: str, why: Exception) -> None:
        """Once, until it's another reason or it was well meanwhile."""
        if self._said.get(of) != str(why):
            log.warning(what, why=str(why))
        self._said[of] = str(why)
