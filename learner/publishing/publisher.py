"""Publishing: the learner's thread gates and builds versions; another uploads them (`uploader.py`).

One version is uploaded at a time. While the store is unavailable its upload is retried with back-off, and changes
gather for the next version; after a wipe or a rejection the next version is a full base.
"""

from collections.abc import Callable

import numpy as np
import structlog

from learner.publishing.gate import PublishGate, version_metrics
from learner.publishing.quarantine import Quarantine
from learner.publishing.uploader import PublishConfig, Uploader
from learner.publishing.version_allocator import HighWater
from learner.publishing.version_builder import VersionBuilder
from learner.training.model import Model
from stream.runtime.errors import SnapshotError
from stream.runtime.settings import Settings
from stream.snapshots.store import SnapshotStore
from stream.snapshots.verdict import PACKING, Verdict
from stream.spec.values import duration_ms

log = structlog.get_logger("publisher")


class Publisher:
    """Decides when a version goes out. It runs in the learner's thread; only its uploader has a thread of its own.

    `used`: versions and tokens used so far, as the checkpoint knows; `log_ms`: as there.
    """

    def __init__(
        self, model: Model, store: SnapshotStore, config: PublishConfig, now_ms: Callable[[], int], used: HighWater,
        log_ms: int = 0,
    ) -> None:  # fmt: skip
        self._model, self._config, self._now_ms, self._used = model, config, now_ms, used
        self._builder, self._log_ms = VersionBuilder(model, log_ms), log_ms
        self.gate = PublishGate(model)
        self._quarantine = Quarantine(config.quarantine)
        self.version = used.version  # newest that was built, or that may have been used
        self._parent = 0
        self.uploader = Uploader(model.spec.name, store, config, used, log_ms)
        self.uploader.start()
        self.rejected = 0
        self.rejected_by_cause: dict[str, int] = {}
        self.roll_backs = 0
        self.proven = -1  # `model.learned` of the newest version that passed the gate and was packed
        self._rolled_back = False  # since a version passed last
        self._causes: set[str] = set()  # of rejections that were logged since a version passed
        self._unproven = -1  # `model.learned` of a version that passed and may yet turn out unpackable; −1: none
        self._last_ms = self._last_deep_ms = 0
        self._last_learned = self._last_deep_trained = -1
        self._last_rejected = -1  # `model.trained` when the gate rejected last
        self._erased = 0  # users of `model.erased` that gate and quarantine know nothing of any more

    @property
    def used(self) -> HighWater:
        """For the checkpoint: the newest version, and the greatest own token."""
        return HighWater(self.version, max(self._used.token, self.uploader.token))

    def replace_model(self, model: Model) -> None:
        """Publish this model, which was judged, from now on; the next version is a full base.

        Its pages and slices may be other ones: the gate compares versions with what it is now.
        """
        self._model, self._builder, self.gate = model, VersionBuilder(model, self._log_ms), PublishGate(model)
        self.gate.trust()
        self._last_learned = self._last_deep_trained = self._last_rejected = self._unproven = self.proven = -1

    def maybe_publish(self, offset: int) -> bool:
        """Publish when it's due, something was learned and no upload is running. Raises Fenced.

        `offset`: the next one in `examples`.
        """
        uploader, now_ms = self.uploader, self._now_ms()
        uploader.offset = offset
        self._erase()
        if uploader.fenced:
            raise uploader.fenced
        if not uploader.is_alive():
            raise SnapshotError("the uploader's thread has died, its error is in the log: restart the learner")
        if not uploader.owns_model:
            return False
        if not self._model.examples or uploader.busy or now_ms - self._last_ms < self._config.every_ms:
            return False
        if self._model.publishing_frozen:
            return False
        if self._model.trained == self._last_rejected:  # the same evidence: it would be rejected again
            return False
        if uploader.invalid:
            self._reject(self.gate.refuse(Verdict(PACKING, uploader.invalid)), self.version, by="packing")
            uploader.invalid = ""
            if self.roll_back_reason:
                return False
        elif self._unproven >= 0:
            self._passed()
        self._unproven = -1
        if uploader.needs_base:
            uploader.needs_base = False
            self._builder.reset()
            self._parent, self.version = uploader.head_version, max(self.version, uploader.newest_version)
        elif self._model.learned == self._last_learned and not self._deep_is_behind(now_ms):
            return False
        self._last_ms, self._last_learned = now_ms, self._model.learned
        deep = self._deep_is_due(now_ms)
        verdict = self.gate.judge(deep=self._builder.includes_deep(deep))
        if not verdict.passed:
            self._last_rejected = self._model.trained
            self._reject(verdict, self.version + 1, by="gate")
            return False
        metrics = version_metrics(self._model, verdict)
        built = self._builder.build(self.version + 1, self._parent, uploader.token, offset, now_ms, metrics, deep=deep)
        self._unproven = self._model.learned
        if deep:
            self._last_deep_ms, self._last_deep_trained = now_ms, self._model.trained
        self.version += 1
        self._parent = self.version
        uploader.upload(built)
        return True

    def _erase(self) -> None:
        """Erase the users that the model has erased since the last call; at a process's start, all of them."""
        erased = self._model.erased
        if len(erased) == self._erased:
            return
        users = np.array(erased[self._erased :], np.uint64)
        self.gate.erase(users)
        try:
            if files := self._quarantine.erase(users):
                log.info("evidence with pages of erased users is deleted", files=files)
        except OSError as error:
            folder = str(self._config.quarantine)
            log.error("evidence may have pages of erased users: delete it", reason=str(error), folder=folder)
        self._erased = len(erased)

    def _deep_is_due(self, now_ms: int) -> bool:
        return now_ms - self._last_deep_ms >= self._config.deep_every_ms

    def _deep_is_behind(self, now_ms: int) -> bool:
        """Whether the deep part is due and has changed since it was last published."""
        return (
            self._deep_is_due(now_ms)
            and self._model.deep is not None
            and self._model.trained != self._last_deep_trained
        )

    @property
    def roll_back_reason(self) -> str:
        """Why the learner must return to an earlier state; empty if it needn't. Once, until a version passes again."""
        gate, most = self.gate, self._model.spec.publish.gate.refusals_max
        if gate.refusals < most or self._rolled_back:
            return ""
        return f"{gate.refusals} versions in a row were rejected, the last one because: {gate.verdict.reason}"

    def renew_gate(self) -> None:
        """Trust the model as it is: what is live, and what predicted the recent labels, was found worse."""
        self.gate = PublishGate(self._model, remembers=False)
        self.gate.trust()

    def rolled_back(self, reason: str, offset: int | None) -> None:
        """The model was replaced by that of a checkpoint of this offset; None: there was none that could.

        The next version is a full base.
        """
        self._rolled_back, self.gate.refusals, self._last_rejected, self._unproven = True, 0, -1, -1
        if offset is not None:
            self.roll_backs += 1
            self._builder.reset()
        try:
            evidence = {"reason": reason, "examples": self._model.examples, "checkpoint_offset": offset}
            self._quarantine.write(
                self.version + 1, "rolled_back" if offset is not None else "not_rolled_back", evidence
            )
        except OSError as error:
            log.error("its evidence can't be written", reason=str(error), folder=str(self._config.quarantine))

    def _passed(self) -> None:
        """The last version passed the gate, and was packed."""
        self.proven = self._unproven
        self.gate.confirm()
        self._quarantine.passed()
        self._rolled_back = False
        if self._causes:
            log.info("versions pass the gate again", version=self.version, after=", ".join(sorted(self._causes)))
            self._causes.clear()

    def _reject(self, verdict: Verdict, version: int, *, by: str) -> None:
        self.rejected += 1
        cause = verdict.cause
        self.rejected_by_cause[cause] = self.rejected_by_cause.get(cause, 0) + 1
        if cause not in self._causes:
            log.error(
                "version rejected; the live one stays", version=version, by=by, cause=cause, reason=verdict.reason,
                **{name: round(value, 4) for name, value in verdict.numbers.items()},
            )  # fmt: skip
        self._causes.add(cause)
        try:
            self._quarantine.add(version, verdict, self._model, self.gate)
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
