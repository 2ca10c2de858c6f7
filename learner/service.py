"""`thalweg run learner`: reads `examples`, learns in log order, writes checkpoints, publishes snapshots."""

import gc
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

import structlog

from learner.checkpoint import Checkpoint, CheckpointFiles, restore, take
from learner.dead_letters import DeadLetterBuffer
from learner.dedup_capacity import check_dedup
from learner.jit_warmup import compile_kernels
from learner.publishing.publisher import Publisher, publish_config
from learner.publishing.version_allocator import HighWater
from learner.training import metrics
from learner.training.dedup import source_of
from learner.training.model import Model
from learner.training.progressive_validation import HEADER
from stream.events.codec import decode_examples, decode_training, encode
from stream.events.topics import EXAMPLES
from stream.events.types import Examples
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import START, Log, Reader, Record
from stream.runtime.clock import now_ms
from stream.runtime.errors import CheckpointError, LogError, LogGap, LogUnavailable
from stream.runtime.health import Health, run_file
from stream.runtime.settings import Settings
from stream.snapshots.redis_store import RedisStore
from stream.snapshots.store import SnapshotStore
from stream.spec.spec import Spec

BACKOFF_S = (0.5, 1.0, 2.0, 5.0)
POLL_S = 0.02
METRICS_EVERY_MS = 200
log = structlog.get_logger("learner")


class Learner:
    """Learns records, then publishes and writes checkpoints. Everything it needs is passed in; one thread runs it.

    `offset`: the next one in `examples`; START while there is neither a checkpoint nor a record.
    """

    def __init__(self, log_: Log, model: Model, offset: int, files: CheckpointFiles, checkpoint_every_ms: int) -> None:
        self.log, self.model, self.files = log_, model, files
        self.offset = offset
        self.used = HighWater()  # versions and tokens, as the checkpoint knows
        self.publisher: Publisher | None = None
        self.dead_letters = DeadLetterBuffer(log_)
        self.stopping = threading.Event()
        self.mid_record = False  # half a record is learned, which a checkpoint can't express
        self._learning = offset
        self._checkpoint_every_ms = checkpoint_every_ms
        self._checkpoint_ms, self._checkpoint_offset = now_ms(), offset  # of the last attempt, of the last written
        self._writing: threading.Thread | None = None
        self._printed_header = False
        self._metrics_ms = 0  # when the metrics were last set
        model.reread = self._reread

    def learn(self, records: Sequence[Record], after_record: Callable[[], None]) -> None:
        """Learn these records in order. Raises LogUnavailable, LogError: what was learned stays learned."""
        for record in records:
            assert record.offset >= self.offset, f"offset {record.offset} was learned already"
            events, invalid = decode_training(record.value or b"")
            self._learning, self.mid_record = record.offset, True
            self.model.learn(events, record.offset, source_of(record.key))
            self.mid_record = False
            for raw, reason in invalid:
                self.dead_letters.add(raw, reason, record)
            for page, reason in self.model.rejected:
                self.dead_letters.add(encode(page), reason, record)
            self.model.rejected.clear()
            self.offset = record.offset + 1
            self._print_progress()
            self.update_metrics()
            after_record()
        self.dead_letters.confirm()

    def maybe_checkpoint(self, *, now: bool = False) -> None:
        """Write a checkpoint in a thread of its own, if it's due and the last one is written; at once, when `now`.

        Dead letters before its offset are confirmed first. Raises LogUnavailable, LogError.
        """
        at_ms = now_ms()
        if self._writing is not None:
            if self._writing.is_alive() and not now:
                return
            self._writing.join()
        due = now or at_ms - self._checkpoint_ms >= self._checkpoint_every_ms
        if not due or self._checkpoint_offset == self.offset:
            return
        self.dead_letters.confirm()
        self._checkpoint_ms = at_ms
        used = self.publisher.used if self.publisher else self.used
        checkpoint = take(self.model, self.offset, used.token, used.version)
        self._writing = threading.Thread(target=self._write, args=(checkpoint,), name="checkpoint")
        self._writing.start()
        if now:
            self._writing.join()

    def _write(self, checkpoint: Checkpoint) -> None:
        with metrics.CHECKPOINT.time():
            try:
                self.files.write(checkpoint)
                self._checkpoint_offset = checkpoint.meta.offset
            except CheckpointError as error:
                log.error("no checkpoint was written; learning goes on", reason=str(error))

    def _reread(self, offset: int) -> Iterator[Sequence[Examples]]:
        """Records of `examples` from this offset up to the one that is being learned.

        Waits while the broker is unavailable: a warm start can't be undone halfway.
        """
        attempt = 0
        while offset <= self._learning:
            reader: Reader | None = None
            try:
                reader = self.log.reader(EXAMPLES.name, {0: offset})
                while offset <= self._learning:
                    for record in reader.poll(1.0):
                        offset = record.offset + 1
                        yield decode_examples(record.value or b"")[0]
            except LogUnavailable as error:
                if self.stopping.is_set():
                    raise
                attempt = back_off(error, attempt, self.stopping)
            finally:
                if reader:
                    reader.close()

    def _print_progress(self) -> None:
        """Lines at doubling counts, as Vowpal Wabbit prints them."""
        marks = self.model.progress.milestones
        for mark in marks:
            lines = mark.lines() if self._printed_header else [HEADER, *mark.lines()]
            self._printed_header = True
            try:
                print(*lines, sep="\n", flush=True)
            except OSError as error:  # a full disk, or a closed pipe
                log.warning("progress can't be printed; learning goes on", reason=str(error))
        marks.clear()

    def update_metrics(self, *, now: bool = False) -> None:
        """Set the metrics every METRICS_EVERY_MS; at once, when `now`."""
        if not now and now_ms() - self._metrics_ms < METRICS_EVERY_MS:
            return
        self._metrics_ms = now_ms()
        metrics.set_model(self.model)
        metrics.DEAD_LETTERS.set(self.dead_letters.count)
        metrics.OFFSET.set(max(self.offset, 0))
        if self.publisher:
            metrics.VERSION.set(self.publisher.uploader.published)
            metrics.REJECTED.set(self.publisher.rejected)


@dataclass
class _Status:
    """What the loop and the health server share."""

    stopping: threading.Event
    state: str = "starting"


def run_learner(settings: Settings, spec: Spec, *, accept_gap: bool = False) -> None:
    """Learn until SIGINT or SIGTERM, or until another learner takes the model over (Fenced)."""
    status = _Status(threading.Event())

    def stop(_signal: int, _frame: FrameType | None) -> None:
        status.stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    settings.need_kafka(), settings.need_redis()
    files = CheckpointFiles(settings.local / "checkpoints" / f"{settings.topic_prefix}{spec.name}")
    health = Health(
        settings.host,
        settings.learner_port,
        lambda: (status.state == "learning", status.state),
        written_to=run_file(settings, "learner"),
    )
    store = RedisStore(settings, spec.name)
    try:
        learner = _start(settings, spec, files, status)
        if learner:
            _loop(learner, store, settings, status, accept_gap)
    finally:
        store.close()
        health.close()


def _start(settings: Settings, spec: Spec, files: CheckpointFiles, status: _Status) -> Learner | None:
    """The learner of the newest checkpoint, once the log is available; None when stopped before."""
    status.state = "compiling kernels"
    compile_kernels(spec)
    checkpoint = files.newest()
    model = restore(spec, checkpoint) if checkpoint else Model(spec)
    model.learned_ids.ids_max = settings.dedup_ids
    gc.collect()
    gc.freeze()  # what was loaded stays: full collections (0.2 s over all of torch) needn't visit it again
    offset = checkpoint.meta.offset if checkpoint else START
    attempt = 0
    while not status.stopping.is_set():
        try:
            check_dedup(settings)
            learner = Learner(KafkaLog(settings, linger_ms=5), model, offset, files, settings.checkpoint_every_ms)
        except LogUnavailable as error:
            status.state = str(error)
            attempt = back_off(error, attempt, status.stopping)
            continue
        learner.stopping = status.stopping
        if checkpoint:
            learner.used = HighWater(checkpoint.meta.version, checkpoint.meta.token)
        start = offset if checkpoint else "the log's start"
        log.info("learning", model=spec.name, offset=start, examples=model.examples)
        return learner
    return None


def back_off(error: Exception, attempt: int, stopping: threading.Event) -> int:
    """Log why, and wait longer at each attempt. Returns the next attempt's number."""
    wait_s = BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]
    log.warning("waiting", reason=str(error), again_in_s=wait_s)
    stopping.wait(wait_s)
    return attempt + 1


def _open(learner: Learner, accept_gap: bool) -> Reader:
    if accept_gap:
        learner.model.drop_records_before(learner.log.starts(EXAMPLES.name)[0])
    return learner.log.reader(EXAMPLES.name, {0: learner.offset})


def _poll(learner: Learner, reader: Reader, accept_gap: bool) -> list[Record]:
    try:
        return reader.poll(POLL_S)
    except LogGap as gap:
        if learner.offset != START:  # else nothing was missed: the start has moved since it was looked up
            if not accept_gap:
                raise
            log.error("continuing past the gap (--accept-gap)", reason=str(gap))
        learner.model.drop_records_before(gap.start)
        reader.seek(gap.partition, START)
        return []


def _loop(learner: Learner, store: SnapshotStore, settings: Settings, status: _Status, accept_gap: bool) -> None:
    publisher = Publisher(learner.model, store, publish_config(learner.model, settings), now_ms, learner.used)
    learner.publisher = publisher

    def publish_and_checkpoint() -> None:
        publisher.maybe_publish(max(learner.offset, 0))
        learner.maybe_checkpoint()

    attempt = 0
    reader: Reader | None = None
    try:
        while not status.stopping.is_set():
            try:
                learner.update_metrics()
                publish_and_checkpoint()  # first: what was learned is published even while the log is unavailable
                learner.dead_letters.confirm()  # before there can be more of them
                reader = reader or _open(learner, accept_gap)
                learner.learn(_poll(learner, reader, accept_gap), publish_and_checkpoint)
                status.state, attempt = "learning", 0
            except LogUnavailable as error:
                if reader:
                    reader.close()
                reader = None
                status.state = str(error)
                attempt = back_off(error, attempt, status.stopping)
    finally:
        if reader:
            reader.close()
        try:
            if not learner.mid_record:
                learner.maybe_checkpoint(now=True)
        except LogError as error:
            log.warning(
                "no last checkpoint: dead letters are unconfirmed; the next start reads their records again",
                reason=str(error),
            )
        finally:
            publisher.uploader.stop()
            _close(learner.log)


def _close(log_: Log) -> None:
    """Close the log. No checkpoint covers what it couldn't send, so its failure isn't why the loop ends."""
    try:
        log_.close()
    except LogError as error:
        log.warning("the log couldn't send everything", reason=str(error))
