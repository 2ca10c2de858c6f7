"""The local stack: starts, keeps its data, heals, and never touches what isn't its own."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
import redis
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from stream.runtime.errors import StackError
from stream.runtime.settings import Settings
from tests.support.stack_faults import stop_server
from thalweg.stack import broker
from thalweg.stack import stack as local
from thalweg.stack.server import PORTS, Server, end_process, free_port, kafka_answers, redis_answers, spawn, start_time
from thalweg.stack.stack import Stack, StackConfig, down, read, status, up


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of a stack of this module's own, for what would disturb others."""
    root = tmp_path_factory.mktemp("own")
    try:
        up(root)
        yield root
    finally:
        down(root)


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Server]:
    """Some process that was started as a server."""
    (tmp_path / "data").mkdir()
    server = spawn("sleeper", ["sleep", "600"], 1, tmp_path / "log", tmp_path / "data")
    try:
        yield server
    finally:
        end_process(server, signal.SIGKILL, 5)


def states(root: Path) -> list[str]:
    """How broker and Redis are."""
    return [one.state for one in status(root)]


def last_record(stack: Stack, topic: str) -> bytes:
    """The value of the first record of a topic."""
    consumer = KafkaConsumer(
        topic, bootstrap_servers=stack.kafka, auto_offset_reset="earliest", consumer_timeout_ms=20_000
    )
    try:
        return bytes(next(consumer).value)
    finally:
        consumer.close()


def test_both_answer(stack: Stack) -> None:
    """A stack that `up` returned has a broker and a Redis that answer, on loopback, from PORTS."""
    assert kafka_answers("127.0.0.1", stack.broker.port)
    assert redis_answers("127.0.0.1", stack.cache.port)
    assert {stack.broker.port, stack.controller_port, stack.cache.port} <= set(PORTS)
    assert stack.kafka == f"127.0.0.1:{stack.broker.port}"
    assert redis.Redis.from_url(stack.redis).ping() is True


def test_listens_on_loopback_only(stack: Stack) -> None:
    """No port of the stack is open on an address other than loopback."""
    for port in (stack.broker.port, stack.controller_port, stack.cache.port):
        with pytest.raises(OSError):  # noqa: PT011  # refused here, no such address elsewhere
            socket.create_connection(("127.0.0.2", port), timeout=1).close()


def test_settings_find_it(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings without addresses take those that the stack wrote."""
    monkeypatch.delenv("THALWEG_KAFKA", raising=False)
    monkeypatch.delenv("THALWEG_REDIS", raising=False)
    found = Settings.load(local=stack.root)
    assert (found.kafka, found.redis) == (stack.kafka, stack.redis)


def test_no_topic_by_itself(stack: Stack, topic_prefix: str) -> None:
    """A topic that nobody declared isn't made by asking for it."""
    admin = KafkaAdminClient(bootstrap_servers=stack.kafka)
    producer = KafkaProducer(bootstrap_servers=stack.kafka, max_block_ms=500)
    try:
        with pytest.raises(KafkaError):
            producer.send(topic_prefix + "nobody", b"x").get(2)
        assert topic_prefix + "nobody" not in admin.list_topics()
    finally:
        producer.close(timeout=2)
        admin.close()


def test_up_again_returns_it(own: Path) -> None:
    """`up` of what is up starts nothing and says so."""
    said: list[str] = []
    was = read(own)
    assert up(own, progress=said.append) == was
    assert len(said) == 1
    assert said[0].startswith("already up: ")


def test_two_stacks_are_apart(stack: Stack, own: Path) -> None:
    """Stopping a server of one stack leaves the other as it is."""
    stop_server(own, "cache")
    assert states(own) == ["up", "stopped"]
    assert states(stack.root) == ["up", "up"]
    up(own)
    assert states(own) == ["up", "up"]


def test_redis_comes_back_at_its_port_and_empty(own: Path) -> None:
    """A Redis that was killed and started again has the same address and none of its data."""
    url = up(own).redis
    redis.Redis.from_url(url).set("thalweg", "1")
    stop_server(own, "cache", kill=True)
    assert not redis_answers("127.0.0.1", int(url.rpartition(":")[2].split("/")[0]))
    up(own)
    assert redis.Redis.from_url(url).get("thalweg") is None


def test_heals_after_a_crash_and_keeps_data(own: Path) -> None:
    """When both processes were killed, `up` starts them at the same ports with the broker's data."""
    was = up(own)
    admin = KafkaAdminClient(bootstrap_servers=was.kafka)
    admin.create_topics({"kept": {"num_partitions": 1, "replication_factor": 1}})
    admin.close()
    producer = KafkaProducer(bootstrap_servers=was.kafka)
    producer.send("kept", b"value").get(10)
    producer.close(timeout=2)
    end_process(was.broker, signal.SIGKILL, 10)
    end_process(was.cache, signal.SIGKILL, 10)
    assert states(own) == ["stopped", "stopped"]
    now = up(own)
    assert (now.kafka, now.redis) == (was.kafka, was.redis)
    assert now.broker.pid != was.broker.pid
    assert last_record(now, "kept") == b"value"


def test_data_outlives_down(own: Path) -> None:
    """`down` ends both and forgets the addresses; the next `up` has the topics of before."""
    was = up(own)
    admin = KafkaAdminClient(bootstrap_servers=was.kafka)
    admin.create_topics({"stays": {"num_partitions": 1, "replication_factor": 1}})
    admin.close()
    down(own)
    assert not was.broker.alive
    assert not was.cache.alive
    assert read(own) is None
    admin = KafkaAdminClient(bootstrap_servers=up(own).kafka)
    try:
        assert "stays" in admin.list_topics()
    finally:
        admin.close()


def test_two_starters_make_one_stack(own: Path) -> None:
    """Two `up` of one root at once wait for each other and return the same stack."""
    down(own)
    with ThreadPoolExecutor(2) as both:
        first, second = both.map(up, [own, own])
    assert first == second == read(own)
    assert states(own) == ["up", "up"]


def test_down_of_nothing(tmp_path: Path) -> None:
    """`down` where nothing was started says so and makes no folder."""
    said: list[str] = []
    down(tmp_path / "none", progress=said.append)
    assert said == ["nothing is up"]
    assert not (tmp_path / "none").exists()
    assert status(tmp_path / "none") == []


def test_a_recycled_pid_is_left_alone(tmp_path: Path, sleeper: Server) -> None:
    """A process that has the pid of a dead server, but was born at another time, is never signalled."""
    other = msgspec.structs.replace(sleeper, started="another time")
    assert not other.alive
    lost = Stack("127.0.0.1:1", "redis://127.0.0.1:1/0", 1, other, other)
    (tmp_path / "stack.json").write_bytes(msgspec.json.encode(lost))
    down(tmp_path)
    assert sleeper.alive
    assert not (tmp_path / "stack.json").exists()


def test_a_server_outlives_its_starter(tmp_path: Path) -> None:
    """A server goes on when the process that started it was killed."""
    (tmp_path / "data").mkdir()
    code = (
        "import os, pathlib, sys, msgspec, thalweg.stack.server as s; p = pathlib.Path(sys.argv[1]);"
        "one = s.spawn('sleeper', ['sleep', '600'], 1, p / 'log', p / 'data');"
        "print(msgspec.json.encode(one).decode(), flush=True); os.kill(os.getpid(), 9)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE).stdout
    server = msgspec.json.decode(out, type=Server)
    try:
        assert server.alive
    finally:
        end_process(server, signal.SIGKILL, 5)
    assert not server.alive


def test_end_kills_what_ignores_the_signal(tmp_path: Path) -> None:
    """A server that ignores SIGTERM is killed when patience ends."""
    (tmp_path / "data").mkdir()
    script = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
    server = spawn("deaf", ["sh", "-c", script], 1, tmp_path / "log", tmp_path / "data")
    while "ready" not in (tmp_path / "log").read_text():
        assert server.alive
    end_process(server, signal.SIGTERM, 0.2)
    assert start_time(server.pid) is None


def test_a_dead_child_is_not_alive() -> None:
    """A zombie counts as gone."""
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert start_time(child.pid) is None
    child.wait()


def test_a_taken_port_is_not_free() -> None:
    """A wanted port that something listens on is passed over."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen()
        taken = listener.getsockname()[1]
        assert free_port(taken) != taken
    assert free_port(taken) == taken


def test_missing_programs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without java, redis-server or the jars, the error names them and the command that gets them."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(broker, "JARS", tmp_path / "jars")
    with pytest.raises(StackError, match=r"java, redis-server, Kafka's jars in .*make setup"):
        up(tmp_path / "root")
    assert read(tmp_path / "root") is None


def test_an_installed_package_has_no_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a clone `up` names the settings to use in place of `make setup`, which isn't there."""
    monkeypatch.setattr(broker, "IN_CLONE", False)
    monkeypatch.setattr(broker, "JARS", tmp_path / "jars")
    with pytest.raises(StackError, match="set THALWEG_KAFKA and THALWEG_REDIS"):
        up(tmp_path / "root")


def test_unusable_root(tmp_path: Path) -> None:
    """A root that can't be written is a StackError that names it and the way out."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match=r"file/root can't be used: .*THALWEG_LOCAL"):
        up(tmp_path / "file" / "root")


def broken_java(folder: Path) -> None:
    """A java that formats, but whose broker ends with a word."""
    java = folder / "java"
    java.write_text('#!/bin/sh\ncase "$*" in *StorageTool*) exit 0;; esac\necho "ERROR no luck today"\nexit 1\n')
    java.chmod(0o755)


def unformatting_java(folder: Path) -> None:
    """A java that can't format."""
    (folder / "java").write_text("#!/bin/sh\necho 'Error: disk is full'\nexit 1\n")
    (folder / "java").chmod(0o755)


@pytest.mark.parametrize(
    ("java", "says"),
    [
        (broken_java, "Kafka ended while starting: ERROR no luck today"),
        (unformatting_java, "can't format .*disk is full"),
    ],
)
def test_a_failed_start_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, java: Callable[[Path], None], says: str
) -> None:
    """When the broker can't start, the error quotes it and the Redis that was started is ended."""
    java(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    launched: list[Server] = []

    def seen(name: str, command: list[str], port: int, log: Path, data: Path) -> Server:
        launched.append(spawn(name, command, port, log, data))
        return launched[-1]

    for module in (local, broker):
        monkeypatch.setattr(module, "spawn", seen)
    with pytest.raises(StackError, match=says):
        up(tmp_path / "root", config=StackConfig(start_timeout_s=20))
    assert launched
    assert not any(server.alive for server in launched)


def test_a_torn_stack_file_is_replaced(tmp_path: Path) -> None:
    """A stack.json that can't be read counts as none, and `down` removes it."""
    (tmp_path / "stack.json").write_text(json.dumps({"kafka": "only"}))
    assert read(tmp_path) is None
    down(tmp_path)
    assert not (tmp_path / "stack.json").exists()
