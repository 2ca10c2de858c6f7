"""Joiners as processes on a real Kafka, with topics and a log of a test's own."""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.structs import OffsetAndMetadata

from stream.events.codec import decode_events, decode_examples, decode_organic, encode_record
from stream.events.topics import EVENTS, EXAMPLES, ORGANIC, TOPICS
from stream.events.types import Examples, Impression, Install, Organic
from stream.joiner.label_rules import LabelRules
from stream.log.kafka_groups import group_commits
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import START, Record, partition_of
from stream.runtime.health import run_file
from stream.runtime.settings import Settings
from tests.support.forked_services import ForkedProcess, Nest
from tests.support.join_oracle import offline
from tests.support.waiting import wait_until
from thalweg.stack.stack import Stack

QUICK = LabelRules(policy="eager", window_ms=400, known_ms=400)  # soon committed


def page(request_id: str, time_ms: int, user: str = "u", items: str = "ab") -> Impression:
    """A page; `items` one letter each."""
    return Impression(request_id, time_ms, user, list(items))


class World:
    """Topics of one test on the shared stack, and joiners that work on them by its rules."""

    rules = QUICK

    def __init__(self, nest: Nest, stack: Stack, prefix: str, local: Path) -> None:
        self._nest = nest
        self.settings = Settings(kafka=stack.kafka, redis=stack.redis, topic_prefix=prefix, local=local, partitions=2)
        admin = KafkaAdminClient(bootstrap_servers=stack.kafka)
        admin.create_topics([NewTopic(prefix + t.name, t.partitions or 2, 1, topic_configs=t.config()) for t in TOPICS])
        admin.close()
        self.more_settings: dict[str, Any] = {}
        self.log = KafkaLog(self.settings, compression="lz4")  # as producers may: aiokafka needs more than lz4 for it

    def joiner(self, worker: str = "0", **options: Any) -> ForkedProcess:
        """Start a joiner process."""
        settings = {
            "kafka": self.settings.kafka,
            "redis": self.settings.redis,
            "topic_prefix": self.settings.topic_prefix,
            "local": str(self.settings.local),
            "worker": worker,
        } | self.more_settings
        given = json.dumps({"settings": settings, "rules": asdict(self.rules), "options": options})
        return self._nest.run("joiner", [given], {}, self.settings.local / f"joiner-{worker}.log")

    def health(self, path: str, worker: str = "0") -> str:
        """What a joiner answers on one of its paths; empty when it doesn't."""
        try:
            port = json.loads(run_file(self.settings.model_copy(update={"worker": worker}), "joiner").read_text())[
                "port"
            ]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=2) as answer:
                return str(answer.read().decode())
        except (OSError, ValueError):
            return ""

    def send(self, *events: Impression | Install) -> None:
        """One record for each user's partition."""
        for partition in range(2):
            part = [event for event in events if partition_of(event.user, 2) == partition]
            if part:
                self.log.send(EVENTS.name, partition, encode_record(part))

    def all_of(self, topic: str) -> list[Record]:
        """Every record that is in the topic now."""
        ends = self.log.ends(topic)
        reader = self.log.reader(topic, dict.fromkeys(ends, START))
        found: list[Record] = []
        try:
            while any(at < ends[partition] for partition, at in reader.positions().items()):
                found += reader.poll(1.0)
        finally:
            reader.close()
        return found

    def examples(self) -> list[Examples]:
        """All examples that were emitted so far."""
        return [one for record in self.all_of(EXAMPLES.name) for one in decode_examples(record.value or b"")[0]]

    def organic(self) -> list[tuple[int, Organic]]:
        """Every organic install that was written so far, with its partition."""
        records = self.all_of(ORGANIC.name)
        return [(record.partition, one) for record in records for one in decode_organic(record.value or b"")[0]]

    def oracle(self) -> dict[tuple[str, str], int]:
        """Net labels of the offline join over all of `events`, ticks of the joiner included."""
        net: dict[tuple[str, str], int] = {}
        records = self.all_of(EVENTS.name)
        for partition in range(2):
            log = [e for r in records if r.partition == partition for e in decode_events(r.value or b"")[0]]
            net |= offline(log, self.rules)
        return net

    def commits(self) -> dict[int, Any]:
        """The group's commits: {partition: offset and metadata}."""
        found = group_commits(self.settings, "joiner", EVENTS.name)
        return {partition: OffsetAndMetadata(*stored, -1) for partition, stored in found.items()}

    def members(self) -> set[str | None]:
        """The names by which the broker knows the group's members; None for one that it knows for this life only."""
        admin = KafkaAdminClient(bootstrap_servers=self.settings.kafka)
        try:
            group = self.settings.topic("joiner")
            return {member["group_instance_id"] for member in admin.describe_groups([group])[group]["members"]}
        finally:
            admin.close()


@contextmanager
def running(world: World, worker: str = "0", **options: Any) -> Iterator[ForkedProcess]:
    """A joiner that is at work, and gone afterwards."""
    process = world.joiner(worker, **options)
    try:
        wait_until(lambda: "partitions assigned" in world.health("readyz", worker))
        yield process
    finally:
        process.kill()
        process.wait()
