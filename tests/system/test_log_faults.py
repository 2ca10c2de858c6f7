"""The log while its broker is away: what it says, and that nobody goes on behind the caller's back."""

import threading
import time
from collections.abc import Iterator

import pytest

import stream.log.kafka_client
import stream.log.kafka_log
from stream.events.topics import ITEMS
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.log.kafka_log import KafkaLog
from stream.log.log_scan import read_range
from stream.log.protocol import START
from stream.runtime.errors import LogError, LogUnavailable
from stream.runtime.settings import Settings
from tests.support.stack_faults import stop_server
from tests.support.waiting import wait_until
from thalweg.stack.stack import Stack, up

PARTITIONS = 2
pytestmark = pytest.mark.timeout(400)  # a broker that is started again, on a machine that may be busy


@pytest.fixture
def settings(stack: Stack, topic_prefix: str) -> Iterator[Settings]:
    """Topics of this test's own, on a broker that runs again afterwards."""
    made = Settings(kafka=stack.kafka, redis=stack.redis, topic_prefix=topic_prefix, partitions=PARTITIONS)
    apply_topics(made, plan_topics(made))
    try:
        yield made
    finally:
        up(stack.root)


def senders() -> set[threading.Thread]:
    """The threads that send for a producer of kafka-python."""
    return {thread for thread in threading.enumerate() if "-producer-" in thread.name}


def values(log: KafkaLog) -> list[bytes | None]:
    """The values in `items`, partition by partition."""
    return [r.value for r in read_range(log, ITEMS.name, dict.fromkeys(range(PARTITIONS), START), log.ends(ITEMS.name))]


def test_a_log_that_is_closed_while_no_broker_answers(
    stack: Stack, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that no broker answers, and leaves: nothing is sent by anybody when the broker comes back."""
    others = senders()
    log = KafkaLog(settings)
    log.send(ITEMS.name, 0, b"before", b"i1")
    log.flush()
    assert senders() > others
    stop_server(stack.root, "broker", kill=True)
    log.send(ITEMS.name, 0, b"lost", b"i1")
    with monkeypatch.context() as impatient:
        impatient.setattr(stream.log.kafka_log, "FLUSH_S", 1.0)
        with pytest.raises(LogUnavailable, match="no Kafka broker answers"):
            log.close()
    wait_until(lambda: senders() <= others, "the producer's thread to end", 10.0)
    up(stack.root)
    log = KafkaLog(settings)
    log.send(ITEMS.name, 0, b"after", b"i1")
    log.close()
    log = KafkaLog(settings)
    assert values(log) == [b"before", b"after"]
    log.close()


def test_a_producer_that_lost_a_record_is_replaced(
    stack: Stack, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a failure was raised, all that the old producer has is in doubt: it ends, and sends nothing later."""
    for module in (stream.log.kafka_client, stream.log.kafka_log):
        monkeypatch.setattr(module, "REQUEST_S", 3.0)
    monkeypatch.setattr(stream.log.kafka_log, "DELIVERY_S", 3.5)  # kafka-python takes no less with requests of 3 s
    others = senders()
    log = KafkaLog(settings)
    for partition in range(PARTITIONS):
        log.send(ITEMS.name, partition, b"before", b"i1")
    log.flush()
    old = senders() - others
    assert old
    stop_server(stack.root, "broker", kill=True)
    started = time.monotonic()
    log.send(ITEMS.name, 0, b"given up", b"i1")
    time.sleep(2.5)
    raised: list[LogError] = []
    while not raised:  # while the first one is given up, there are younger ones
        try:
            log.send(ITEMS.name, 1, b"younger", b"i1")
        except LogError as bad:
            raised.append(bad)
        assert time.monotonic() - started < 100.0, "nothing was given up"
        time.sleep(0.2)
    up(stack.root)

    def sent() -> bool:
        try:
            log.send(ITEMS.name, 1, b"again", b"i1")
            log.flush()
        except LogError:
            return False
        return True

    wait_until(sent, "the log to go on")
    wait_until(lambda: not senders() & old, "the old producer's thread to end", 10.0)
    log.close()
    log = KafkaLog(settings)
    assert values(log)[-1] == b"again"
    assert b"given up" not in values(log)
    log.close()
    assert senders() <= others
