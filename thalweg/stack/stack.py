"""The local stack: one real Kafka (a single KRaft node) and one Redis, on free loopback ports.

A stack's files are in one folder, its root: addresses and pids in `stack.json`, data, logs. So two stacks never disturb
each other. Both servers outlive the process that started them.
"""

import contextlib
import fcntl
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from stream.runtime.errors import StackError
from thalweg.stack import broker as kafka_broker
from thalweg.stack.server import (
    LOOPBACK,
    Server,
    ServerStatus,
    end_process,
    error_line,
    free_port,
    kafka_answers,
    redis_answers,
    spawn,
)

REMEDY = "free space, fix its rights, or name another folder with THALWEG_LOCAL"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class StackConfig:
    """How long to wait for servers, and further options of the broker's JVM."""

    start_timeout_s: float = 60.0
    stop_timeout_s: float = 20.0
    jvm_options: tuple[str, ...] = ()


DEFAULT = StackConfig()


class Stack(msgspec.Struct, frozen=True):
    """A started stack. `kafka` and `redis` are the addresses for clients."""

    kafka: str
    redis: str
    controller_port: int
    broker: Server
    cache: Server

    @property
    def root(self) -> Path:
        """Its folder."""
        return Path(self.broker.data).parents[1]


def up(root: Path, *, progress: Progress = lambda line: None, config: StackConfig = DEFAULT) -> Stack:
    """Start the servers that don't run, wait until both answer, and return the stack.

    Earlier data and the ports of a dead stack are reused. Raises StackError, and then leaves nothing running that it
    started.
    """
    root = root.resolve()
    with _locked(root):
        found = read(root)
        is_up = found is not None and found.broker.alive and found.cache.alive
        if not is_up:
            progress("starting Kafka and Redis")
            _require_tools()
        stack = _start(root, found, config)
    progress(f"{'already ' * is_up}up: Kafka {stack.kafka}, Redis {stack.redis}, logs in {root / 'logs'}")
    return stack


def down(root: Path, *, progress: Progress = lambda line: None, config: StackConfig = DEFAULT) -> None:
    """End both servers and remove `stack.json`; data and logs stay. Raises StackError."""
    root = root.resolve()
    if _read_file(root) is None:
        progress("nothing is up")
        return
    with _locked(root):
        found = read(root)
        for server in (found.broker, found.cache) if found else ():
            if server.alive:
                progress(f"stopping {server.name} (pid {server.pid})")
                end_process(server, signal.SIGTERM, config.stop_timeout_s)
        if is_unreadable(root):
            kept = (root / "stack.json").replace(root / "stack.json.garbled")
            progress(
                f"stack.json can't be read, so the pids of Kafka and Redis aren't known; neither was ended. If they "
                f"run, `kill` them: `pgrep -f {root}/kafka` finds Kafka; each line of {root}/logs/redis.log begins "
                f"with the pid of Redis. The file is now {kept}"
            )
        (root / "stack.json").unlink(missing_ok=True)


def status(root: Path) -> list[ServerStatus]:
    """The state of a stack's servers, broker first; empty when none was started."""
    stack = read(root)
    return [
        ServerStatus(
            server.name,
            "up" if _answers(server) else "silent" if server.alive else "stopped",
            server.address,
            server.pid,
        )
        for server in ((stack.broker, stack.cache) if stack else ())
    ]


def read(root: Path) -> Stack | None:
    """The stack that was started under `root`, running or not; None without a readable `stack.json`.

    Raises StackError when the file can't be opened.
    """
    try:
        return msgspec.json.decode(_read_file(root) or b"", type=Stack)
    except (UnicodeDecodeError, msgspec.DecodeError):
        return None


def is_unreadable(root: Path) -> bool:
    """Whether `stack.json` exists and isn't valid. Raises StackError."""
    return _read_file(root) is not None and read(root) is None


def _start(root: Path, found: Stack | None, config: StackConfig) -> Stack:
    """Launch each server that doesn't run, write stack.json, wait for both; on failure end what was launched."""
    launched: list[Server] = []
    try:
        if found and found.cache.alive:
            cache = found.cache
        else:
            cache = _launch_redis(root, free_port(found.cache.port if found else 0))
            launched.append(cache)
        if found and found.broker.alive:
            broker, controller_port = found.broker, found.controller_port
        else:
            controller_port = free_port(found.controller_port if found else 0)
            port = free_port(found.broker.port if found else 0)
            broker = kafka_broker.launch_broker(root, port, controller_port, config.jvm_options)
            launched.append(broker)
        stack = Stack(broker.address, f"redis://{cache.address}/0", controller_port, broker, cache)
        _write(root, stack)
        _wait(cache, config)
        _wait(broker, config)
        return stack
    except BaseException:  # Ctrl-C too must leave nothing running
        for server in launched:
            end_process(server, signal.SIGKILL, config.stop_timeout_s)
        raise


def _launch_redis(root: Path, port: int) -> Server:
    """Start redis-server without persistence: it is a cache."""
    data = root / "redis"
    data.mkdir(exist_ok=True)
    options = {"bind": LOOPBACK, "port": str(port), "save": "", "appendonly": "no", "dir": str(data)}
    command = ["redis-server", *(word for key, value in options.items() for word in (f"--{key}", value))]
    return spawn("Redis", command, port, root / "logs" / "redis.log", data)


def _answers(server: Server) -> bool:
    answers = kafka_answers if server.name == "Kafka" else redis_answers
    return answers(LOOPBACK, server.port)


def _wait(server: Server, config: StackConfig) -> None:
    """Wait until it answers. Raises StackError when its process ends or the time is over."""
    deadline = time.monotonic() + config.start_timeout_s
    while not _answers(server):
        if not server.alive:
            reason = error_line(Path(server.log).read_text(errors="replace"))
            raise StackError(f"{server.name} ended while starting: {reason}; see {server.log} and `thalweg doctor`")
        if time.monotonic() > deadline:
            waited = f"{server.address} for {config.start_timeout_s:g} s"
            raise StackError(f"{server.name} (pid {server.pid}) didn't answer at {waited}; see {server.log}")
        time.sleep(0.02)


def _require_tools() -> None:
    missing = [tool for tool in ("java", "redis-server") if shutil.which(tool) is None]
    if not any(kafka_broker.JARS.glob("kafka_*.jar")):
        missing.append(f"Kafka's jars in {kafka_broker.JARS}")
    if missing and not kafka_broker.IN_CLONE:
        remedy = "set THALWEG_KAFKA and THALWEG_REDIS to yours, or clone the repository"
        raise StackError(f"an installed package has no local stack, which runs from a clone's jars; {remedy}")
    if missing:
        raise StackError(f"the local stack needs what isn't here: {', '.join(missing)}; run `make setup`")


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Lock the root: a second `up` or `down` waits. A full or unwritable disk becomes a StackError."""
    try:
        (root / "logs").mkdir(parents=True, exist_ok=True)
        with (root / "stack.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as bad:
        raise StackError(f"{root} can't be used: {bad}; {REMEDY}") from bad


def _read_file(root: Path) -> bytes | None:
    """The content of stack.json; None when there is none. Raises StackError."""
    try:
        return (root / "stack.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as bad:
        raise StackError(f"{root} can't be used: {bad}; {REMEDY}") from None


def _write(root: Path, stack: Stack) -> None:
    new = root / "stack.json.new"
    new.write_bytes(msgspec.json.format(msgspec.json.encode(stack), indent=2))
    new.replace(root / "stack.json")
