"""A Kafka with an authorizer: rooms, producers, callers and the operator have exactly the grants of docs/acls.md."""

import json
import re
from contextlib import closing
from pathlib import Path
from typing import Final

import httpx
import pytest

from learner.backup.kafka_topics import stored_topics
from learner.backup.topic_records import COMPACTED
from producers.clock import Clock
from producers.replay import ReplayOptions, replay
from producers.store.rankers import LogRankers
from stream.events.topics import EVENTS, EXAMPLES, ITEMS, REQUESTS, TOPICS, USERS
from stream.events.types import Erase, Impression, Install, RankRequest
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.log.kafka_groups import group_commits
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import START
from stream.runtime.errors import LogError
from stream.runtime.health import run_file
from stream.runtime.settings import Settings
from tests.support.forked_services import Nest
from tests.support.kafka_grants import Decision, allow, decisions, operation_of
from tests.support.secured_broker import PASSWORD, SecuredBroker
from tests.support.waiting import wait_until
from tests.support.whole_system import House, world
from thalweg.stack.stack import Stack
from thalweg.views.acls import BACKED_UP, CLUSTER, ROLES, Grant, Operation, grants

pytestmark = pytest.mark.timeout(400)  # real processes, on a machine that may be busy

MODEL: Final = "small"
VISITOR: Final = "visitor"  # nobody has described this user
EVOLVE: Final = ("items", "users")  # topics that only a learner's `thalweg evolve` reads, to a spec with other columns
LOOK_S: Final = 0.5  # between two looks into the broker's log


class SecuredHouse(House):
    """Rooms that log in as themselves."""

    def __init__(self, nest: Nest, stack: Stack, broker: SecuredBroker, prefix: str, home: Path) -> None:
        super().__init__(nest, stack.__replace__(kafka=broker.admin), prefix, home)
        spec = self.spec_file.read_text().replace('window = "2s"', 'window = "2s"\norganic = true')
        self.spec_file.write_text(spec.replace("[context]", '[context]\ndevice = "category"'))
        self._broker = broker

    def settings_of(self, room: str) -> dict[str, object]:
        """As a user named like the room."""
        return super().settings_of(room) | self.login(room)

    def login(self, user: str) -> dict[str, object]:
        """Settings of a user."""
        return {
            "kafka": self._broker.sasl, "kafka_security": "SASL_PLAINTEXT", "kafka_user": user,
            "kafka_password": PASSWORD.format(user),
        }  # fmt: skip


def test_rooms_live_with_their_rows(
    nest: Nest, stack: Stack, broker: SecuredBroker, topic_prefix: str, tmp_path: Path
) -> None:
    """Each does all of its work, and is denied nothing; and no row has more than what is used."""
    settings = Settings(kafka=broker.sasl, topic_prefix=topic_prefix)
    for role in ROLES:
        allow(broker.admin, role, grants(role, settings, MODEL))
    operator = broker.settings("operator", topic_prefix, partitions=2)
    apply_topics(operator, plan_topics(operator))
    assert plan_topics(operator) == []
    house = SecuredHouse(nest, stack, broker, topic_prefix, tmp_path)
    house.settings = house.settings.model_copy(update={"ranker_http": "127.0.0.1:0"})
    try:
        house.start("joiner", "learner", "ranker", ready=False)
        producer = KafkaLog(broker.settings("producer", topic_prefix))
        with closing(producer):
            events = [
                *world(200, 5),
                Install("u1", "i1", 1_700_000_000_000, "organic"),
                Erase("u39", 1_700_000_000_000),
                Impression("visitor", 1_700_000_000_000, VISITOR, ["i1"], context={"device": "phone"}),
            ]
            replay(producer, events, spec=house.spec, options=ReplayOptions(400.0), clock=Clock(), notify=print)
            for topic in (EVENTS, ITEMS, USERS):
                producer.send(topic.name, 0, b"\xc1 what nobody can read", b"x")
            producer.flush()
        with closing(KafkaLog(Settings(kafka=broker.admin, topic_prefix=topic_prefix))) as log:
            log.send(EXAMPLES.name, 0, b"\xc1 what nobody can read")
        for room in ("joiner", "learner", "ranker"):
            house.wait_ready(room)
        ask(broker.settings("caller", topic_prefix))
        address = json.loads(run_file(house.settings, "ranker").read_text())["http"]
        sent = [
            {"type": "install", "user": "u1", "item": "i1", "time": "2024-11-24T08:00:01Z", "install_id": "h1"},
            {"type": "item", "item": "i1", "attributes": {}},
            {"type": "user", "user": "u1", "attributes": {"age": 3}},
        ]
        answer = httpx.post(f"http://{address}/v1/events", json=sent, timeout=30.0)
        assert answer.is_success, answer.text
        names = Decision("ranker", "WRITE", "Topic", settings.topic("feature.names"))
        wait_until(lambda: names not in unused(broker, settings), "the visitor's id to be named", every_s=LOOK_S)
        command = ["erase", VISITOR, "--spec", str(house.spec_file)]
        erased = nest.run("thalweg", command, house.settings_of("operator"), tmp_path / "erase.log")
        assert erased.wait(60.0) == 0, (tmp_path / "erase.log").read_text()
        house.end("joiner")
        house.start("joiner")  # it reads who was erased
        elsewhere = {Decision("learner", "READ", "Topic", settings.topic(name)) for name in EVOLVE}
        wait_until(lambda: unused(broker, settings) <= elsewhere, "every grant to be used", 60.0, LOOK_S)
    finally:
        house.end()
    denied = decisions(broker.log, "Denied")
    assert [one for one in denied if one.kind == "Cluster" or one.name.startswith(topic_prefix)] == []


def unused(broker: SecuredBroker, settings: Settings) -> set[Decision]:
    """Grants of which the broker's log has no use. The operator's are on all."""
    used = decisions(broker.log, "Allowed").keys()
    return {
        Decision(role, operation_of(operation), grant.kind.capitalize(), grant.name)
        for role, needs in ROLES.items()
        if not needs.everything
        for grant in grants(role, settings, MODEL)
        for operation in grant.operations
    } - used


def ask(settings: Settings) -> None:
    """Ask over Kafka until there's an answer; then something that a ranker rejects."""
    with closing(KafkaLog(settings)) as log, closing(LogRankers(log)) as rankers:

        def is_ranked_by_a_version() -> bool:
            rankers.ask([RankRequest("q1", VISITOR, k=5, deadline_ms=60_000)])
            return any(reply.version for reply, _ in rankers.replies(1.0))

        wait_until(is_ranked_by_a_version, "a version to rank by")
        log.send(REQUESTS.name, 0, b"\xc1 what nobody can read")


def without(found: list[Grant], name: str, operation: Operation) -> list[Grant]:
    """All but one operation on one topic or group."""
    assert any(grant.name == name and operation in grant.operations for grant in found)
    return [
        grant._replace(operations=tuple(one for one in grant.operations if one != operation or grant.name != name))
        for grant in found
    ]


@pytest.mark.parametrize(
    ("room", "name", "operation", "denied"),
    [
        ("joiner", "examples", "Write", "(Write|Describe) on topic P.examples"),
        ("joiner", "events", "Read", "Read on topic P.events"),
        ("joiner", "joiner", "Read", "Read on group P.joiner"),
        ("joiner", "events", "DescribeConfigs", "DescribeConfigs on topic P.events"),
        ("learner", "examples", "Read", "Describe on topic P.examples"),
        ("ranker", "rank.requests", "Read", "(Read|Describe) on topic P.rank.requests"),
        ("ranker", "ranker-small", "Read", "Read on group P.ranker-small"),
        ("ranker", "rank.replies", "Write", "Describe on topic P.rank.replies"),
    ],
)
def test_a_missing_grant_is_named(
    nest: Nest, stack: Stack, broker: SecuredBroker, topic_prefix: str, tmp_path: Path,
    room: str, name: str, operation: Operation, denied: str,
) -> None:  # fmt: skip
    """The room's log says whom the broker denies what, on which topic or group, and where the remedy is."""
    settings = Settings(kafka=broker.sasl, topic_prefix=topic_prefix)
    allow(broker.admin, room, without(grants(room, settings, MODEL), settings.topic(name), operation))
    house = SecuredHouse(nest, stack, broker, topic_prefix, tmp_path)
    try:
        house.start(room, ready=False)
        with closing(KafkaLog(house.settings)) as log:
            replay(log, world(20, 5), spec=house.spec, options=ReplayOptions(), clock=Clock(), notify=print)
        said = f"denies user '{room}' {denied.replace('P.', re.escape(topic_prefix))} .*`thalweg acls`"
        wait_until(lambda: re.search(said, (tmp_path / f"{room}.log").read_text()), said)
    finally:
        print((tmp_path / f"{room}.log").read_text())
        house.end()


def test_a_learner_backs_up_by_its_row(broker: SecuredBroker, topic_prefix: str) -> None:
    """With THALWEG_BACKUP it has more: what a backup asks of Kafka."""
    admin = Settings(kafka=broker.admin, topic_prefix=topic_prefix, partitions=1)
    apply_topics(admin, plan_topics(admin))
    learner = broker.settings("learner", topic_prefix).model_copy(update={"backup": "/backups"})
    granted = grants("learner", learner, MODEL)
    for lacking in ("Describe", "DescribeConfigs"):
        with pytest.raises(LogError, match=rf"denies user 'learner' {lacking} on topic .*`thalweg acls`"):
            stored_topics(learner)
        allow(broker.admin, "learner", [one._replace(operations=("Describe",)) for one in granted])
    allow(broker.admin, "learner", granted)
    assert len(stored_topics(learner)) == len(TOPICS)
    assert BACKED_UP == COMPACTED
    may_read = {one.name for one in grants("learner", learner, MODEL) if "Read" in one.operations}
    assert {learner.topic(topic.name) for topic in COMPACTED} <= may_read


def test_what_a_client_is_denied(broker: SecuredBroker, topic_prefix: str) -> None:
    """Each of the log's clients names the user, the operation, and the topic or group."""
    settings = broker.settings("nobody", topic_prefix, partitions=1)
    admin = Settings(kafka=broker.admin, topic_prefix=topic_prefix, partitions=1)
    with pytest.raises(LogError, match="denies user 'nobody' Describe on topic"):
        plan_topics(settings)
    topics = settings.topic(EVENTS.name), settings.topic(EXAMPLES.name)
    allow(broker.admin, "nobody", [Grant("topic", topic, ("Describe",)) for topic in topics])
    allow(broker.admin, "nobody", [Grant("cluster", CLUSTER, ("Describe",))])
    plan = plan_topics(settings, (EVENTS, EXAMPLES))
    with pytest.raises(LogError, match=f"won't create ({'|'.join(topics)}): .*Authorization"):
        apply_topics(settings, plan)
    apply_topics(admin, plan)
    with closing(KafkaLog(settings)) as log:
        log.send(EVENTS.name, 0, b"x")
        with pytest.raises(LogError, match="denies user 'nobody' Write on every topic "):
            log.flush()
    allow(broker.admin, "nobody", [Grant("topic", topics[1], ("Write",))])
    with closing(KafkaLog(settings)) as log:
        log.send(EVENTS.name, 0, b"x")
        with pytest.raises(LogError, match=f"denies user 'nobody' Write on topic {topics[0]} "):
            log.flush()
        with (
            closing(log.reader(EVENTS.name, {0: START})) as reader,
            pytest.raises(LogError, match=f"denies user 'nobody' Read on topic {topics[0]} "),
        ):
            wait_until(lambda: reader.poll(0.5), "what can't be read")
        with (
            closing(log.group_reader(EVENTS.name, "mine", "0")) as member,
            pytest.raises(LogError, match=f"denies user 'nobody' Read on group {topic_prefix}mine "),
        ):
            wait_until(lambda: member.poll(0.5), "what can't be joined")
        outcomes: list[LogError | None] = []
        with closing(log.sender("1")) as sender:
            sender.send(EVENTS.name, 0, b"x", outcomes.append)
            wait_until(lambda: outcomes, "the outcome")
        assert f"denies user 'nobody' Write on topic {topics[0]} " in str(outcomes[0])
    with pytest.raises(LogError, match=f"denies user 'nobody' Describe on group {topic_prefix}joiner "):
        group_commits(settings, "joiner", EVENTS.name)
