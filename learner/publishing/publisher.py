"""Publishing: gate and cut in the learner's thread; another carries each version to the store (`uploader.py`).

One version is on its way at a time. When the store doesn't answer, that version is tried again with
back-off while changes gather for the next; when the store was wiped or refuses, the next is a full base.
"""

from collections.abc import Callable

import structlog

from learner.publishing.delta_chain import Cutter
from learner.publishing.gate import quarantine, refusal
from learner.publishing.uploader import Cadence, Carrier
from learner.publishing.version_allocator import Used
from learner.training.model import Model
from stream.runtime.settings import Settings
from stream.snapshots.store import SnapshotStore
from stream.spec.spec import duration_ms

log = structlog.get_logger("publisher")


class Publisher:
    """Decides when a version goes out. All of it runs in the learner's thread, but the carrier.

    `known`: what the checkpoint knows to have been used.
    """

    def __init__(
        self, model: Model, store: SnapshotStore, cadence: Cadence, now_ms: Callable[[], int], known: Used
    ) -> None:
        self._model, self._cadence, self._now_ms, self._known = model, cadence, now_ms, known
        self._cutter = Cutter(model)
        self.version = known.version  # newest that was cut, or that may have been used
        self._parent = 0
        self.carrier = Carrier(model.spec.name, store, cadence, known)
        self.carrier.start()
        self.refused = 0
        self._last_ms = self._last_deep_ms = 0
        self._last_learned = self._last_deep_examples = -1

    @property
    def used(self) -> Used:
        """For the checkpoint: the newest version, and the greatest token of ours."""
        return Used(self.version, max(self._known.token, self.carrier.token))

    def maybe_publish(self, offset: int) -> bool:
        """Publish when it's time, something was learned and nothing is on its way. Raises Fenced.

        `offset`: the next one in `examples`.
        """
        carrier, now_ms = self.carrier, self._now_ms()
        carrier.offset = offset
        if carrier.fenced:
            raise carrier.fenced
        assert carrier.is_alive(), "the publisher's thread has ended without a word"
        if not carrier.entered:
            return False
        if not self._model.examples or carrier.busy or now_ms - self._last_ms < self._cadence.every_ms:
            return False
        if carrier.unfit:
            self._refuse(carrier.unfit)
            carrier.unfit = ""
        if carrier.wants_base:
            carrier.wants_base = False
            self._cutter.start_over()
            self._parent, self.version = carrier.live, max(self.version, carrier.newest)
        elif self._model.learned == self._last_learned and not self._deep_is_behind(now_ms):
            return False
        self._last_ms, self._last_learned = now_ms, self._model.learned
        spec, window = self._model.spec, self._model.progress.window()
        corrected = spec.label.policy == "fake_negative"
        if reason := refusal(spec.publish.gate, window, self._model.finite(), corrected=corrected):
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
