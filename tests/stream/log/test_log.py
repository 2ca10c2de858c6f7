"""Both logs keep one contract; what only Kafka can do wrong is held here too."""

import itertools
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, TopicPartition

import stream.log.kafka_client
from stream.events.types import RECORD_BYTES_MAX
from stream.log.kafka_client import client_options
from stream.log.kafka_log import REQUEST_BYTES_MAX, KafkaLog
from stream.log.memory_log import MemoryLog
from stream.log.protocol import START, partition_of
from stream.runtime.errors import LogError, LogUnavailable, SettingsError
from stream.runtime.settings import Settings
from tests.support.log_checks import CHECKS, Bench, fill, read
from tests.support.waiting import wait_until
from thalweg.stack.stack import Stack

TOPICS = {"one": 1, "three": 3}
CONFIG = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(RECORD_BYTES_MAX + 1024)}


def kafka_bench(settings: Settings, linger_ms: int = 0, compression: str | None = None) -> Iterator[Bench]:
    """A Bench on a real broker, its topics made and deleted."""
    admin = KafkaAdminClient(**client_options(settings))
    names = {settings.topic(name): n for name, n in TOPICS.items()}
    admin.create_topics(
        {name: {"num_partitions": n, "replication_factor": 1, "configs": CONFIG} for name, n in names.items()},
        wait_for_metadata=True,
    )
    logs: list[KafkaLog] = []

    def again() -> KafkaLog:
        logs.append(KafkaLog(settings, linger_ms=linger_ms, compression=compression))
        return logs[-1]

    def truncate(topic: str, partition: int, before_offset: int) -> None:
        admin.delete_records({TopicPartition(settings.topic(topic), partition): before_offset})

    yield Bench(again(), truncate, again)
    for log in logs:
        log.close()
    admin.delete_topics(list(names))
    admin.close()


@pytest.fixture
def memory() -> Bench:
    """A Bench in memory; its clock ticks at each append."""
    log = MemoryLog(TOPICS, now_ms=itertools.count(1).__next__)
    return Bench(log, log.truncate, lambda: log)


@pytest.fixture
def kafka(stack: Stack, topic_prefix: str) -> Iterator[Bench]:
    """A Bench as the latency-bound rooms use it."""
    yield from kafka_bench(Settings(kafka=stack.kafka, topic_prefix=topic_prefix))


@pytest.fixture
def packed(stack: Stack, topic_prefix: str) -> Iterator[Bench]:
    """A Bench as a bulk producer uses it."""
    yield from kafka_bench(Settings(kafka=stack.kafka, topic_prefix=topic_prefix), linger_ms=5, compression="lz4")


@pytest.mark.parametrize("where", ["memory", "kafka"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_log(check: Callable[[Bench], None], where: str, request: pytest.FixtureRequest) -> None:
    """Both logs keep what the check's own docstring says."""
    check(request.getfixturevalue(where))


@pytest.mark.parametrize(
    ("key", "hashed"),
    [  # from Apache Kafka's own UtilsTest.testMurmur2, as signed 32 bits
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ],
)
def test_partition_is_kafkas_own(key: str, hashed: int) -> None:
    """A key goes where Kafka's own clients would send it: (murmur2 & 0x7fffffff) mod n."""
    for n in (1, 3, 4, 1000):
        assert partition_of(key, n) == (hashed & 0x7FFFFFFF) % n


def test_memory_groups_move_what_a_member_leaves() -> None:
    """A partition that moves to another member goes on from the group's commit; kept ones from where they were."""
    log = MemoryLog({"three": 3}, now_ms=lambda: 7)
    for p in range(3):
        for _ in range(4):
            log.send("three", p, b"")
    a = log.group_reader("three", "g", "a")
    assert len(a.poll(0)) == 12
    a.commit({0: 4, 1: 3, 2: 2})
    b = log.group_reader("three", "g", "b")
    assert [(r.partition, r.offset) for r in b.poll(0)] == [(1, 3)]
    assert a.poll(0) == []
    b.close()
    assert [(r.partition, r.offset) for r in a.poll(0)] == [(1, 3)]
    assert {r.time_ms for r in log.reader("three", {0: START}).poll(0)} == {7}


def test_memory_poll_gives_each_partition_its_turn() -> None:
    """A partition that is always full doesn't starve the others."""
    log = MemoryLog({"two": 2}, now_ms=lambda: 1)
    for p in (0, 1):
        for _ in range(10):
            log.send("two", p, b"")
    reader = log.reader("two", {0: 0, 1: 0})
    assert [{r.partition for r in reader.poll(0, 2)} for _ in range(4)] == [{0}, {1}, {0}, {1}]


def test_lingering_and_compressed(packed: Bench) -> None:
    """With linger and lz4 the same bytes come back, in order."""
    values = [bytes([i % 251]) * 3_000 for i in range(300)]
    for value in values:
        packed.log.send("one", 0, value)
    packed.log.flush()
    assert [r.value for r in read(packed.log.reader("one", {0: 0}), 300)] == values


def test_largest_record_fits(kafka: Bench) -> None:
    """The largest record that events allow comes back whole; one larger than any topic takes is refused."""
    kafka.log.send("one", 0, bytes(RECORD_BYTES_MAX))
    kafka.log.flush()
    (record,) = read(kafka.log.reader("one", {0: 0}), 1)
    assert record.value == bytes(RECORD_BYTES_MAX)
    with pytest.raises(LogError, match="sending to one"):
        kafka.log.send("one", 0, bytes(REQUEST_BYTES_MAX + 1))


def test_failure_surfaces_once_and_the_log_goes_on(kafka: Bench) -> None:
    """A record that the broker refuses is reported by the next flush, once; later records are taken."""
    kafka.log.send("one", 0, bytes(RECORD_BYTES_MAX + 10_000))  # more than this topic takes
    with pytest.raises(LogError, match="an earlier record wasn't written"):
        kafka.log.flush()
    kafka.log.send("one", 0, b"after")
    kafka.log.flush()
    assert [r.value for r in read(kafka.log.reader("one", {0: 0}), 1)] == [b"after"]


def test_a_session_that_the_broker_refuses(
    stack: Stack, topic_prefix: str, kafka: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A member that wants a shorter session than the broker allows joins with that of stock brokers, and says so."""
    fill(kafka.log, "one", 0, 1)
    with closing(KafkaLog(Settings(kafka=stack.kafka, topic_prefix=topic_prefix, ranker_session_ms=500))) as log:
        reader = log.group_reader("one", "group", "a")
        assert [r.value for r in read(reader, 1)] == [b"0/0"]
        reader.close()
    assert "doesn't allow a session of 500 ms: it is 6000 ms" in caplog.text


def test_prefixes_keep_apart(stack: Stack, kafka: Bench) -> None:
    """Topics of another prefix aren't there."""
    settings = Settings(kafka=stack.kafka, topic_prefix="other.")
    with closing(KafkaLog(settings)) as other, pytest.raises(LogError, match=r"other\.one doesn't exist"):
        other.partitions("one")


def test_no_broker_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a broker the error names the address that was tried and what to do."""
    monkeypatch.setattr(stream.log.kafka_client, "CONNECT_S", 0.5)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening: refused
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(LogUnavailable, match=f"no Kafka broker answers at {address} .*`thalweg up`") as said:
            KafkaLog(Settings(kafka=address))
    assert "\n" not in str(said.value)


def test_no_address_is_said() -> None:
    """Without any address the error says how to give one."""
    with pytest.raises(SettingsError, match="THALWEG_KAFKA=host:port"):
        KafkaLog(Settings())


def test_login_and_tls_reach_every_client(tmp_path: Path) -> None:
    """User, password, mechanism and TLS go into the options that all Kafka clients share."""
    settings = Settings(
        kafka="a:1, b:2", kafka_security="SASL_SSL", kafka_sasl_mechanism="SCRAM-SHA-512",
        kafka_user="u", kafka_password="p",
    )  # fmt: skip
    options = client_options(settings)
    assert options["bootstrap_servers"] == ["a:1", "b:2"]
    assert options["security_protocol"] == "SASL_SSL"
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("u", "p")
    assert options["ssl_context"].check_hostname
    broken = settings.model_copy(update={"kafka_ca": str(tmp_path / "none.pem")})
    with pytest.raises(SettingsError, match="THALWEG_KAFKA_CA"):
        client_options(broken)


def test_another_server_at_the_address_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where something listens that isn't Kafka, or refuses the login, the error names the settings to look at."""
    monkeypatch.setattr(stream.log.kafka_client, "CONNECT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(LogUnavailable, match=f"{address} is open, but no Kafka answers.*THALWEG_KAFKA_SECURITY"):
            KafkaLog(Settings(kafka=address))


def test_an_address_without_port_is_said() -> None:
    """An address that isn't host:port is a setting that makes no sense."""
    with pytest.raises(SettingsError, match="'localhost' isn't host:port"):
        KafkaLog(Settings(kafka="localhost"))


def test_a_topic_that_is_deleted_stops_no_sender(stack: Stack, topic_prefix: str) -> None:
    """Its records fail at once, those of other topics go on; once it's there again, it takes records again."""
    settings = Settings(kafka=stack.kafka, topic_prefix=topic_prefix)
    admin = KafkaAdminClient(**client_options(settings))
    gone, other = settings.topic("gone"), settings.topic("other")
    topics = {name: {"num_partitions": 1, "replication_factor": 1} for name in (gone, other)}
    admin.create_topics(topics, wait_for_metadata=True)
    outcomes: dict[str, list[LogError | None]] = {"gone": [], "other": []}
    with closing(KafkaLog(settings)) as log, closing(log.sender("1")) as sender:

        def send(topic: str) -> LogError | None:
            before = len(outcomes[topic])
            sender.send(topic, 0, b"x", outcomes[topic].append)
            wait_until(lambda: len(outcomes[topic]) > before)
            return outcomes[topic][-1]

        assert [send("gone"), send("other")] == [None, None]
        sender._producer.config["max_block_ms"] = 3_600_000  # a send that waits for the topic doesn't return
        admin.delete_topics([gone])
        wait_until(lambda: isinstance(send("gone"), LogUnavailable))
        assert "was it deleted" in str(send("gone"))
        assert send("other") is None
        admin.create_topics({gone: topics[gone]}, wait_for_metadata=True)
        wait_until(lambda: send("gone") is None)
    admin.delete_topics([gone, other])
    admin.close()
