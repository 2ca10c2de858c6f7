"""A real broker, configured as compose configures the image's, is reached by containers' listener and by the host's."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from kafka import KafkaAdminClient

from stream.log.kafka_admin import apply_topics, plan_topics
from stream.runtime.settings import Settings
from thalweg.stack.broker import JARS, LOG_CONFIG, REPOSITORY
from thalweg.stack.server import LOOPBACK, free_port, kafka_answers

COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
ENVIRONMENT: dict[str, object] = COMPOSE["services"]["kafka"]["environment"]
NOT_PROPERTIES = ("KAFKA_HEAP_OPTS",)  # of the image's scripts
START_S = 120.0


class Listeners(NamedTuple):
    """The port of each."""

    containers: int
    host: int


def properties(listeners: Listeners, controller: int, data: Path) -> str:
    """The broker's properties as the image makes them of its environment, with this machine's ports and folder."""
    text = "\n".join(
        f"{name.removeprefix('KAFKA_').lower().replace('_', '.')}={value}"
        for name, value in ENVIRONMENT.items()
        if name.startswith("KAFKA_") and name not in NOT_PROPERTIES
    )
    text = text.replace("${KAFKA_PORT:-9094}", "9094").replace("/var/lib/kafka/data", str(data))
    text = text.replace("//kafka:", f"//{LOOPBACK}:")  # the service's name, which Docker resolves
    ports = {"9092": listeners.containers, "9093": controller, "9094": listeners.host}
    return re.sub(r"\b909[234]\b", lambda found: str(ports[found[0]]), text)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Listeners]:
    """Formatted with compose's cluster id, started, and ended."""
    listeners, file = Listeners(free_port(), free_port()), tmp_path / "server.properties"
    file.write_text(properties(listeners, free_port(), tmp_path / "data"))
    heap = str(ENVIRONMENT["KAFKA_HEAP_OPTS"]).split()
    java = ["java", *heap, f"-Dthalweg.log={tmp_path / 'log'}", f"-Dlog4j2.configurationFile={LOG_CONFIG}"]
    java += ["-cp", f"{JARS}/*"]
    formatting = ["kafka.tools.StorageTool", "format", "-t", str(ENVIRONMENT["CLUSTER_ID"]), "-c", str(file)]
    subprocess.run([*java, *formatting], check=True, capture_output=True)
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen([*java, "kafka.Kafka", str(file)], stdout=out, stderr=out)
    try:
        until = time.monotonic() + START_S
        while not all(kafka_answers(LOOPBACK, port) for port in listeners):
            assert process.poll() is None, (tmp_path / "out").read_text()[-2_000:]
            assert time.monotonic() < until, "the broker doesn't answer"
            time.sleep(0.1)
        yield listeners
    finally:
        process.terminate()
        process.wait()


def test_each_listener_sends_clients_back_to_itself(broker: Listeners) -> None:
    """What is created through one listener is seen through the other, and either names its own port as the broker's."""
    inside, outside = (Settings(kafka=f"{LOOPBACK}:{port}") for port in broker)
    apply_topics(outside, plan_topics(outside))
    assert {change.action for change in plan_topics(inside)} <= {"leave"}
    for port in broker:
        admin = KafkaAdminClient(bootstrap_servers=f"{LOOPBACK}:{port}")
        (node,) = admin.describe_cluster()["brokers"]
        admin.close()
        assert node["port"] == port
