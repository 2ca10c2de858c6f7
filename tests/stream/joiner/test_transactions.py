"""Producers that write in transactions: their markers take offsets, and are no records."""

import asyncio
import json
import time

from aiokafka import AIOKafkaProducer

from stream.events.codec import decode_events, encode_record
from stream.events.topics import EVENTS
from stream.events.types import Impression
from stream.log.kafka_log import KafkaLog
from stream.log.log_scan import read_range
from stream.log.protocol import START
from tests.support.join_oracle import net_of
from tests.support.kafka_joiner import World, page, running
from tests.support.waiting import wait_until

USERS = ("w5", "w0")  # by partition


async def in_transactions(world: World, name: str, count: int, aborted: int = 0) -> None:
    """So many transactions, each with a page in each of two partitions; the last ones are aborted."""
    producer = AIOKafkaProducer(bootstrap_servers=world.settings.kafka, transactional_id=world.settings.topic(name))
    await producer.start()
    try:
        for k in range(count):
            now = int(time.time() * 1000)
            await producer.begin_transaction()
            for p, user in enumerate(USERS):
                pages = encode_record([page(f"{name}{k}-{p}", now, user)])
                await producer.send_and_wait(world.settings.topic(EVENTS.name), pages, partition=p)
            await (producer.commit_transaction() if k < count - aborted else producer.abort_transaction())
    finally:
        await producer.stop()


def test_a_joiner_goes_on_over_the_markers_of_transactions(world: World) -> None:
    """While it runs, where it starts again, and where a marker is all that follows: every window comes to its end."""
    with running(world, idle_ms=200) as process:
        asyncio.run(in_transactions(world, "a", 6, aborted=2))  # those never happened
        wait_until(lambda: len(net_of(world.examples())) == 16)
        assert process.poll() is None
        wait_until(lambda: all(json.loads(stored.metadata)["finished_ms"] for stored in world.commits().values()))
    asyncio.run(in_transactions(world, "b", 3))
    with running(world, idle_ms=200) as process:
        wait_until(lambda: len(net_of(world.examples())) == 28)
        assert process.poll() is None
    assert "Gap" not in (world.settings.local / "joiner-0.log").read_text()


def test_a_reader_reads_to_an_end_that_is_a_marker(world: World) -> None:
    """Whoever looks back over a stretch gets its records, and comes to its end."""
    asyncio.run(in_transactions(world, "a", 3))
    log = KafkaLog(world.settings)
    try:
        ends = {0: 6, 1: 6}
        wait_until(lambda: log.ends(EVENTS.name) == ends)  # a broker writes markers after it has said that all is well
        found = list(read_range(log, EVENTS.name, dict.fromkeys(ends, START), ends))
    finally:
        log.close()
    events = [event for record in found for event in decode_events(record.value or b"")[0]]
    assert sorted(e.request_id for e in events if isinstance(e, Impression)) == [
        f"a{k}-{p}" for k in range(3) for p in (0, 1)
    ]
