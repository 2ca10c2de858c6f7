"""Topics are declared once; `plan_topics` shows what differs on the broker, `apply_topics` does it."""

from dataclasses import replace

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from stream.events.topics import DEAD_LETTERS, EVENTS, HOUR_MS, ITEMS, NAMES, REQUESTS, TOPICS, USERS, Topic
from stream.events.types import RECORD_BYTES_MAX
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.log.kafka_client import client_options
from stream.log.kafka_log import KafkaLog
from stream.log.replication import in_sync, replicas_of
from stream.runtime.errors import LogError, LogUnavailable, SettingsError
from stream.runtime.settings import Settings
from tests.support.waiting import wait_until
from thalweg.stack.stack import Stack


@pytest.fixture
def settings(stack: Stack, topic_prefix: str) -> Settings:
    """Settings of a test that has its topics for itself."""
    return Settings(kafka=stack.kafka, topic_prefix=topic_prefix, partitions=2)


def alter(settings: Settings, topic: Topic, config: dict[str, str]) -> None:
    """Set a topic's configuration, as an operator does, and wait until the broker shows it."""
    name = settings.topic(topic.name)
    with KafkaAdminClient(**client_options(settings)) as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, config)])

        def is_shown() -> bool:
            wanted = [ConfigResource(ConfigResourceType.TOPIC, name, config)]
            found = admin.describe_configs(wanted, config_filter="all")["topic"][name]
            return all(found[key]["value"] == value for key, value in config.items())

        wait_until(is_shown, f"the configuration of {name}")


def test_topics_are_declared_once() -> None:
    """No two topics share a name, and each name is one that Kafka takes."""
    names = [topic.name for topic in TOPICS]
    assert len(set(names)) == len(names)
    assert all(name.replace(".", "").isalnum() for name in names)


def test_ingest_time_is_the_brokers() -> None:
    """Every topic is stamped by the broker: freshness is measured from the log's own clock."""
    assert {topic.config()["message.timestamp.type"] for topic in TOPICS} == {"LogAppendTime"}


def test_a_record_counts_as_written_when_all_replicas_but_one_have_it() -> None:
    """A broker may be away without a record being lost, where replication allows it; a setting may ask for more."""
    wanted = {1: 1, 2: 1, 3: 2, 5: 4}
    assert {n: in_sync(Settings(), n) for n in wanted} == wanted
    assert in_sync(Settings(min_insync=3), 3) == 3
    with pytest.raises(SettingsError, match="THALWEG_MIN_INSYNC is 3, but topics have 2 replicas"):
        in_sync(Settings(min_insync=3), 2)
    assert all(topic.config(2)["min.insync.replicas"] == "2" for topic in TOPICS)


@pytest.mark.parametrize(
    ("kafka", "replication", "replicas"),
    [
        ("127.0.0.1:1", 0, 1),
        ("localhost:1,127.0.0.1:2", 0, 1),
        ("k1:9092,k2:9092", 0, 3),
        ("k:1", 1, 1),
        ("[::1]:1", 2, 2),
    ],
)
def test_replicas_by_default(kafka: str, replication: int, replicas: int) -> None:
    """One on loopback, where there is one broker; elsewhere three, so that a lost broker costs nothing."""
    assert replicas_of(Settings(kafka=kafka, replication=replication)) == replicas


def test_a_compacted_topic_never_expires_unless_it_is_for_what_is_in_use() -> None:
    """Compacted topics have no retention time, but names of values; all others have one."""
    for topic in TOPICS:
        config = topic.config()
        assert config["cleanup.policy"].startswith("compact") == topic.compacted
        assert ("retention.ms" in config) == config["cleanup.policy"].endswith("delete")
        assert config["cleanup.policy"].endswith("delete") == (not topic.compacted or topic is NAMES)


def test_tombstones_outlive_those_who_must_read_them() -> None:
    """Of an item the learner's memory of its name; of a user a stop of all joiners, which have a copy in Redis."""
    for topic in (ITEMS, USERS):
        assert int(topic.config()["delete.retention.ms"]) > 4 * 7 * 24 * HOUR_MS
    assert "delete.retention.ms" not in NAMES.config()


def test_what_was_replaced_does_not_stay_for_ever() -> None:
    """A compacted topic with little traffic is compacted, too: what an erased user's tombstones replace goes."""
    for topic in TOPICS:
        assert topic.config().get("max.compaction.lag.ms") == (str(7 * 24 * HOUR_MS) if topic.compacted else None)


def test_a_dead_letter_fits() -> None:
    """Each topic takes the largest record, and its dead letter with the reason around it."""
    for name in DEAD_LETTERS:
        assert int(DEAD_LETTERS[name].config()["max.message.bytes"]) > RECORD_BYTES_MAX + 64 * 1024
        assert DEAD_LETTERS[name].name == f"{name}.dlq"


def test_apply_makes_all_topics(settings: Settings) -> None:
    """After an apply all topics stand as declared, and the next plan is empty."""
    plan = plan_topics(settings)
    assert [change.action for change in plan] == ["create"] * len(TOPICS)
    apply_topics(settings, plan)
    assert plan_topics(settings) == []
    log = KafkaLog(settings)
    assert {t.name: log.partitions(t.name) for t in TOPICS} == {t.name: t.partitions or 2 for t in TOPICS}
    log.send("events", 1, b"x")
    log.flush()
    log.close()
    apply_topics(settings, plan)  # what somebody else has made meanwhile is no error


def test_apply_alters_only_what_differs(settings: Settings) -> None:
    """A changed declaration is shown key by key, old and new, and set without touching the rest."""
    topic = Topic("events", retention_ms=HOUR_MS)
    apply_topics(settings, plan_topics(settings, (topic,)))
    longer = replace(topic, retention_ms=2 * HOUR_MS)
    (change,) = plan_topics(settings, (longer,))
    assert change.action == "alter"
    assert change.config == (("retention.ms", str(2 * HOUR_MS)),)
    assert f"retention.ms: {HOUR_MS} -> {2 * HOUR_MS}" in str(change)
    apply_topics(settings, [change])
    assert plan_topics(settings, (longer,)) == []


def test_retention_is_a_setting_that_raises_and_never_lowers(settings: Settings) -> None:
    """A greater one is set where topics are; a smaller one leaves what is there, and says so."""
    apply_topics(settings, plan_topics(settings))
    longer = settings.model_copy(update={"events_days": 30, "examples_days": 366})
    plan = plan_topics(longer)
    assert {change.topic: change.config for change in plan} == {
        settings.topic(name): (("retention.ms", str(days * 24 * HOUR_MS)),)
        for name, days in {"events": 30, "organic": 30, "examples": 366}.items()
    }
    assert {change.action for change in plan} == {"alter"}
    apply_topics(longer, plan)
    wait_until(lambda: not plan_topics(longer), "the new retention")
    assert {change.action for change in plan_topics(settings)} == {"leave"}


def test_a_change_that_kafka_refuses_isnt_said_to_be_made(settings: Settings) -> None:
    """More days than it can count, or a change without the right to it."""
    apply_topics(settings, plan_topics(settings))
    longest = settings.model_copy(update={"examples_days": 10**14})
    with pytest.raises(LogError, match=r"won't change .*examples: .*retention\.ms"):
        apply_topics(longest, plan_topics(longest))


@pytest.mark.parametrize(
    ("key", "raised"), [("retention.ms", str(2 * HOUR_MS)), ("retention.ms", "-1"), ("max.message.bytes", "9000000")]
)
def test_what_an_operator_raised_is_lowered_by_force_alone(settings: Settings, key: str, raised: str) -> None:
    """A retention (-1: for ever) or a limit above its declaration is left, with the reason; the rest is altered."""
    topic = Topic("events", retention_ms=HOUR_MS)
    apply_topics(settings, plan_topics(settings, (topic,)))
    declared = topic.config()
    alter(settings, topic, {key: raised, "message.timestamp.type": "CreateTime"})
    left, change = plan_topics(settings, (topic,))
    assert (left.action, change.action) == ("leave", "alter")
    assert left.message == f"{key} stays {raised}, above the declared {declared[key]}; --force lowers it"
    assert change.config == (("message.timestamp.type", "LogAppendTime"),)
    apply_topics(settings, [left, change])
    assert plan_topics(settings, (topic,)) == [left]
    (forced,) = plan_topics(settings, (topic,), force=True)
    assert (forced.action, forced.config) == ("alter", ((key, declared[key]),))
    apply_topics(settings, [forced])
    assert plan_topics(settings, (topic,)) == []


def test_what_an_operator_lowered_is_raised(settings: Settings) -> None:
    """A retention below its declaration is brought back to it."""
    topic = Topic("events")
    apply_topics(settings, plan_topics(settings, (topic,)))
    alter(settings, topic, {"retention.ms": str(HOUR_MS)})
    (change,) = plan_topics(settings, (topic,))
    assert change.config == (("retention.ms", str(topic.retention_ms)),)


def test_partitions_and_replicas_are_never_changed(settings: Settings) -> None:
    """Other counts of partitions or replicas are refused with the reason and the remedy, and an apply leaves them."""
    topic = Topic("events")
    apply_topics(settings, plan_topics(settings, (topic,)))
    other = settings.model_copy(update={"partitions": 3, "replication": 2})
    three = settings.model_copy(update={"replication": 3})
    assert [change.action for change in plan_topics(three, (topic,))] == ["refuse"], "one replica can't be two in sync"
    plan = plan_topics(other, (topic,))
    assert [change.action for change in plan] == ["refuse", "refuse"]
    assert "has 2 partitions, 3 are declared" in plan[0].message
    assert "THALWEG_PARTITIONS=2" in plan[0].message
    assert "THALWEG_REPLICATION=1" in plan[1].message
    apply_topics(other, plan)
    assert plan_topics(settings, (topic,)) == []


def test_what_the_broker_refuses_is_said(settings: Settings) -> None:
    """A topic that can't be made stops the apply with the broker's own reason."""
    (creation,) = plan_topics(settings, (Topic("events"),))
    with pytest.raises(LogError, match=r"won't create .*events: .*replication"):
        apply_topics(settings, [replace(creation, replication=3)])


def test_fewer_brokers_than_replicas(settings: Settings) -> None:
    """A plan says what to set, before anything is made."""
    with pytest.raises(SettingsError, match=r"has 1 brokers, and topics get 3 replicas .*set THALWEG_REPLICATION=1"):
        plan_topics(settings.model_copy(update={"replication": 3}), (Topic("events"),))


def test_partitions_of_requests_and_replies_are_raised(settings: Settings) -> None:
    """Nothing depends on which partition a request is in. Kafka can't remove them."""
    apply_topics(settings, plan_topics(settings, (REQUESTS, EVENTS)))
    more = settings.model_copy(update={"rank_partitions": 5})
    (change,) = plan_topics(more, (REQUESTS, EVENTS))
    assert (change.action, change.partitions, change.config) == ("alter", 5, ())
    assert "partitions: 2 -> 5" in str(change)
    apply_topics(more, [change])
    assert plan_topics(more, (REQUESTS, EVENTS)) == []
    (refusal,) = plan_topics(settings, (REQUESTS, EVENTS))
    assert refusal.action == "refuse"
    assert "set THALWEG_RANK_PARTITIONS=5" in refusal.message


def test_without_a_broker_a_plan_says_so() -> None:
    """No broker: one line with the address."""
    with pytest.raises(LogUnavailable, match=r"no Kafka broker answers at 127\.0\.0\.1:1 "):
        plan_topics(Settings(kafka="127.0.0.1:1"))
