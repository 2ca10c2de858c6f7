"""When the joiner doesn't go on, on real Kafka: it ends, and names what is wrong and what mends it."""

import json
import time
from dataclasses import replace
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, MemberToRemove
from kafka.structs import OffsetAndMetadata

from stream.events.topics import EVENTS
from stream.joiner.commit_metadata import JOIN_VERSION
from stream.log.protocol import partition_of
from tests.support.join_oracle import net_of
from tests.support.kafka_joiner import QUICK, World, page, running
from tests.support.waiting import wait_until


def ended(world: World, worker: str = "0", **shell: Any) -> str:
    """The last line of a joiner that ends by itself."""
    (world.settings.local / f"joiner-{worker}.log").unlink(missing_ok=True)
    process = world.joiner(worker, **shell)
    try:
        assert process.wait(30) != 0
    finally:
        process.kill()
        process.wait()
    return last_words(world, worker)


def last_words(world: World, worker: str = "0") -> str:
    """The last line of a joiner."""
    return (world.settings.local / f"joiner-{worker}.log").read_text().splitlines()[-1]


def commit(world: World, at: TopicPartition, offset: int, metadata: str = "") -> None:
    """Let the group have this commit, though no joiner made it."""
    group = KafkaConsumer(bootstrap_servers=world.settings.kafka, group_id=world.settings.topic("joiner"))
    group.assign([at])
    group.commit({at: OffsetAndMetadata(offset, metadata, -1)})
    group.close(autocommit=False)


def stamped_by(world: World, whom: str) -> None:
    """Who stamps the records of `events` from now on: CreateTime, LogAppendTime."""
    admin = KafkaAdminClient(bootstrap_servers=world.settings.kafka)
    name = world.settings.topic(EVENTS.name)
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, {"message.timestamp.type": whom})])
    admin.close()


def test_a_commit_behind_the_logs_end_is_not_read_on_from_in_silence(world: World) -> None:
    """As after a log's tail was lost: the joiner stops and names both ends; with --accept-gap it takes what is new."""
    at = TopicPartition(world.settings.topic(EVENTS.name), partition_of("u", 2))
    world.send(*(page(f"r{k}", int(time.time() * 1000)) for k in range(3)))
    world.log.flush()
    commit(world, at, 100)
    said = ended(world)
    assert "LogTruncated" in said
    assert "offset 100 was wanted, but the log now starts at 0 and ends at 1:" in said
    assert "--accept-gap" in said
    with running(world, accept_gap=True, idle_ms=100):
        wait_until(lambda: len(net_of(world.examples())) == 6, wait_s=60.0)


def test_a_topic_that_producers_stamp_is_rejected(world: World) -> None:
    """The joiner ends with the command that mends it: at its start, and when it gets partitions while it runs."""
    with running(world) as process:
        wait_until(lambda: bool(world.commits()))
        stamped_by(world, "CreateTime")
        admin = KafkaAdminClient(bootstrap_servers=world.settings.kafka)
        group = world.settings.topic("joiner")
        admin.remove_group_members(group, [MemberToRemove(group_instance_id=f"{group}-0")])  # it joins again
        admin.close()
        assert process.wait(30) != 0
        assert "thalweg apply-topics" in last_words(world)
    assert "thalweg apply-topics" in ended(world)


def test_a_newer_joiners_commit_is_rejected(world: World) -> None:
    """An older joiner would rebuild another state."""
    commit(world, TopicPartition(world.settings.topic(EVENTS.name), 0), 0, json.dumps({"version": JOIN_VERSION + 1}))
    said = ended(world)
    assert f"made by a newer joiner (version {JOIN_VERSION + 1} of the join, this is {JOIN_VERSION})" in said


def test_a_joiner_of_other_rules_does_not_share_the_group(world: World) -> None:
    """It ends when it gets a partition, and names what differs; the one that works there works on."""
    with running(world, "a", model="a") as first:
        wait_until(lambda: len(world.commits()) == 2)
        world.rules = replace(QUICK, window_ms=500)
        assert "window_ms was 400 and is 500; the model was a and is b" in ended(world, "b", model="b")
        now = int(time.time() * 1000)
        world.send(page("r", now), page("s", now, user="v"))
        wait_until(lambda: len(net_of(world.examples())) == 4, wait_s=60.0)
        assert first.poll() is None


def test_a_joiner_of_other_rules_does_not_go_on_from_the_commits(world: World) -> None:
    """It ends and names what differs; with --accept-rules it goes on."""
    now = int(time.time() * 1000)
    with running(world, model="a"):
        world.send(page("r", now))
        wait_until(lambda: 1 in world.commits())
    world.rules = replace(QUICK, window_ms=500)
    said = ended(world, model="b")
    assert "window_ms was 400 and is 500; the model was a and is b" in said
    with running(world, model="b", accept_rules=True):
        wait_until(lambda: json.loads(world.commits()[1].metadata)["model"] == "b")


def test_what_retention_takes_behind_an_idle_partitions_commit_is_no_gap(world: World) -> None:
    """A partition without events is ticked until its commit has caught up: a restart misses nothing."""
    at = TopicPartition(world.settings.topic(EVENTS.name), partition_of("u", 2))
    with running(world, idle_ms=100):
        world.send(page("r", int(time.time() * 1000)))
        wait_until(lambda: at.partition in world.commits() and world.log.ends(EVENTS.name)[at.partition] > 1)
        wait_until(lambda: world.commits()[at.partition].offset == world.log.ends(EVENTS.name)[at.partition])
        end = world.log.ends(EVENTS.name)[at.partition]
    admin = KafkaAdminClient(bootstrap_servers=world.settings.kafka)
    admin.delete_records({at: end})
    admin.close()
    assert world.log.starts(EVENTS.name)[at.partition] == end
    with running(world, idle_ms=100):
        world.send(page("s", int(time.time() * 1000)))
        wait_until(lambda: len(net_of(world.examples())) == 4)
