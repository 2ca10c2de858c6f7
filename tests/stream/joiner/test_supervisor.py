"""How a joiner starts: what it loads before it joins its group, and what it asks Kafka."""

import asyncio
import subprocess
import sys
from uuid import uuid4

from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from stream.joiner.kafka_clients import partitions_of
from stream.runtime.settings import Settings
from thalweg.stack.stack import Stack


def test_what_the_group_does_not_wait_for_is_not_loaded_first() -> None:
    """numba loads while the group is joined; the clients of Redis and kafka-python where they are used."""
    late = {"numba", "numpy", "redis", "kafka"}
    says = subprocess.run(
        [sys.executable, "-c", f"import sys, stream.joiner.supervisor; print(sorted({late} & set(sys.modules)))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert says.stdout.strip() == "[]"


def test_partitions_are_counted_and_no_topic_is_created(stack: Stack) -> None:
    """As many as the topics have; None where one isn't there, and asking doesn't create it."""
    prefix = f"s{uuid4().hex[:8]}."
    settings = Settings(kafka=stack.kafka, redis=stack.redis, topic_prefix=prefix)
    admin = KafkaAdminClient(bootstrap_servers=stack.kafka)
    try:
        admin.create_topics([NewTopic(prefix + "events", 3, 1), NewTopic(prefix + "examples", 1, 1)])
        admin.wait_for_topics([prefix + "events", prefix + "examples"])
        assert asyncio.run(partitions_of(settings, ["events", "examples"])) == {"events": 3, "examples": 1}
        assert asyncio.run(partitions_of(settings, ["events", "nowhere"])) is None
        assert prefix + "nowhere" not in admin.list_topics()
    finally:
        admin.close()


def test_a_broker_that_is_not_there_is_no_answer() -> None:
    """Whoever asks gets None, and another client says what is wrong."""
    assert asyncio.run(partitions_of(Settings(kafka="127.0.0.1:9"), ["events"])) is None
