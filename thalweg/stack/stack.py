"""The local stack: one real Kafka (a single KRaft node) and one Redis, on free loopback ports.

Everything of a stack lies in one folder, its root: addresses and pids in `stack.json`, data, logs.
So two stacks never disturb each other. Both servers run on when the process that started them ends.
"""

import contextlib
import fcntl
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import msgspec

from stream.runtime.errors import StackError
from thalweg.stack.server import LOOPBACK, Server, end, free_port, kafka_answers, redis_answers, spawn

HOUSE = Path(__file__).resolve().parents[2]
JARS = HOUSE / "stack" / "target" / "jars"
ARCHIVE = HOUSE / "stack" / "target" / "kafka.jsa"  # what `python -m thalweg.stack.archive` keeps
LOG_CONFIG = HOUSE / "stack" / "log4j2.xml"
# Measured: up after 1.6 s instead of 2.0 s (C2) or 2.2 s (C2, G1); C2 uses less CPU only after about a million records.
JVM = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Djava.awt.headless=true"]

REMEDY = "free space, fix its rights, or name another place with THALWEG_LOCAL"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class StackConfig:
    """How large the broker's heap may get, how long to wait for servers, and what else the broker's Java is told."""

    heap_mb: int = 512
    start_timeout_s: float = 60.0
    stop_timeout_s: float = 20.0
    java: tuple[str, ...] = ()


DEFAULT = StackConfig()


class Stack(msgspec.Struct, frozen=True):
    """A stack that was started. `kafka` and `redis` are the addresses that clients take."""

    kafka: str
    redis: str
    controller_port: int
    broker: Server
    cache: Server

    @property
    def root(self) -> Path:
        """The folder that it lies in."""
        return Path(self.broker.data).parents[1]


@dataclass(frozen=True)
class Status:
    """A server as it is now; `state`: `up`, `silent` (runs, but doesn't answer) or `stopped`."""

    server: Server
    state: str


def quiet(_: str) -> None:
    """A progress that says nothing."""


def up(root: Path, *, progress: Progress = quiet, config: StackConfig = DEFAULT) -> Stack:
    """Start what isn't running, wait until both servers answer, and return the stack.

    Data from before is kept, and so are the ports of a stack that died. Raises StackError, and then
    leaves nothing running that it started.
    """
    root = root.resolve()
    with _alone(root):
        was = read(root)
        if was and was.broker.alive and was.cache.alive:
            _wait(was.cache, config)
            _wait(was.broker, config)
            progress(f"already up: Kafka {was.kafka}, Redis {was.redis}")
            return was
        progress("starting Kafka and Redis")
        stack = _start(root, was, config)
    progress(f"up: Kafka {stack.kafka}, Redis {stack.redis}, logs in {root / 'logs'}")
    return stack


def down(root: Path, *, progress: Progress = quiet, config: StackConfig = DEFAULT) -> None:
    """End both servers and forget their addresses; their data and logs stay. Raises StackError."""
    root = root.resolve()
    if _written(root) is None:
        progress("nothing is up")
        return
    with _alone(root):
        was = read(root)
        for server in (was.broker, was.cache) if was else ():
            if server.alive:
                progress(f"stopping {server.name} (pid {server.pid})")
                end(server, signal.SIGTERM, config.stop_timeout_s)
        if garbled(root):
            kept = (root / "stack.json").replace(root / "stack.json.garbled")
            progress(
                f"stack.json can't be read, so the pids of Kafka and Redis aren't known; neither was ended. If they "
                f"run, `kill` them: `pgrep -f {root}/kafka` finds Kafka; each line of {root}/logs/redis.log begins "
                f"with the pid of Redis. The file is now {kept}"
            )
        (root / "stack.json").unlink(missing_ok=True)


def status(root: Path) -> list[Status]:
    """What the servers of a stack do now, broker first; empty when none was started."""
    was = read(root)
    servers = (was.broker, was.cache) if was else ()
    return [Status(one, "up" if _answers(one) else "silent" if one.alive else "stopped") for one in servers]


def read(root: Path) -> Stack | None:
    """The stack that was started under `root`, whether it still runs or not; None without a file that tells one.

    Raises StackError when what is there may not be read.
    """
    try:
        return msgspec.json.decode(_written(root) or b"", type=Stack)
    except (UnicodeDecodeError, msgspec.DecodeError):
        return None


def garbled(root: Path) -> bool:
    """Whether there is a file of a stack that tells nothing. Raises StackError."""
    return _written(root) is not None and read(root) is None


def stop_broker(root: Path, *, kill: bool = False, config: StackConfig = DEFAULT) -> None:
    """End the broker (with `kill`: by SIGKILL); `start_broker` brings it back at its port with its data."""
    was = _need(root)
    end(was.broker, signal.SIGKILL if kill else signal.SIGTERM, config.stop_timeout_s)
    _write(root, msgspec.structs.replace(was, broker=msgspec.structs.replace(was.broker, pid=0)))


def start_broker(root: Path, *, config: StackConfig = DEFAULT) -> None:
    """Start the broker again after `stop_broker`, and wait until it answers. One that runs is left alone."""
    was = _need(root)
    if was.broker.alive:
        return
    broker = _launch_broker(root.resolve(), was.broker.port, was.controller_port, config)
    _write(root, msgspec.structs.replace(was, broker=broker))
    _wait(broker, config)


def stop_redis(root: Path, *, kill: bool = False, config: StackConfig = DEFAULT) -> None:
    """End Redis (with `kill`: by SIGKILL); `start_redis` brings it back at its port. What it held is lost."""
    was = _need(root)
    end(was.cache, signal.SIGKILL if kill else signal.SIGTERM, config.stop_timeout_s)
    _write(root, msgspec.structs.replace(was, cache=msgspec.structs.replace(was.cache, pid=0)))


def start_redis(root: Path, *, config: StackConfig = DEFAULT) -> None:
    """Start Redis again after `stop_redis`, empty, and wait until it answers. One that runs is left alone."""
    was = _need(root)
    if was.cache.alive:
        return
    cache = _launch_redis(root.resolve(), was.cache.port)
    _write(root, msgspec.structs.replace(was, cache=cache))
    _wait(cache, config)


def _start(root: Path, was: Stack | None, config: StackConfig) -> Stack:
    """Launch each server that doesn't run, write stack.json, wait for both; on failure end what was launched."""
    _need_tools()
    launched: list[Server] = []
    try:
        if was and was.cache.alive:
            cache = was.cache
        else:
            cache = _launch_redis(root, free_port(was.cache.port if was else 0))
            launched.append(cache)
        if was and was.broker.alive:
            broker, controller_port = was.broker, was.controller_port
        else:
            controller_port = free_port(was.controller_port if was else 0)
            broker = _launch_broker(root, free_port(was.broker.port if was else 0), controller_port, config)
            launched.append(broker)
        stack = Stack(broker.address, f"redis://{cache.address}/0", controller_port, broker, cache)
        _write(root, stack)
        _wait(cache, config)
        _wait(broker, config)
        return stack
    except BaseException:  # Ctrl-C too must leave nothing running
        for server in launched:
            end(server, signal.SIGKILL, config.stop_timeout_s)
        raise


def _launch_redis(root: Path, port: int) -> Server:
    """Start redis-server without persistence: it is a cache."""
    data, log = _folder(root / "redis"), _folder(root / "logs") / "redis.log"
    options = {"bind": LOOPBACK, "port": str(port), "save": "", "appendonly": "no", "dir": str(data)}
    command = ["redis-server", *(word for key, value in options.items() for word in (f"--{key}", value))]
    return spawn("Redis", command, port, log, data)


def _launch_broker(root: Path, port: int, controller_port: int, config: StackConfig) -> Server:
    """Write the broker's properties, format its folder if that's new, start it."""
    home, log = _folder(root / "kafka"), _folder(root / "logs") / "kafka.log"
    properties, data, cluster = home / "server.properties", home / "data", home / "cluster-id"
    properties.write_text(_properties(port, controller_port, data))
    scratch = _folder(home / "tmp")  # native libraries are unpacked there instead of /tmp
    java = ["java", f"-Xmx{config.heap_mb}m", *JVM, f"-Djava.io.tmpdir={scratch}", f"-Dthalweg.log={log}"]
    java += [f"-Dlog4j2.configurationFile={LOG_CONFIG}", "-cp", f"{JARS}/*"]
    if ARCHIVE.exists():
        java.append(f"-XX:SharedArchiveFile={ARCHIVE}")
    if not cluster.exists():  # written last, so a format that was cut off is done again
        shutil.rmtree(data, ignore_errors=True)
        name = f"thalweg{uuid4().hex[:14]}A"  # 16 bytes as 22 characters of base64, as Kafka wants
        line = [*java, "kafka.tools.StorageTool", "format", "-t", name, "-c", str(properties)]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            raise StackError(f"Kafka can't format {data}: {_reason(done.stdout + done.stderr)}; see `thalweg doctor`")
        cluster.write_text(name + "\n")
    return spawn("Kafka", [*java, *config.java, "kafka.Kafka", str(properties)], port, log, data)


def _properties(port: int, controller_port: int, data: Path) -> str:
    """A small single node: quick to start, to rebalance and to come back; no topic that nobody declared."""
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
# A broker that was killed is let in again when its old session ends: 3 s, not 9.
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


def _answers(server: Server) -> bool:
    ask = kafka_answers if server.name == "Kafka" else redis_answers
    return ask(LOOPBACK, server.port)


def _wait(server: Server, config: StackConfig) -> None:
    """Until it answers. Raises StackError when its process ends or the time is over."""
    deadline = time.monotonic() + config.start_timeout_s
    while not _answers(server):
        if not server.alive:
            why = _reason(Path(server.log).read_text(errors="replace"))
            raise StackError(f"{server.name} ended while starting: {why}; see {server.log} and `thalweg doctor`")
        if time.monotonic() > deadline:
            waited = f"{server.address} for {config.start_timeout_s:g} s"
            raise StackError(f"{server.name} (pid {server.pid}) didn't answer at {waited}; see {server.log}")
        time.sleep(0.02)


def _reason(text: str) -> str:
    """The line of a log that most likely tells why: the last that names an error, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if "ERROR" in line or "Error" in line or "Exception" in line]
    return (told or lines or ["it said nothing"])[-1]


def _need(root: Path) -> Stack:
    was = read(root)
    if was is None:
        raise StackError(f"no stack was started under {root}: run `thalweg up`")
    return was


def _need_tools() -> None:
    missing = [tool for tool in ("java", "redis-server") if shutil.which(tool) is None]
    if not any(JARS.glob("kafka_*.jar")):
        missing.append(f"Kafka's jars in {JARS}")
    if missing:
        raise StackError(f"the local stack needs what isn't here: {', '.join(missing)}; run `make setup`")


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Holds the root: a second `up` or `down` waits. A full or unwritable disk becomes a StackError."""
    try:
        _folder(root)
        with (root / "stack.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as bad:
        raise StackError(f"{root} can't be used: {bad}; {REMEDY}") from bad


def _written(root: Path) -> bytes | None:
    """What stack.json holds; None when there is none. Raises StackError."""
    try:
        return (root / "stack.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as bad:
        raise StackError(f"{root} can't be used: {bad}; {REMEDY}") from None


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _write(root: Path, stack: Stack) -> None:
    new = root / "stack.json.new"
    new.write_bytes(msgspec.json.format(msgspec.json.encode(stack), indent=2))
    new.replace(root / "stack.json")
