"""`thalweg run learner`: reads `examples`, learns in log order, writes checkpoints, publishes snapshots."""

import gc
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

import structlog

from learner.checkpoint import Checkpoint, CheckpointFiles, restore, take
from learner.dedup_check import check_memory
from learner.jit_warmup import warm
from learner.publishing.publisher import Publisher, cadence_of
from learner.publishing.version_allocator import Used
from learner.training import metrics
from learner.training.dedup import source_of
from learner.training.model import Model
from learner.training.progressive_validation import HEADER
from stream.events.codec import decode_examples, decode_training, encode
from stream.events.topics import EXAMPLES
from stream.events.types import Examples
from stream.log.dead_letters import Outgoing, dead_letter
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
MEASURE_MS = 200
LETTERS_AT_ONCE = 100
log = structlog.get_logger("learner")


class Learner:
    """The loop: poll, learn, publish, checkpoint. Everything it needs is passed in; one thread runs it.

    `offset`: the next one in `examples`; START while there is neither a checkpoint nor a record that was read.
    """

    def __init__(self, log_: Log, model: Model, offset: int, files: CheckpointFiles, checkpoint_every_ms: int) -> None:
        self.log, self.model, self.files = log_, model, files
        self.offset = offset
        self.used = Used()  # the last published, as the checkpoint knows
        self.publisher: Publisher | None = None
        self.dead_letters = 0
        self._letters: list[Outgoing] = []  # those that the log hasn't confirmed
        self.stopping = threading.Event()
        self.whole = True  # not in the middle of a record, whose half can't be told from the whole later
        self._learning = offset
        self._checkpoint_every_ms = checkpoint_every_ms
        self._checkpoint_ms, self._checkpoint_offset = now_ms(), offset  # when the last was tried; how far one reaches
        self._writing: threading.Thread | None = None
        self._told = False  # has the head of the lines been printed?
        self.measured_ms = 0
        model.reread = self._reread

    def learn(self, records: Sequence[Record], turn: Callable[[], None]) -> None:
        """Learn these records, in order; `turn` after each. Raises LogUnavailable, LogError: what was learned stays."""
        for record in records:
            assert record.offset >= self.offset, f"offset {record.offset} was learned already"
            events, bad = decode_training(record.value or b"")
            self._learning, self.whole = record.offset, False
            self.model.learn(events, record.offset, source_of(record.key))
            self.whole = True
            for raw, reason in bad:
                self._bury(raw, "BadEvent", reason, record)
            for page, reason in self.model.bad:
                self._bury(encode(page), "BadEvent", reason, record)
            self.model.bad.clear()
            self.offset = record.offset + 1
            self._tell_progress()
            if now_ms() - self.measured_ms >= MEASURE_MS:
                self.measure()
            turn()
        self.confirm_letters()

    def maybe_checkpoint(self, *, now: bool = False) -> None:
        """Write a checkpoint in a thread of its own when it's time and the last one is done; at once, when `now`.

        Its offset lies behind the dead letters: they are confirmed first. Raises LogUnavailable, LogError.
        """
        at_ms = now_ms()
        if self._writing is not None:
            if self._writing.is_alive() and not now:
                return
            self._writing.join()
        due = now or at_ms - self._checkpoint_ms >= self._checkpoint_every_ms
        if not due or self._checkpoint_offset == self.offset:
            return
        self.confirm_letters()
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
            except CheckpointError as bad:
                log.error("no checkpoint was written; learning goes on", why=str(bad))

    def _reread(self, offset: int) -> Iterator[Sequence[Examples]]:
        """Records of `examples` again, from this offset to the one that is being learned.

        While no broker answers it waits: half a warm start can't be taken back.
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
            except LogUnavailable as bad:
                if self.stopping.is_set():
                    raise
                attempt = back_off(bad, attempt, self.stopping)
            finally:
                if reader:
                    reader.close()

    def _bury(self, raw: bytes, error: str, message: str, record: Record) -> None:
        self.dead_letters += 1
        self._letters.append(dead_letter(raw, error, message, record))
        log.warning("a dead letter", why=message, offset=record.offset)

    def confirm_letters(self) -> None:
        """Dead letters are in the log when this returns; when it raises, the next call sends the others again.

        One goes ahead: while their topic is away, each try sends no more than that. Raises LogUnavailable, LogError.
        """
        count = 1
        while self._letters:
            for letter in self._letters[:count]:
                self.log.send(letter.topic, letter.partition, letter.value)
            self.log.flush()
            del self._letters[:count]
            count = LETTERS_AT_ONCE

    def _tell_progress(self) -> None:
        """Lines at doubling counts, as Vowpal Wabbit does: figures as of just that example."""
        marks = self.model.progress.marks
        for mark in marks:
            lines = mark.lines() if self._told else [HEADER, *mark.lines()]
            self._told = True
            try:
                print(*lines, sep="\n", flush=True)
            except OSError as bad:  # a full disk, or nobody reads any more
                log.warning("lines of figures can't be printed; learning goes on", why=str(bad))
        marks.clear()

    def measure(self) -> None:
        """Set the metrics."""
        self.measured_ms = now_ms()
        metrics.show_model(self.model)
        metrics.DEAD_LETTERS.set(self.dead_letters)
        metrics.OFFSET.set(max(self.offset, 0))
        if self.publisher:
            metrics.VERSION.set(self.publisher.carrier.published)
            metrics.REJECTED.set(self.publisher.refused)


@dataclass
class _Life:
    """What the loop and the health server know of each other."""

    stopping: threading.Event
    state: str = "starting"


def run_learner(settings: Settings, spec: Spec, *, accept_gap: bool = False) -> None:
    """Learn until SIGINT or SIGTERM, or until another learner takes the model over (Fenced)."""
    life = _Life(threading.Event())

    def stop(_signal: int, _frame: FrameType | None) -> None:
        life.stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    settings.need_kafka(), settings.need_redis()
    files = CheckpointFiles(settings.local / "checkpoints" / f"{settings.topic_prefix}{spec.name}")
    health = Health(
        settings.host,
        settings.learner_port,
        lambda: (life.state == "learning", life.state),
        written_to=run_file(settings, "learner"),
    )
    store = RedisStore(settings, spec.name)
    try:
        learner = _wait_for_log(settings, spec, files, life)
        if learner:
            _loop(learner, store, settings, life, accept_gap)
    finally:
        store.close()
        health.close()


def _wait_for_log(settings: Settings, spec: Spec, files: CheckpointFiles, life: _Life) -> Learner | None:
    life.state = "compiling kernels"
    warm(spec)
    checkpoint = files.newest()
    model = restore(spec, checkpoint) if checkpoint else Model(spec)
    model.seen.ids_max = settings.dedup_ids
    gc.collect()
    gc.freeze()  # what was loaded stays: full collections (0.2 s over all of torch) needn't look at it again
    offset = checkpoint.meta.offset if checkpoint else START
    attempt = 0
    while not life.stopping.is_set():
        try:
            check_memory(settings)
            learner = Learner(KafkaLog(settings, linger_ms=5), model, offset, files, settings.checkpoint_every_ms)
        except LogUnavailable as bad:
            life.state = str(bad)
            attempt = back_off(bad, attempt, life.stopping)
            continue
        learner.stopping = life.stopping
        if checkpoint:
            learner.used = Used(checkpoint.meta.version, checkpoint.meta.token)
        start = offset if checkpoint else "the log's start"
        log.info("learning", model=spec.name, offset=start, examples=model.examples)
        return learner
    return None


def back_off(bad: Exception, attempt: int, stopping: threading.Event) -> int:
    """Say why, and wait longer at each attempt. Returns the next attempt's number."""
    wait_s = BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]
    log.warning("waiting", why=str(bad), again_in_s=wait_s)
    stopping.wait(wait_s)
    return attempt + 1


def _open(learner: Learner, accept_gap: bool) -> Reader:
    if accept_gap:
        learner.model.forget_before(learner.log.starts(EXAMPLES.name)[0])
    return learner.log.reader(EXAMPLES.name, {0: learner.offset})


def _poll(learner: Learner, reader: Reader, accept_gap: bool) -> list[Record]:
    try:
        return reader.poll(POLL_S)
    except LogGap as gap:
        if learner.offset != START:  # else nothing was missed: the start has moved since it was asked for
            if not accept_gap:
                raise
            log.error("going on over a gap, as told", why=str(gap))
        learner.model.forget_before(gap.start)
        reader.seek(gap.partition, START)
        return []


def _loop(learner: Learner, store: SnapshotStore, settings: Settings, life: _Life, accept_gap: bool) -> None:
    publisher = Publisher(learner.model, store, cadence_of(learner.model, settings), now_ms, learner.used)
    learner.publisher = publisher

    def turn() -> None:
        publisher.maybe_publish(max(learner.offset, 0))
        learner.maybe_checkpoint()

    attempt = 0
    reader: Reader | None = None
    try:
        while not life.stopping.is_set():
            try:
                if now_ms() - learner.measured_ms >= MEASURE_MS:
                    learner.measure()
                turn()  # first: what was learned is published, whatever the log says
                learner.confirm_letters()  # before there can be more of them
                reader = reader or _open(learner, accept_gap)
                learner.learn(_poll(learner, reader, accept_gap), turn)
                life.state, attempt = "learning", 0
            except LogUnavailable as bad:
                if reader:
                    reader.close()
                reader = None
                life.state = str(bad)
                attempt = back_off(bad, attempt, life.stopping)
    finally:
        if reader:
            reader.close()
        try:
            if learner.whole:
                learner.maybe_checkpoint(now=True)
        except LogError as bad:
            log.warning("no last checkpoint: dead letters wait; the next start reads their records again", why=str(bad))
        finally:
            publisher.carrier.stop()
            _leave(learner.log)


def _leave(log_: Log) -> None:
    """Close the log. What it still held isn't behind any checkpoint, so its failure isn't why the loop ends."""
    try:
        log_.close()
    except LogError as bad:
        log.warning("the log took not all that was sent to it", why=str(bad))
