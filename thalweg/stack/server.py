"""A server process that outlives its starter: started, recognised, asked, ended by pid, never by name."""

import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from stream.runtime.errors import StackError

LOOPBACK = "127.0.0.1"
# Below the range that Linux and macOS give to outgoing connections: none of those takes a port
# between the moment it was found free and the moment its server listens.
PORTS = range(20_000, 32_000)


class Server(msgspec.Struct, frozen=True):
    """One server process. `born` tells it from a later process with the same pid; pid 0: stopped on purpose."""

    name: str
    port: int
    pid: int
    born: str
    log: str
    data: str

    @property
    def address(self) -> str:
        """Its host:port."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether the process that was started still runs."""
        return self.pid > 0 and self.born != "" and born(self.pid) == self.born


def spawn(name: str, command: list[str], port: int, log: Path, data: Path) -> Server:
    """Start `command` beside `data`, in a session of its own, its output at the end of `log`.

    A shell starts it and ends at once, so it is nobody's child: no zombies when its starter lives on.
    """
    shell = 'log=$0; "$@" </dev/null >>"$log" 2>&1 & echo $!'
    line = ["sh", "-c", shell, str(log), *command]
    out = subprocess.run(line, cwd=data.parent, stdout=subprocess.PIPE, start_new_session=True, check=True).stdout
    pid = int(out)
    return Server(name, port, pid, born(pid) or "", str(log), str(data))


def end(server: Server, how: signal.Signals, patience_s: float) -> None:
    """Signal the process, wait until it's gone, and kill it if it stays. Raises StackError."""
    while server.alive:
        try:
            os.kill(server.pid, how)
        except ProcessLookupError:
            return
        except PermissionError:
            raise StackError(f"{server.name} (pid {server.pid}) is another user's: stop it as that user") from None
        deadline = time.monotonic() + patience_s
        while server.alive and time.monotonic() < deadline:
            time.sleep(0.02)
        if server.alive and how == signal.SIGKILL:
            raise StackError(f"{server.name} (pid {server.pid}) is still there {patience_s:g} s after SIGKILL")
        how = signal.SIGKILL


def born(pid: int) -> str | None:
    """When process `pid` started, in the system's own words; None when it is gone or a zombie."""
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, when = fields[0], fields[19]  # fields 3 and 22 of proc(5)
    else:
        line = subprocess.run(["ps", "-o", "state=,lstart=", "-p", str(pid)], capture_output=True, text=True).stdout
        state, _, when = line.strip().partition(" ")
    return when.strip() if when and state[0] not in "ZX" else None


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


def kafka_answers(host: str, port: int) -> bool:
    """Whether a broker there is in its cluster and takes requests: a Metadata (v1) reply that lists a broker."""
    request = struct.pack(">hhihi", 3, 1, 1, -1, 0)  # Metadata, version 1, correlation id 1, no client id, no topics
    reply = _ask(host, port, struct.pack(">i", len(request)) + request, 12)
    return len(reply) == 12 and int(struct.unpack(">iii", reply)[2]) > 0  # length, correlation id, count of brokers


def redis_answers(host: str, port: int) -> bool:
    """Whether a Redis there answers a PING, be it that it wants a password first."""
    return _ask(host, port, b"PING\r\n", 7) in (b"+PONG\r\n", b"-NOAUTH")


def listens(host: str, port: int) -> bool:
    """Whether anything there takes a connection."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def _ask(host: str, port: int, request: bytes, reply_bytes: int) -> bytes:
    """Send, and read up to `reply_bytes`; empty when nobody is there."""
    reply = b""
    try:
        with socket.create_connection((host, port), timeout=1.0) as wire:
            wire.sendall(request)
            while len(reply) < reply_bytes and (more := wire.recv(reply_bytes - len(reply))):
                reply += more
    except OSError:
        return b""
    return reply
