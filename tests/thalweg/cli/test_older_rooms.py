"""An upgrade is finalized once every room runs this release: `thalweg apply-topics --finalize` sees them."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaConsumer
from kafka.structs import OffsetAndMetadata, TopicPartition

from stream.events.topics import EVENTS, FORMATS, REQUESTS, TOPICS
from stream.joiner.commit_metadata import encode_metadata
from stream.joiner.join import RestartPoint
from stream.joiner.label_rules import LabelRules
from stream.log.format_level import read_level
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.log.kafka_client import client_options
from stream.log.kafka_log import KafkaLog
from stream.runtime.errors import SettingsError
from stream.runtime.formats import LEVEL
from stream.runtime.settings import Settings
from stream.snapshots.manifest import BUILD_LEVEL
from stream.snapshots.redis_store import RedisStore
from tests.support.ranker_world import toy
from tests.support.waiting import wait_until
from thalweg.cli.format_level import format_level_line
from thalweg.cli.older_rooms import older_rooms
from thalweg.stack.stack import Stack

RULES = LabelRules()
TRIES, JOIN_S = 3, 30.0


@pytest.fixture
def settings(stack: Stack, topic_prefix: str, tmp_path: Path) -> Settings:
    """A deployment with the topics that release 0.2 made."""
    found = Settings(kafka=stack.kafka, redis=stack.redis, topic_prefix=topic_prefix, local=tmp_path, partitions=2)
    apply_topics(found, plan_topics(found, tuple(t for t in TOPICS if t != FORMATS and t.level == 1)))
    return found


def commit(settings: Settings, partition: int, *, earlier: bool) -> None:
    """A commit as a joiner of this release writes it, or of an earlier one."""
    stored = json.loads(encode_metadata(RestartPoint(0, 0, 0), RULES, "m"))
    if earlier:
        del stored["release"]
    at = TopicPartition(settings.topic(EVENTS.name), partition)
    consumer = KafkaConsumer(**client_options(settings), group_id=settings.topic("joiner"), enable_auto_commit=False)
    with closing(consumer):
        consumer.assign([at])
        consumer.commit({at: OffsetAndMetadata(0, json.dumps(stored), -1)})


@pytest.fixture
def earlier_ranker(settings: Settings) -> Iterator[KafkaConsumer]:
    """A member of the rankers' group that calls itself what kafka-python does."""
    options = client_options(settings) | {"group_id": settings.topic("ranker-m")}
    for _ in range(TRIES):  # once, on a busy machine, kafka-python's polls didn't find their coordinator in two minutes
        with closing(KafkaConsumer(settings.topic(REQUESTS.name), **options)) as consumer:
            deadline_s = time.monotonic() + JOIN_S
            while not (consumer.poll(1_000) or consumer.assignment()) and time.monotonic() < deadline_s:
                pass
            if consumer.assignment():
                yield consumer
                return
    pytest.fail("the earlier ranker didn't join")


def test_rooms_of_an_earlier_release_are_named(settings: Settings, earlier_ranker: KafkaConsumer) -> None:
    """Each by what it left; finalizing is refused until none is left, and then every room may write the new formats."""
    store, model = RedisStore(settings, "m"), toy()
    assert older_rooms(settings) == [], "no joiner has named a model yet"
    commit(settings, 0, earlier=True)
    commit(settings, 1, earlier=False)
    model.publish(store)
    assert older_rooms(settings) == [
        "the joiner of partitions 0 of events", "the learner of m", "1 of 1 rankers of m",
    ]  # fmt: skip
    with pytest.raises(SettingsError, match=r"the learner of m, 1 of 1 rankers of m when last seen.*finalize again"):
        format_level_line(settings, finalize=True)
    with closing(KafkaLog(settings)) as log:
        assert read_level(log) == 1
        commit(settings, 0, earlier=False)
        model.publish(store, metrics={BUILD_LEVEL: float(LEVEL)})
        reader = log.group_reader(REQUESTS.name, "ranker-m", "b")
        earlier_ranker.close()
        wait_until(lambda: reader.poll(0.1) or reader.assigned(), "this release's ranker to join")
        wait_until(lambda: not older_rooms(settings), "the earlier one to be gone")
        assert "from now on" in format_level_line(settings, finalize=True)
        assert read_level(log) == LEVEL
        reader.close()
    store.close()
