"""Server processes that outlive their starter: spawned, probed, and ended by pid, never by name."""

import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from stream.runtime.errors import StackError

LOOPBACK = "127.0.0.1"
# Below the ephemeral range of Linux and macOS: no outgoing connection takes a port between the moment it was found free
# and the moment its server listens.
PORTS = range(20_000, 32_000)


class Server(msgspec.Struct, frozen=True):
    """One server process. `started` distinguishes it from a later process with its pid."""

    name: str
    port: int
    pid: int
    started: str = msgspec.field(name="born")
    log: str
    data: str

    @property
    def address(self) -> str:
        """Its host:port."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether the process that was started still runs."""
        return start_time(self.pid) == self.started


@dataclass(frozen=True)
class Lag:
    """How far a service is behind a topic's end, over its partitions: `seconds` is the age of the oldest record."""

    topic: str
    records: int
    seconds: float

    def __str__(self) -> str:
        waited = f" records, {self.seconds:,.1f} s" if self.records else ""
        return f"{self.topic}: {self.records:,}{waited}"


@dataclass(frozen=True)
class ServerStatus:
    """A server or service as it is now. `state`: up, starting, silent, stopped or unknown; `message`: its own words;
    `lags`: of a service that answers.
    """

    name: str
    state: str
    address: str
    pid: int
    message: str = ""
    lags: tuple[Lag, ...] = ()


def spawn(name: str, command: list[str], port: int, log: Path, data: Path) -> Server:
    """Start `command` in the folder of `data`, in a new session, its output appended to `log`.

    A shell starts it and exits at once, so it isn't a child of this process and leaves no zombie.
    """
    shell = 'log=$0; "$@" </dev/null >>"$log" 2>&1 & echo $!'
    line = ["sh", "-c", shell, str(log), *command]
    out = subprocess.run(line, cwd=data.parent, stdout=subprocess.PIPE, start_new_session=True, check=True).stdout
    pid = int(out)
    return Server(name, port, pid, start_time(pid) or "", str(log), str(data))


def end_process(server: Server, how: signal.Signals, timeout_s: float) -> None:
    """Signal the process, wait until it exits, and kill it after the timeout. Raises StackError."""
    while server.alive:
        try:
            os.kill(server.pid, how)
        except ProcessLookupError:
            return
        except PermissionError:
            raise StackError(f"{server.name} (pid {server.pid}) is another user's: stop it as that user") from None
        deadline = time.monotonic() + timeout_s
        while server.alive and time.monotonic() < deadline:
            time.sleep(0.02)
        if server.alive and how == signal.SIGKILL:
            raise StackError(f"{server.name} (pid {server.pid}) is still there {timeout_s:g} s after SIGKILL")
        how = signal.SIGKILL


def start_time(pid: int) -> str | None:
    """When process `pid` started, as the system prints it; None when it has exited or is a zombie."""
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, started = fields[0], fields[19]  # fields 3 and 22 of proc(5)
    else:
        line = subprocess.run(["ps", "-o", "state=,lstart=", "-p", str(pid)], capture_output=True, text=True).stdout
        state, _, started = line.strip().partition(" ")
    return started.strip() if started and state[0] not in "ZX" else None


def free_port(wanted: int = 0) -> int:
    """`wanted` if it's free (0: none is), else one drawn from PORTS. Raises StackError."""
    for port in [wanted] * bool(wanted) + [PORTS[secrets.randbelow(len(PORTS))] for _ in range(100)]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just closed is free
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise StackError(f"no free port on {LOOPBACK}: 100 between {PORTS.start} and {PORTS.stop} were tried")


def error_line(text: str) -> str:
    """The line of a log that most likely names the cause: the last one with an error, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line or "Error" in line or "Exception" in line]
    return (errors or lines or ["it said nothing"])[-1]


def kafka_answers(host: str, port: int) -> bool:
    """Whether a broker there has joined its cluster and takes requests: its Metadata (v1) reply lists a broker."""
    request = struct.pack(">hhihi", 3, 1, 1, -1, 0)  # Metadata, version 1, correlation id 1, no client id, no topics
    reply = _ask(host, port, struct.pack(">i", len(request)) + request, 12)
    # Length, correlation id, count of brokers.
    return reply is not None and len(reply) == 12 and int(struct.unpack(">iii", reply)[2]) > 0


def redis_answers(host: str, port: int) -> bool:
    """Whether a Redis there answers a PING, even if only to ask for a password."""
    return _ask(host, port, b"PING\r\n", 7) in (b"+PONG\r\n", b"-NOAUTH")


def listens(host: str, port: int) -> bool:
    """Whether anything there accepts a connection."""
    return _ask(host, port, b"", 0) is not None


def _ask(host: str, port: int, request: bytes, reply_bytes: int) -> bytes | None:
    """Send, and read up to `reply_bytes`; None when nothing answers."""
    reply = b""
    try:
        with socket.create_connection((host, port), timeout=1.0) as wire:
            wire.sendall(request)
            while len(reply) < reply_bytes and (more := wire.recv(reply_bytes - len(reply))):
                reply += more
    except OSError:
        return None
    return reply
