"""Logins to a real Kafka by tokens and by certificates, through both libraries."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from stream.events.topics import EVENTS
from stream.joiner.kafka_clients import partitions_of
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import START
from stream.runtime.errors import LogError, LogUnavailable, SettingsError
from stream.runtime.settings import Settings
from tests.support.kafka_grants import allow
from tests.support.secured_broker import SecuredBroker
from tests.support.token_server import TokenServer, unsecured_token
from tests.support.waiting import wait_until
from thalweg.views.acls import Grant


@pytest.fixture
def topic(broker: SecuredBroker, topic_prefix: str) -> str:
    """The topic `events`, which whoever is named learner may write and read."""
    admin = Settings(kafka=broker.admin, topic_prefix=topic_prefix, partitions=2)
    apply_topics(admin, plan_topics(admin, (EVENTS,)))
    allow(broker.admin, "learner", [Grant("topic", admin.topic(EVENTS.name), ("Read", "Write"))])
    return admin.topic(EVENTS.name)


@pytest.fixture
def server() -> Iterator[TokenServer]:
    """It gives out tokens of the user learner."""
    made = TokenServer()
    made.answers = [{"access_token": unsecured_token("learner", time.time()), "expires_in": 3600}]
    yield made
    made.close()


def tokens(broker: SecuredBroker, prefix: str, url: str) -> Settings:
    """Settings of a client that logs in by tokens."""
    return Settings(
        kafka=broker.sasl, kafka_security="SASL_PLAINTEXT", kafka_sasl_mechanism="OAUTHBEARER", kafka_user="me",
        kafka_password="hush", kafka_oauth_url=url, topic_prefix=prefix,
    )  # fmt: skip


def check_both_libraries(settings: Settings) -> None:
    """Write and read, and ask by aiokafka."""
    with closing(KafkaLog(settings)) as log:
        log.send(EVENTS.name, 0, b"x")
        log.flush()
        with closing(log.reader(EVENTS.name, {0: START})) as reader:
            assert wait_until(lambda: reader.poll(0.5))[0].value == b"x"
    assert asyncio.run(partitions_of(settings, [EVENTS.name])) == {EVENTS.name: 2}


def test_tokens(broker: SecuredBroker, topic: str, topic_prefix: str, server: TokenServer) -> None:
    """All clients of a process share one token, in either library."""
    check_both_libraries(tokens(broker, topic_prefix, server.url))
    assert server.asked == [("me:hush", "grant_type=client_credentials")]


def test_without_a_token(broker: SecuredBroker, topic: str, topic_prefix: str, server: TokenServer) -> None:
    """The error is of the server that gives none; an outage of it is one of the log. aiokafka's user asks the other."""
    server.answers = [503]
    settings = tokens(broker, topic_prefix, server.url)
    with pytest.raises(LogUnavailable, match="no token for Kafka"):
        KafkaLog(settings)
    assert asyncio.run(partitions_of(settings, [EVENTS.name])) is None


def test_certificates(broker: SecuredBroker, topic: str, topic_prefix: str) -> None:
    """With the key in the same file, or apart and encrypted."""
    check_both_libraries(broker.tls_settings(topic_prefix=topic_prefix, kafka_cert=str(broker.folder / "learner.pem")))
    apart = {"kafka_cert": "learner.crt", "kafka_key": "learner.key"}
    files = {name: str(broker.folder / file) for name, file in apart.items()}
    check_both_libraries(broker.tls_settings(topic_prefix=topic_prefix, **files, kafka_key_password="sesame"))


@pytest.mark.parametrize(
    ("files", "wrong"),
    [
        ({"kafka_cert": "learner.crt", "kafka_key": "learner.key", "kafka_key_password": "guess"}, "_KEY_PASSWORD"),
        ({"kafka_cert": "learner.crt", "kafka_key": "learner.key"}, "_KEY_PASSWORD"),
        ({"kafka_cert": "learner.crt"}, "_CERT: can't load .* its key in the same file"),
        ({"kafka_cert": "nowhere.pem"}, "_CERT: can't load"),
        ({"kafka_key": "learner.key"}, "_KEY is set without THALWEG_KAFKA_CERT"),
        ({"kafka_ca": "nowhere.pem"}, "_CA: can't load"),
    ],
)
def test_files_that_do_not_fit(broker: SecuredBroker, files: dict[str, str], wrong: str) -> None:
    """The error names the setting, not the password."""
    paths = {name: value if "password" in name else str(broker.folder / value) for name, value in files.items()}
    with pytest.raises(SettingsError, match=f"THALWEG_KAFKA{wrong}") as said:
        KafkaLog(broker.tls_settings(**paths))
    assert "guess" not in str(said.value)


def test_certificates_that_are_not_enough(broker: SecuredBroker, topic: str, topic_prefix: str) -> None:
    """None where the broker wants one: no login; a stranger's: no grant, and the error names the certificate."""
    with pytest.raises(LogUnavailable, match="_CERT isn't what it wants"):
        KafkaLog(broker.tls_settings(topic_prefix=topic_prefix))
    stranger = broker.folder / "stranger.pem"
    settings = broker.tls_settings(topic_prefix=topic_prefix, kafka_cert=str(stranger))
    denied = pytest.raises(LogError, match=f"denies the owner of {stranger} Describe on topic {topic} ")
    with closing(KafkaLog(settings)) as log, denied:
        log.partitions(EVENTS.name)
