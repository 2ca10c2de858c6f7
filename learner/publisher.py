"""Publishing: gate, cut, and an I/O thread that takes each version to the store, so that learning never waits.

One version is on its way at a time. When the store doesn't answer, that version is tried again with
back-off while changes gather for the next; when the store was wiped or refuses, the next is a full base.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from learner.chain import Cut, Cutter
from learner.gate import quarantine, refusal
from learner.model import Model
from learner.numbers import Numbers
from learner.pins import PinKeeper
from stream.errors import BadSnapshot, Fenced, SnapshotError
from stream.settings import Settings
from stream.snapshot import SnapshotStore
from stream.spec import duration_ms

BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0)
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


class Carrier(threading.Thread):
    """Takes cuts to the store, one at a time. `outcome` is read by the learner's thread."""

    def __init__(self, store: SnapshotStore, cadence: Cadence, token: int) -> None:
        super().__init__(name="publisher", daemon=True)
        self._store, self._keep = store, cadence.keep_versions
        self._pins = PinKeeper(store, cadence.pins)
        self._numbers = Numbers(cadence.numbers)
        self._watch_s = min(WATCH_S, cadence.every_ms / 1_000)
        self._watched_s = 0.0
        self._said = ""  # why it could not be watched, the last time
        self.token = token
        self._cut: Cut | None = None
        self._wake = threading.Condition()
        self._stopping = False
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
            assert self._cut is None, "one version at a time"
            self._cut = cut
            self._wake.notify()

    def run(self) -> None:
        """Until `stop`."""
        while not self.fenced:
            with self._wake:
                if self._cut is None:
                    if self._stopping:
                        return
                    self._wake.wait(self._watch_s)
                cut = self._cut
            if cut is not None:
                self._deliver(cut)
            if time.monotonic() - self._watched_s >= self._watch_s:
                self._watched_s = time.monotonic()
                self._watch()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Let the version on its way arrive, if it can in time."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self.join(timeout_s)

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
                self._store.put_blobs(blobs, renew=cut.full)
                self._store.publish(manifest)
                self.published = manifest.version
                if attempt:
                    log.info("the store is back", version=self.published)
                if self.published % RETAIN_EVERY == 0:
                    self._store.retain(self._keep)
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
            head, versions = self._store.head(), self._store.versions()
        except SnapshotError as bad:
            log.warning("can't look at the head; the next version will tell", why=str(bad))
        else:
            self.live = head.version if head else 0
            self.newest = max([self.live, *versions])
        self.wants_base = True

    def _watch(self) -> None:
        """Was the store wiped, or replaced by an older copy? And what does a person want served?"""
        try:
            self._pins.look()
            head = self._store.head()
        except (SnapshotError, OSError) as bad:
            if str(bad) != self._said:
                log.warning("can't look after what was published", why=str(bad))
            self._said = str(bad)
            return
        self._said = ""
        if self.published and not self.wants_base and (head is None or head.version < self.published):
            log.warning("the store has lost what was published; a full base is next", published=self.published)
            self._ask_for_base()


class Publisher:
    """Decides when a version goes out. All of it runs in the learner's thread, but the carrier."""

    def __init__(
        self,
        model: Model,
        store: SnapshotStore,
        cadence: Cadence,
        now_ms: Callable[[], int],
        token: int,
        version: int,
        parent: int,
    ) -> None:
        self._model, self._cadence, self._now_ms = model, cadence, now_ms
        self._cutter = Cutter(model)
        self.version = version  # newest that was cut, or that may have been used
        self._parent = parent
        self.carrier = Carrier(store, cadence, token)
        self.carrier.start()
        self.refused = 0
        self._last_ms = self._last_deep_ms = 0
        self._last_examples = self._last_deep_examples = -1

    def maybe_publish(self, offset: int) -> bool:
        """Publish when it's time, something was learned and nothing is on its way. Raises Fenced.

        `offset`: the next one in `examples`.
        """
        carrier, now_ms = self.carrier, self._now_ms()
        if carrier.fenced:
            raise carrier.fenced
        assert carrier.is_alive(), "the publisher's thread has ended without a word"
        if not self._model.examples or carrier.busy or now_ms - self._last_ms < self._cadence.every_ms:
            return False
        if carrier.unfit:
            self._refuse(carrier.unfit)
            carrier.unfit = ""
        if carrier.wants_base:
            carrier.wants_base = False
            self._cutter.start_over()
            self._parent, self.version = carrier.live, max(self.version, carrier.newest)
        elif self._model.examples == self._last_examples and not self._deep_is_behind(now_ms):
            return False
        self._last_ms, self._last_examples = now_ms, self._model.examples
        if reason := refusal(self._model.spec.publish.gate, self._model.progress.window(), self._model.finite()):
            self._refuse(reason)
            return False
        deep = now_ms - self._last_deep_ms >= self._cadence.deep_every_ms
        metrics = self._model.progress.told()
        cut = self._cutter.cut(self.version + 1, self._parent, carrier.token, offset, now_ms, metrics, deep=deep)
        if deep:
            self._last_deep_ms, self._last_deep_examples = now_ms, self._model.examples
        self.version += 1
        self._parent = self.version
        carrier.carry(cut)
        return True

    def _deep_is_behind(self, now_ms: int) -> bool:
        """Is it time for the deep part, and has it learned since it went out?"""
        due = now_ms - self._last_deep_ms >= self._cadence.deep_every_ms
        return due and self._model.deep is not None and self._model.examples != self._last_deep_examples

    def _refuse(self, reason: str) -> None:
        self.refused += 1
        log.error("a version was refused; what is live stays", version=self.version + 1, why=reason)
        try:
            quarantine(self._cadence.quarantine, self.version + 1, reason, self._model)
        except OSError as bad:
            log.error("its evidence can't be kept", why=str(bad), folder=str(self._cadence.quarantine))


def cadence_of(model: Model, settings: Settings) -> Cadence:
    """The spec's cadences, with where things are kept."""
    publish, name = model.spec.publish, f"{settings.topic_prefix}{model.spec.name}"
    return Cadence(
        duration_ms(publish.every),
        duration_ms(publish.deep_every),
        settings.keep_versions,
        settings.local / "quarantine" / name,
        settings.local / "pins" / name,
        settings.local / "numbers" / name,
    )
