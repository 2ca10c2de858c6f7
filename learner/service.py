"""`thalweg run learner`: reads `examples`, learns in log order, writes checkpoints, publishes snapshots."""

import gc
import signal
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import TypeVar

import structlog
from msgspec.structs import replace

from learner.backup.continuous import continuous_backup
from learner.checkpoints.checkpoint import Checkpoint
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.dead_letters import pass_over
from learner.dedup_capacity import DedupMonitor, check_dedup
from learner.jit_warmup import compile_kernels
from learner.learner import Learner, back_off
from learner.promotion import Promotion
from learner.publishing.publisher import Publisher, publish_config
from learner.publishing.version_allocator import HighWater
from learner.record_prefetcher import RecordPrefetcher
from learner.retraining.resumption import resume, spec_of
from learner.retraining.retrain_files import RetrainFiles, checkpoints_of
from learner.training.model import Model
from learner.training.training_records import TrainingRecords
from stream.events.topics import EXAMPLES
from stream.log.format_level import read_level
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import START, Log
from stream.runtime.clock import now_ms
from stream.runtime.errors import CheckpointError, LogError, LogGap, LogUnavailable
from stream.runtime.formats import CHECKPOINT
from stream.runtime.health import Health, run_file
from stream.runtime.heartbeat import Heartbeat, all_live
from stream.runtime.settings import Settings
from stream.snapshots.redis_store import RedisStore
from stream.snapshots.store import SnapshotStore
from stream.spec.spec import Spec
from stream.spec.spec_file import decode_spec

T = TypeVar("T")
TAKE_S = 0.02  # between two looks at what is due, while no record comes
HUNG_S = 300.0  # between two steps: a roll back restores a checkpoint, a minute at 50 million rows
START_S = 1_800.0  # compiling all kernels on a busy core, restoring a checkpoint; writing the last one
log = structlog.get_logger("learner")


@dataclass
class _Status:
    """What the loop and the health server share."""

    stopping: threading.Event
    state: str = "starting"
    heart: Heartbeat = field(default_factory=lambda: Heartbeat("the learning loop", HUNG_S))
    prefetcher: RecordPrefetcher | None = None  # while records are read

    def live(self) -> tuple[bool, str]:
        """For `/livez`: whether neither learning nor reading hangs."""
        prefetcher = self.prefetcher
        return all_live([self.heart, prefetcher.heart] if prefetcher else [self.heart])

    def stop_reading(self) -> None:
        """Close the prefetcher; the learner's offset says where the next one begins."""
        prefetcher, self.prefetcher = self.prefetcher, None
        if prefetcher:
            prefetcher.close()


def run_learner(settings: Settings, spec: Spec, *, accept_gap: bool = False) -> None:
    """Learn until SIGINT or SIGTERM, or until another learner takes the model over (Fenced)."""
    status = _Status(threading.Event())

    def stop(_signal: int, _frame: FrameType | None) -> None:
        status.stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    settings.need_kafka(), settings.need_redis()
    files = CheckpointFiles(checkpoints_of(settings, spec.name))
    backups = continuous_backup(settings, spec.name, status.stopping)
    health = Health(
        settings.host,
        settings.learner_port,
        lambda: (status.state == "learning", status.state),
        status.live,
        written_to=run_file(settings, "learner"),
    )
    store = RedisStore(settings, spec.name)
    try:
        learner = _start(settings, spec, files, status)
        if learner:
            watch = DedupMonitor(settings).watch
            threading.Thread(target=watch, args=(status.stopping,), name="dedup", daemon=True).start()
            if backups:
                backups.start()
            _loop(learner, store, settings, status, accept_gap)
    finally:
        store.close()
        health.close()


def _start(settings: Settings, spec: Spec, files: CheckpointFiles, status: _Status) -> Learner | None:
    """The learner of the newest checkpoint, once the log is available; None when stopped before."""
    status.state = "compiling kernels"
    status.heart.beat(START_S)
    compile_kernels(spec)
    level = _once_available(partial(_format_level, settings), status)
    if level is None:
        return None
    files.version = CHECKPOINT.at(level)
    checkpoint = _once_available(partial(_newest, settings, spec, files, partial(KafkaLog, settings)), status)
    model = resume(spec, checkpoint) if checkpoint else Model(spec)
    model.learned_ids.ids_max = settings.dedup_ids
    gc.collect()
    gc.freeze()  # what was loaded stays: full collections (0.2 s over all of torch) needn't visit it again
    offset = checkpoint.meta.offset if checkpoint else START
    same = checkpoint is not None and checkpoint.meta.fingerprint == spec.fingerprint()
    resumed = checkpoint if same else None  # else the model isn't the checkpoint's: the next one is a base

    def begun() -> Learner:
        check_dedup(settings)
        kafka = KafkaLog(settings, linger_ms=5)
        return Learner(kafka, model, offset, files, settings.checkpoint_every_ms, resumed)

    learner = _once_available(begun, status)
    if learner is None:
        return None
    learner.stopping = status.stopping
    if checkpoint:
        learner.used = HighWater(checkpoint.meta.version, checkpoint.meta.token)
        learner.refusals, learner.log_ms = checkpoint.meta.refusals, checkpoint.meta.log_ms
    start = offset if checkpoint else "the log's start"
    log.info("learning", model=spec.name, offset=start, examples=model.examples)
    return learner


def _format_level(settings: Settings) -> int:
    with closing(KafkaLog(settings)) as log_:
        return read_level(log_)


def _once_available(do: Callable[[], T], status: _Status) -> T | None:
    """Its result, tried again while the log is unavailable; None when stopped before."""
    attempt = 0
    while not status.stopping.is_set():
        status.heart.beat(START_S)
        try:
            return do()
        except LogUnavailable as error:
            status.state = str(error)
            attempt = back_off(error, attempt, status.stopping)
    return None


def _newest(
    settings: Settings, spec: Spec, files: CheckpointFiles, open_log: Callable[[], Log]
) -> Checkpoint | None:  # fmt: skip
    """The newest checkpoint; or that of a new model, if it was live and in no checkpoint yet when a learner ended, or
    has evolved to this spec, and the newest one is of another.

    Between that one and the model that evolved without a learner, records still need their dead letters: the log is
    opened for them. Raises CheckpointError, LogUnavailable, LogError.
    """
    newest, retrains = files.newest(), RetrainFiles(settings, spec.name)
    outcome = retrains.read()
    if newest is None or outcome is None or not outcome.verdict.promoted:
        return newest
    is_live, old = retrains.is_promoted, spec_of(newest.meta)
    if not is_live and (old is None or old.identity() == spec.identity()):
        return newest
    if reason := outcome.why_outdated(newest.meta.warm_starts, newest.meta.roll_backs):
        if not is_live:  # else the newest checkpoint is its own
            log.warning("a new model is dropped", reason=reason, why=outcome.why)
        retrains.forget(outcome)
        return newest
    try:
        candidate = retrains.candidates.newest()
    except CheckpointError as error:
        log.error("a new model can't be restored; the one before goes on", reason=str(error))
        retrains.forget(outcome)
        return newest
    evolved = spec_of(candidate.meta) if candidate else None
    if candidate is None or evolved is None or (not is_live and evolved.identity() != spec.identity()):
        return newest
    if old and not is_live:  # a learner has written those before the offset of one that was live
        before = Model(old, previous=[decode_spec(text.encode()) for text in newest.meta.previous])
        with closing(open_log()) as log_:
            pass_over(log_, before.record_encoder, newest.meta.offset, candidate.meta.offset)
    was = newest.meta
    used = replace(candidate.meta, token=was.token, version=was.version, log_ms=was.log_ms)
    files.write(Checkpoint(used, candidate.arrays))
    retrains.forget(outcome)
    log.info("a new model goes on", why=outcome.why, model=spec.name, offset=candidate.meta.offset)
    return files.newest()


def _prefetch(learner: Learner) -> RecordPrefetcher:
    """Read from the learner's offset on."""
    read = partial(learner.log.reader, EXAMPLES.name, {0: learner.offset})
    return RecordPrefetcher(read, learner.model.record_encoder, learner.lag.after_poll)


def _take(learner: Learner, prefetcher: RecordPrefetcher, accept_gap: bool) -> list[TrainingRecords] | None:
    """The next records; None at a gap that is passed: it's accepted, or nothing was missed, since the log's start moved
    after it was looked up. Raises LogGap, LogUnavailable, LogError.
    """
    try:
        return prefetcher.take(TAKE_S)
    except LogGap as gap:
        if learner.offset != START:
            if not accept_gap:
                raise
            log.error("continuing past the gap (--accept-gap)", reason=str(gap))
            learner.offset = learner.lag.offset = gap.start
        return None


def _loop(learner: Learner, store: SnapshotStore, settings: Settings, status: _Status, accept_gap: bool) -> None:
    publisher = Publisher(
        learner.model, store, publish_config(learner.model, settings), now_ms, learner.used, learner.log_ms
    )
    learner.publisher = publisher
    promotion = Promotion(learner, settings)
    learner.resume_gate()

    def publish_and_checkpoint() -> None:
        status.heart.beat()
        learner.obey_judgements()  # one that couldn't be obeyed when it came
        if learner.may_publish:
            publisher.maybe_publish(max(learner.offset, 0))
        if reason := publisher.roll_back_reason:
            learner.roll_back(reason)
        learner.maybe_checkpoint()

    attempt = 0
    try:
        while not status.stopping.is_set():
            try:
                learner.update_metrics()
                publish_and_checkpoint()  # first: what was learned is published even while the log is unavailable
                learner.dead_letters.confirm()  # before there can be more of them
                prefetcher = status.prefetcher = status.prefetcher or _prefetch(learner)
                records = None if promotion.step() else _take(learner, prefetcher, accept_gap)
                if records is None:  # read on behind the gap, or for the model that took over
                    status.stop_reading()
                    continue
                learner.learn(records, publish_and_checkpoint)
                if prefetcher.is_reading:
                    status.state, attempt = "learning", 0
            except LogUnavailable as error:
                status.stop_reading()
                status.state = str(error)
                attempt = back_off(error, attempt, status.stopping)
    finally:
        status.heart.beat(START_S)
        try:
            if not learner.mid_record:
                learner.maybe_checkpoint(now=True)
        except LogError as error:
            log.warning(
                "no last checkpoint: dead letters are unconfirmed; the next start reads their records again",
                reason=str(error),
            )
        finally:
            learner.checkpointer.abandon()
            status.stop_reading()
            promotion.close()
            publisher.uploader.stop()
            _close(learner.log)


def _close(log_: Log) -> None:
    """Close the log. No checkpoint covers what it couldn't send, so its failure isn't why the loop ends."""
    try:
        log_.close()
    except LogError as error:
        log.warning("the log couldn't send everything", reason=str(error))
