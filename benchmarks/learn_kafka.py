"""`learn`: topics filled with records of `examples`, and the real learner on them, from Kafka to weights."""

import gc
import io
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from typing import Final

from benchmarks.joiner_world import new_topics
from benchmarks.learn_world import records_of
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.learner import Learner
from learner.record_prefetcher import RecordPrefetcher
from learner.service import TAKE_S
from learner.training.model import Model
from stream.events.topics import EXAMPLES
from stream.events.types import Examples
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import START
from stream.runtime.settings import Settings
from stream.spec.spec import Spec

WARM: Final = 0.2  # of the records are learned before the clock starts
SOURCE: Final = b"0"  # a record's key, as a joiner writes it: the partition of `events` that it came from
NEVER_MS: Final = 1 << 40
READY_S: Final = 1.0  # the learner is connected by then


def filled(house: Settings, pages: list[Examples], pack: int) -> Settings:
    """Unused topics, with these pages in `examples`, `pack` a record."""
    settings = new_topics(house)
    log = KafkaLog(settings, linger_ms=5)
    for raw in records_of(pages, pack):
        log.send(EXAMPLES.name, 0, raw, SOURCE)
    log.flush(60)
    log.close()
    return settings


def learn_until(settings: Settings, spec: Spec, end: int, after_step: Callable[[Learner], None]) -> Model:
    """A new model, learned from the start of `examples` to this offset by the service's own Learner and prefetcher.

    As the service's loop, but without publishing and checkpoints.
    """
    model = Model(spec)
    log = KafkaLog(settings, linger_ms=5)
    learner = Learner(log, model, START, CheckpointFiles(settings.local / "checkpoints"), NEVER_MS)
    prefetcher = RecordPrefetcher(
        partial(log.reader, EXAMPLES.name, {0: START}), model.record_encoder, learner.lag.after_poll
    )
    gc.collect()
    gc.freeze()  # as the service does
    try:
        with redirect_stdout(io.StringIO()):  # lines of progress
            while learner.offset < end:
                learner.learn(prefetcher.take(TAKE_S), lambda: after_step(learner))
    finally:
        gc.unfreeze()
        prefetcher.close()
        log.close()
    assert not model.duplicates, "an example came twice"
    assert not learner.dead_letters.count, "a page was rejected"
    return model


def learn_from_kafka(settings: Settings, spec: Spec) -> float:
    """Examples per second over all records of `examples` but the first fifth."""
    log = KafkaLog(settings)
    end = log.ends(EXAMPLES.name)[0]
    log.close()
    examples, begun, ended = 0, 0.0, 0.0

    def after_step(learner: Learner) -> None:
        nonlocal examples, begun, ended
        if not begun and learner.offset >= int(end * WARM):
            examples, begun = learner.model.examples, time.perf_counter()
        elif learner.offset == end:
            ended = time.perf_counter()

    model = learn_until(settings, spec, end, after_step)
    assert begun < ended
    return (model.examples - examples) / (ended - begun)


def trickle_ms(house: Settings, spec: Spec, pages: Sequence[Examples], records_s: int) -> list[float]:
    """From the sending of a record of one page to its examples learned, in ms, sorted; without the first second's.

    A thread of this process sends.
    """
    settings = new_topics(house)
    log = KafkaLog(settings)
    records = records_of(list(pages), 1)
    sent, learned = list[float](), list[float]()

    def send() -> None:
        begun = time.perf_counter() + READY_S
        for n, raw in enumerate(records):
            time.sleep(max(0.0, begun + n / records_s - time.perf_counter()))
            sent.append(time.perf_counter())
            log.send(EXAMPLES.name, 0, raw, SOURCE)

    sender = threading.Thread(target=send)
    sender.start()

    def after_step(learner: Learner) -> None:
        learned.extend([time.perf_counter()] * (learner.offset - len(learned)))

    learn_until(settings, spec, len(records), after_step)
    sender.join()
    log.close()
    taken = [1000 * (after - before) for before, after in zip(sent, learned, strict=True)]
    return sorted(taken[records_s:])
