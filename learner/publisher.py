"""Publishing: gate, cut, and an I/O thread that takes each version to the store, so that learning never waits.

One version is on its way at a time. When the store doesn't answer, that version is tried again with
back-off while changes gather for the next; when the store was wiped or refuses, the next is a full base.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from learner.chain import Cut, Cutter
from learner.gate import quarantine, refusal
from learner.model import Model
from stream.errors import BadSnapshot, Fenced, StoreUnavailable
from stream.snapshot import SnapshotStore
from stream.spec import duration_ms

BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0)
WATCH_S = 1.0  # how often an idle publisher looks whether the store was wiped
RETAIN_EVERY = 64
log = structlog.get_logger("publisher")


@dataclass(frozen=True)
class Cadence:
    """How often what is published, ms; `quarantine` takes what the gate refused."""

    every_ms: int
    deep_every_ms: int
    keep_versions: int
    quarantine: Path


class Carrier(threading.Thread):
    """Takes cuts to the store, one at a time. `outcome` is read by the learner's thread."""

    def __init__(self, store: SnapshotStore, keep_versions: int, token: int) -> None:
        super().__init__(name="publisher", daemon=True)
        self._store, self._keep = store, keep_versions
        self.token = token
        self._cut: Cut | None = None
        self._wake = threading.Condition()
        self._stopping = False
        self.published = 0  # newest version that is in the store
        self.failures = 0
        self.wants_base = False
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
        while not self._stopping and not self.fenced:
            with self._wake:
                if self._cut is None:
                    self._wake.wait(WATCH_S)
                cut = self._cut
            if cut is None:
                self._watch()
            else:
                self._deliver(cut)

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
            log.warning(
                "the store has lost what this version builds on; a full base is next",
                version=cut.manifest.version,
                why=str(bad),
            )
            self.wants_base = True
        finally:
            self._cut = None

    def _try(self, cut: Cut) -> None:
        attempt = 0
        while True:
            try:
                self._store.put_blobs(cut.blobs)
                self._store.publish(cut.manifest)
                self.published = cut.manifest.version
                if attempt:
                    log.info("the store is back", version=self.published)
                if self.published % RETAIN_EVERY == 0:
                    self._store.retain(self._keep)
                return
            except StoreUnavailable as bad:
                self.failures += 1
                if attempt == 0:
                    log.warning("can't publish; trying again", why=str(bad))
                if self._stopping:
                    return
                with self._wake:
                    self._wake.wait(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
                attempt += 1

    def _watch(self) -> None:
        """Was the store wiped while nothing new was learned?"""
        try:
            if self.published and self._store.head() is None:
                self.wants_base = True
        except (StoreUnavailable, BadSnapshot) as bad:
            log.debug("can't look at the head", why=str(bad))


class Publisher:
    """Decides when a version goes out. All of it runs in the learner's thread, but the carrier."""

    def __init__(
        self, model: Model, store: SnapshotStore, cadence: Cadence, now_ms: Callable[[], int], token: int, version: int
    ) -> None:
        self._model, self._cadence, self._now_ms = model, cadence, now_ms
        self._cutter = Cutter(model)
        self.version = version  # newest that was cut, or is known to be in the store
        self._parent = version
        self.carrier = Carrier(store, cadence.keep_versions, token)
        self.carrier.start()
        self.refused = 0
        self._last_ms = self._last_deep_ms = 0
        self._last_examples = -1

    def maybe_publish(self, offset: int) -> bool:
        """Publish when it's time, something was learned and nothing is on its way. Raises Fenced.

        `offset`: the next one in `examples`.
        """
        carrier, now_ms = self.carrier, self._now_ms()
        if carrier.fenced:
            raise carrier.fenced
        if carrier.busy or now_ms - self._last_ms < self._cadence.every_ms:
            return False
        if carrier.wants_base:
            carrier.wants_base = False
            self._cutter.start_over()
            self._parent = self.version
        elif self._model.examples == self._last_examples:
            return False
        self._last_ms, self._last_examples = now_ms, self._model.examples
        if reason := refusal(self._model.spec.publish.gate, self._model.progress.window(), self._model.finite()):
            self.refused += 1
            path = quarantine(self._cadence.quarantine, self.version + 1, reason, self._model)
            log.error(
                "a version was refused; what is live stays", version=self.version + 1, why=reason, evidence=str(path)
            )
            return False
        deep = now_ms - self._last_deep_ms >= self._cadence.deep_every_ms
        if deep:
            self._last_deep_ms = now_ms
        self.version += 1
        cut = self._cutter.cut(self.version, self._parent, carrier.token, offset, now_ms, self._metrics(), deep=deep)
        self._parent = self.version
        carrier.carry(cut)
        return True

    def _metrics(self) -> dict[str, float]:
        figures, window = self._model.progress.lifetime(), self._model.progress.window()
        return {
            "auc_arrival": figures.auc,
            "log_loss": figures.log_loss,
            "base_rate": figures.base_rate,
            "calibration": figures.calibration,
            "window_auc": window.auc,
            "window_log_loss": window.log_loss,
            "window_calibration": window.calibration,
        }


def cadence_of(model: Model, keep_versions: int, folder: Path) -> Cadence:
    """The spec's cadences, with where the quarantine is."""
    publish = model.spec.publish
    return Cadence(duration_ms(publish.every), duration_ms(publish.deep_every), keep_versions, folder)
