"""Launches Kafka: one KRaft node, from the jars that `make setup` fetched."""

import shutil
import subprocess
from pathlib import Path
from uuid import uuid4

from stream.runtime.errors import StackError
from thalweg.stack.server import LOOPBACK, Server, error_line, spawn

REPOSITORY = Path(__file__).resolve().parents[2]
IN_CLONE = (REPOSITORY / "stack" / "pom.xml").exists()  # an installed package has no jars and no `make setup`
JARS = REPOSITORY / "stack" / "target" / "jars"
ARCHIVE = REPOSITORY / "stack" / "target" / "kafka.jsa"  # written by `python -m thalweg.stack.archive`
LOG_CONFIG = REPOSITORY / "stack" / "log4j2.xml"
# Measured: up after 1.6 s instead of 2.0 s (C2) or 2.2 s (C2, G1); C2 uses less CPU only after about a million records.
JVM = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Djava.awt.headless=true"]


def launch_broker(
    root: Path, port: int, controller_port: int, jvm_options: tuple[str, ...], further: str = ""
) -> Server:
    """Write the broker's properties, format its data folder if it is new, start it. Raises StackError.

    `further`: lines of properties, which win over the others.
    """
    home, log = root / "kafka", root / "logs" / "kafka.log"
    properties, data, cluster = home / "server.properties", home / "data", home / "cluster-id"
    scratch = home / "tmp"  # native libraries are unpacked there instead of /tmp
    scratch.mkdir(parents=True, exist_ok=True)
    properties.write_text(_properties(port, controller_port, data) + further)
    java = ["java", *JVM, f"-Djava.io.tmpdir={scratch}", f"-Dthalweg.log={log}"]
    java += [f"-Dlog4j2.configurationFile={LOG_CONFIG}", "-cp", f"{JARS}/*"]
    if ARCHIVE.exists():
        java.append(f"-XX:SharedArchiveFile={ARCHIVE}")
    if not cluster.exists():  # written last, so an interrupted format is repeated
        shutil.rmtree(data, ignore_errors=True)
        cluster_id = f"thalweg{uuid4().hex[:14]}A"  # 16 bytes as 22 characters of base64, as Kafka wants
        command = [*java, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(properties)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise StackError(
                f"Kafka can't format {data}: {error_line(done.stdout + done.stderr)}; see `thalweg doctor`"
            )
        cluster.write_text(cluster_id + "\n")
    return spawn("Kafka", [*java, *jvm_options, "kafka.Kafka", str(properties)], port, log, data)


def _properties(port: int, controller_port: int, data: Path) -> str:
    """A small single node: quick to start, to rebalance and to recover; it creates no topics by itself."""
    return f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{LOOPBACK}:{controller_port}
listeners=PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}
advertised.listeners=PLAINTEXT://{LOOPBACK}:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
message.max.bytes=2097152
# A killed broker can rejoin when its old session ends: 3 s, not 9.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# Its default takes 128 MB of the heap.
log.cleaner.dedupe.buffer.size=16777216
num.network.threads=2
num.io.threads=4
"""
