"""The cost of Kafka and its client alone: a loop that writes a record into `examples` for each one of `events`.

`python -m benchmarks.joiner_echo JSON` of settings: consumer and producer have the joiner's configuration.
"""

import asyncio
import json
import sys

from aiokafka import TopicPartition

from benchmarks.joiner_world import PARTITIONS
from stream.events.topics import EVENTS, EXAMPLES
from stream.joiner.kafka_clients import PARTITION_FETCH_BYTES, make_fetcher_consumer, make_producer
from stream.runtime.settings import Settings


async def echo(settings: Settings) -> None:
    """Until killed."""
    consumer, producer = make_fetcher_consumer(settings, PARTITION_FETCH_BYTES), make_producer(settings)
    await consumer.start()
    await producer.start()
    ats = [TopicPartition(settings.topic(EVENTS.name), partition) for partition in range(PARTITIONS)]
    consumer.assign(ats)
    for at, end in (await consumer.end_offsets(ats)).items():
        consumer.seek(at, end)
    while True:
        for records in (await consumer.getmany(timeout_ms=100)).values():
            for record in records:
                batch = producer.create_batch()
                batch.append(timestamp=None, key=None, value=record.value)
                await producer.send_batch(batch, settings.topic(EXAMPLES.name), partition=0)


if __name__ == "__main__":
    asyncio.run(echo(Settings(**json.loads(sys.argv[1]))))
