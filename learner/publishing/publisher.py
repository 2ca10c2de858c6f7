"""Publishing: the learner's thread gates and builds versions; another uploads them (`uploader.py`).

One version is uploaded at a time. While the store is unavailable its upload is retried with back-off, and changes
gather for the next version; after a wipe or a rejection the next version is a full base.
"""

from collections.abc import Callable

import structlog

from learner.publishing.gate import quarantine, rejection_of
from learner.publishing.uploader import PublishConfig, Uploader
from learner.publishing.version_allocator import HighWater
from learner.publishing.version_builder import VersionBuilder
from learner.training.model import Model
from stream.runtime.settings import Settings
from stream.snapshots.store import SnapshotStore
from stream.spec.spec import duration_ms

log = structlog.get_logger("publisher")


class Publisher:
    """Decides when a version goes out. It runs in the learner's thread; only its uploader has a thread of its own.

    `used`: versions and tokens used so far, as the checkpoint knows.
    """

    def __init__(
        self, model: Model, store: SnapshotStore, config: PublishConfig, now_ms: Callable[[], int], used: HighWater
    ) -> None:
        self._model, self._config, self._now_ms, self._used = model, config, now_ms, used
        self._builder = VersionBuilder(model)
        self.version = used.version  # newest that was built, or that may have been used
        self._parent = 0
        self.uploader = Uploader(model.spec.name, store, config, used)
        self.uploader.start()
        self.rejected = 0
        self._last_ms = self._last_deep_ms = 0
        self._last_learned = self._last_deep_examples = -1
        self._last_rejected = -1  # how many examples were learned when the gate rejected last

    @property
    def used(self) -> HighWater:
        """For the checkpoint: the newest version, and the greatest own token."""
        return HighWater(self.version, max(self._used.token, self.uploader.token))

    def maybe_publish(self, offset: int) -> bool:
        """Publish when it's due, something was learned and no upload is running. Raises Fenced.

        `offset`: the next one in `examples`.
        """
        uploader, now_ms = self.uploader, self._now_ms()
        uploader.offset = offset
        if uploader.fenced:
            raise uploader.fenced
        assert uploader.is_alive(), "the uploader's thread has died"
        if not uploader.owns_model:
            return False
        if not self._model.examples or uploader.busy or now_ms - self._last_ms < self._config.every_ms:
            return False
        if self._model.publishing_frozen:
            return False
        if self._model.examples == self._last_rejected:  # the same evidence: it would be rejected again
            return False
        if uploader.invalid:
            self._reject(uploader.invalid, self.version, by="packing")
            uploader.invalid = ""
        if uploader.needs_base:
            uploader.needs_base = False
            self._builder.reset()
            self._parent, self.version = uploader.head_version, max(self.version, uploader.newest_version)
        elif self._model.learned == self._last_learned and not self._deep_is_behind(now_ms):
            return False
        self._last_ms, self._last_learned = now_ms, self._model.learned
        if reason := rejection_of(self._model):
            self._last_rejected = self._model.examples
            self._reject(reason, self.version + 1, by="gate")
            return False
        deep = self._deep_is_due(now_ms)
        metrics = self._model.progress.metrics()
        built = self._builder.build(self.version + 1, self._parent, uploader.token, offset, now_ms, metrics, deep=deep)
        if deep:
            self._last_deep_ms, self._last_deep_examples = now_ms, self._model.examples
        self.version += 1
        self._parent = self.version
        uploader.upload(built)
        return True

    def _deep_is_due(self, now_ms: int) -> bool:
        return now_ms - self._last_deep_ms >= self._config.deep_every_ms

    def _deep_is_behind(self, now_ms: int) -> bool:
        """Whether the deep part is due and has learned since it was last published."""
        return (
            self._deep_is_due(now_ms)
            and self._model.deep is not None
            and self._model.examples != self._last_deep_examples
        )

    def _reject(self, reason: str, version: int, *, by: str) -> None:
        self.rejected += 1
        log.error("version rejected; the live one stays", version=version, by=by, reason=reason)
        try:
            quarantine(self._config.quarantine, version, reason, self._model)
        except OSError as error:
            log.error("its evidence can't be written", reason=str(error), folder=str(self._config.quarantine))


def publish_config(model: Model, settings: Settings) -> PublishConfig:
    """The spec's cadences and the settings' folders."""
    publish, name = model.spec.publish, f"{settings.topic_prefix}{model.spec.name}"
    return PublishConfig(
        duration_ms(publish.every),
        duration_ms(publish.deep_every),
        settings.keep_versions,
        settings.local / "quarantine" / name,
        settings.local / "pins" / name,
        settings.local / "numbers" / name,
    )
