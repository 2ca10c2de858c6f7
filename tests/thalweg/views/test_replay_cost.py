"""What a restart of the joiner costs now."""

from pathlib import Path

from kafka import KafkaAdminClient
from kafka.structs import OffsetAndMetadata, TopicPartition

from stream.events.codec import encode_record
from stream.events.topics import EVENTS
from stream.events.types import Impression, Install, Tick
from stream.log.kafka_admin import apply_topics, group_commits, plan_topics
from stream.log.kafka_log import KafkaLog
from stream.runtime.settings import Settings
from thalweg.stack.stack import Stack
from thalweg.views.replay_cost import replay_cost


def test_what_lies_behind_the_commits_is_read_again(stack: Stack, topic_prefix: str, tmp_path: Path) -> None:
    """Records and pages between commits and end are told, once there is a commit; without a broker nothing is."""
    settings = Settings(kafka=stack.kafka, topic_prefix=topic_prefix, local=tmp_path, partitions=2)
    apply_topics(settings, plan_topics(settings))
    assert replay_cost(settings) is None
    log = KafkaLog(settings)
    for k in range(10):
        events = [Impression(f"r{k}-{n}", 1_000 + k, "u", ["a"]) for n in range(3)]
        log.send(EVENTS.name, k % 2, encode_record([*events, Install("u", "a", 1_000 + k, f"i{k}")]))
    log.close()
    admin = KafkaAdminClient(bootstrap_servers=stack.kafka)
    at = {TopicPartition(settings.topic(EVENTS.name), p): OffsetAndMetadata(1 + p, "", -1) for p in range(2)}
    admin.alter_group_offsets(settings.topic("joiner"), at)
    admin.close()
    found = replay_cost(settings)
    assert found is not None
    assert (found.records, found.pages) == (7, 21)
    assert "7 records again, about 21 pages" in str(found)
    assert replay_cost(Settings(kafka="127.0.0.1:1", local=tmp_path)) is None


def test_a_record_stands_for_its_neighbours_only(stack: Stack, topic_prefix: str, tmp_path: Path) -> None:
    """Where ticks follow pages, or installs stand among them, the estimate of pages is theirs."""
    settings = Settings(kafka=stack.kafka, topic_prefix=topic_prefix, local=tmp_path, partitions=1)
    apply_topics(settings, plan_topics(settings))
    log = KafkaLog(settings)
    for k in range(100):
        log.send(EVENTS.name, 0, encode_record([Impression(f"r{k}-{n}", 1_000 + k, "u", ["a"]) for n in range(3)]))
    for k in range(300):
        log.send(EVENTS.name, 0, encode_record([Tick(2_000 + k)]))
    log.close()
    assert group_commits(settings, "joiner", EVENTS.name) == {}, "and the group has a coordinator now"
    admin = KafkaAdminClient(bootstrap_servers=stack.kafka)
    admin.alter_group_offsets(settings.topic("joiner"), {
        TopicPartition(settings.topic(EVENTS.name), 0): OffsetAndMetadata(0, "", -1)})  # fmt: skip
    admin.close()
    found = replay_cost(settings)
    assert found is not None
    assert (found.records, found.pages) == (400, 300)
