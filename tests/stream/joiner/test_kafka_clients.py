"""aiokafka's clients: what was found by killing them is set, and reaches them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import codec
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from stream.joiner import kafka_clients
from stream.joiner.kafka_clients import FETCH_WAIT_MS, connection_options, make_consumer, make_producer
from stream.log.dead_letters import ORIGINAL_BYTES_MAX, dead_letter
from stream.log.protocol import Record
from stream.runtime.errors import SettingsError
from stream.runtime.settings import Settings

READS = {
    "fetch_max_wait_ms": FETCH_WAIT_MS,  # so long a partition may wait that isn't part of the fetch on its way
    "max_partition_fetch_bytes": 1024 * 1024,  # so much is buffered of each
    "session_timeout_ms": 10_000,  # so long do a dead worker's partitions wait
    "heartbeat_interval_ms": 2_000,
    "rebalance_timeout_ms": 15_000,
    "group_id": "p.joiner",
    "group_instance_id": "p.joiner-0",
    "auto_offset_reset": "none",
    "isolation_level": "read_committed",
    "enable_auto_commit": False,
    "partition_assignment_strategy": (StickyPartitionAssignor,),
}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A settings' consumer and producer, as the options that they are made with."""
    for name in ("AIOKafkaConsumer", "AIOKafkaProducer"):
        monkeypatch.setattr(kafka_clients, name, lambda **options: SimpleNamespace(**options))
    settings = Settings(kafka="127.0.0.1:1", local=tmp_path, topic_prefix="p.")
    return SimpleNamespace(consumer=make_consumer(settings), producer=make_producer(settings))


@pytest.mark.parametrize(("name", "value"), READS.items(), ids=list(READS))
def test_the_consumer_is_set_up_as_it_works(made: Any, name: str, value: object) -> None:
    """Otherwise time is lost when reading, restarting, or sharing; or records are lost."""
    assert getattr(made.consumer, name) == value


def test_the_producer_waits_for_nothing_and_takes_whole_records(made: Any) -> None:
    """A batch goes out at once, counts when all replicas have it, and the largest dead letter fits a request."""
    assert (made.producer.linger_ms, made.producer.acks) == (0, "all")
    assert made.producer.request_timeout_ms == 1_200_000  # a broker may be away for so long
    letter = dead_letter(bytes(2 * ORIGINAL_BYTES_MAX), "BadEvent", "why" * 1_000, Record("events", 0, 0, 0, None, b""))
    assert len(letter.value or b"") < made.producer.max_request_size


def test_login_and_tls_are_those_of_the_settings(tmp_path: Path) -> None:
    """A CA file that can't be read is a setting's mistake."""
    plain = Settings(kafka="a:1, b:2")
    assert connection_options(plain) == {"bootstrap_servers": ["a:1", "b:2"], "security_protocol": "PLAINTEXT"}
    sasl = connection_options(
        Settings(kafka="a:1", kafka_security="SASL_SSL", kafka_user="me", kafka_password="secret")
    )
    assert sasl.pop("ssl_context") is not None
    assert (sasl["sasl_mechanism"], sasl["sasl_plain_username"], sasl["sasl_plain_password"]) == (
        "PLAIN", "me", "secret"
    )  # fmt: skip
    with pytest.raises(SettingsError, match="THALWEG_KAFKA_CA"):
        connection_options(Settings(kafka="a:1", kafka_security="SSL", kafka_ca=str(tmp_path / "none")))


def test_compressed_topics_can_be_read() -> None:
    """aiokafka finds what it needs for each codec: without, a compressed topic ends the worker."""
    assert [has() for has in (codec.has_gzip, codec.has_snappy, codec.has_lz4, codec.has_zstd)] == [True] * 4
