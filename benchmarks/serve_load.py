"""The load of `serve`, a process of its own: requests open loop, timed from their due time. Reads courses as JSON.

`python -m benchmarks.serve_load JSON` of settings and the file of requests; then a course a line on its input, and
for each a line of what was found on its output. One thread sends, another receives: no event loop, whose timers are
of a millisecond.
"""

import json
import os
import select
import socket
import sys
import threading
import time
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import numpy as np

from stream.events.codec import decode_replies, encode_record
from stream.events.topics import REPLIES, REQUESTS
from stream.events.types import EXPIRED, SHED, RankRequest
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import END
from stream.runtime.settings import Settings

SETTLE_S: Final = 1.0  # beyond the deadline, for replies that come late
CONNECTIONS_MAX: Final = 4_000
SWITCH_S: Final = 1e-4  # of the interpreter, between sender and receiver


class Visitor(msgspec.Struct):
    """Who asks: a page is fresh when its user is."""

    user: str
    context: dict[str, str | float]


class Course(msgspec.Struct):
    """`rate` requests a second for `seconds`, as the visitors come from `first` on; `visitors` 0: all, then again.

    `transport`: http or kafka; `address`: of HTTP.
    """

    transport: str
    rate: float
    seconds: float
    first: int = 0
    visitors: int = 0
    address: str = ""
    deadline_ms: int = 1_000
    prefix: str = ""


class Found(msgspec.Struct):
    """What became of the requests of a course. `full`: scored whole, and in time; latencies are of those ranked.

    `late_ms`: p99 of how late the sender was, which is in the latencies; `cpu_ms`: of this process, a request.
    """

    sent: int
    full: int
    shed: int
    expired: int
    failed: int
    lost: int
    p50_ms: float
    p99_ms: float
    longest_ms: float
    rank_ms: float
    late_ms: float
    cpu_ms: float


class Answer(msgspec.Struct):
    """The part of an answer over HTTP that is looked at."""

    notes: list[str] = []
    rank_us: int = 0


_answer = msgspec.json.Decoder(Answer)
STATUSES: Final = {503: SHED, 504: EXPIRED}


class Notebook:
    """What came back of which request, and when (time.perf_counter). Two threads."""

    def __init__(self, count: int) -> None:
        self.due_s, self.sent_s = np.zeros(count), np.zeros(count)
        self.back_s = np.full(count, np.inf)
        self.kinds: list[str | None] = [None] * count  # "": ranked
        self.whole = np.zeros(count, np.bool_)
        self.rank_us = np.zeros(count)
        self.open = count

    def note(self, n: int, back_s: float, kind: str, notes: list[str], rank_us: int) -> None:
        """The reply to request `n`; only the first counts."""
        if self.kinds[n] is None:
            self.kinds[n], self.back_s[n], self.rank_us[n] = kind, back_s, rank_us
            self.whole[n] = not kind and "deadline" not in notes
            self.open -= 1

    def found(self, deadline_ms: int, cpu_s: float) -> Found:
        """Summed up."""
        waited_ms = (self.back_s - self.due_s) * 1e3
        ranked = np.array([kind == "" for kind in self.kinds])
        kinds, count = Counter(self.kinds), len(self.kinds)
        failed = count - sum(kinds[kind] for kind in ("", SHED, EXPIRED, None))
        times = waited_ms[ranked] if ranked.any() else np.full(1, np.inf)
        p50_ms, p99_ms, longest_ms = (float(np.percentile(times, q)) for q in (50, 99, 100))
        rank_ms = float(np.median(self.rank_us[ranked])) / 1e3 if ranked.any() else 0.0
        late_ms = float(np.percentile(self.sent_s - self.due_s, 99)) * 1e3
        full = int((self.whole & (waited_ms <= deadline_ms)).sum())
        return Found(
            count, full, kinds[SHED], kinds[EXPIRED], failed, kinds[None], p50_ms, p99_ms, longest_ms, rank_ms,
            late_ms, cpu_s / count * 1e3,
        )  # fmt: skip


class Transport(Protocol):
    """Sends requests, and notes replies by a thread of its own."""

    def encode(self, request: RankRequest) -> bytes:
        """The request as it is sent."""

    def send(self, n: int, raw: bytes) -> None:
        """Send request `n`."""

    def begin(self, notebook: Notebook) -> None:
        """Replies go there from now on."""


class Connection:
    """One connection with at most one request under way."""

    __slots__ = ("buffer", "n", "socket")

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.buffer, self.n = b"", -1


class Http:
    """Connections that are kept, and opened as more requests are under way."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host, int(port)
        self._idle: deque[Connection] = deque()
        self._all: dict[int, Connection] = {}
        self._poll = select.epoll()
        self._notebook = Notebook(0)
        self._head = f"POST /v1/rank HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: "
        threading.Thread(target=self._receive, daemon=True).start()

    def encode(self, request: RankRequest) -> bytes:
        """Head and JSON body."""
        names = ("request_id", "user", "context", "deadline_ms")
        body = msgspec.json.encode({name: getattr(request, name) for name in names})
        return f"{self._head}{len(body)}\r\n\r\n".encode() + body

    def send(self, n: int, raw: bytes) -> None:
        """On an idle connection, or a new one."""
        connection = self._idle.pop() if self._idle else None
        if connection is None:
            if len(self._all) >= CONNECTIONS_MAX:
                return  # it's lost
            connection = Connection(self._host, self._port)
            self._all[connection.socket.fileno()] = connection
            self._poll.register(connection.socket, select.EPOLLIN)
        connection.n = n
        with suppress(OSError):
            connection.socket.send(raw)

    def begin(self, notebook: Notebook) -> None:
        """Connections with a request that was given up are closed."""
        for connection in [one for one in self._all.values() if one.n >= 0]:
            self._drop(connection)
        self._notebook = notebook

    def _receive(self) -> None:
        while True:
            for fd, _ in self._poll.poll():
                connection = self._all.get(fd)
                if connection is not None:
                    self._read(connection)

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(262_144)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return
        back_s, buffer = time.perf_counter(), connection.buffer + data
        end = buffer.find(b"\r\n\r\n")
        at = buffer.find(b"content-length: ", 0, end)
        if end < 0 or len(buffer) < end + 4 + int(buffer[at + 16 : buffer.find(b"\r", at)]):
            connection.buffer = buffer
            return
        status, body = int(buffer[9:12]), buffer[end + 4 :]
        answer = _answer.decode(body) if status == 200 else Answer()
        kind = "" if status == 200 else STATUSES.get(status, str(status))
        n, connection.n, connection.buffer = connection.n, -1, b""
        self._notebook.note(n, back_s, kind, answer.notes, answer.rank_us)
        self._idle.append(connection)

    def _drop(self, connection: Connection) -> None:
        self._all.pop(connection.socket.fileno(), None)
        connection.socket.close()
        with suppress(ValueError):
            self._idle.remove(connection)


class Kafka:
    """The project's own Kafka clients, one request a record."""

    def __init__(self, settings: Settings) -> None:
        self._log = KafkaLog(settings)
        self._sender = self._log.sender("1")
        self._partitions = self._log.partitions(REQUESTS.name)
        self._notebook, self._run = Notebook(0), ""
        self._reader = self._log.reader(REPLIES.name, dict.fromkeys(range(self._log.partitions(REPLIES.name)), END))
        self._reader.poll(0.1)
        threading.Thread(target=self._receive, daemon=True).start()

    def encode(self, request: RankRequest) -> bytes:
        """A record of one request."""
        return encode_record([request])

    def send(self, n: int, raw: bytes) -> None:
        """Partitions in turn."""
        self._sender.send(REQUESTS.name, n % self._partitions, raw, lambda failure: None)

    def begin(self, notebook: Notebook) -> None:
        """Replies to earlier courses are recognised by their ids."""
        self._notebook = notebook

    def _receive(self) -> None:
        while True:
            records = self._reader.poll(1.0)
            back_s, notebook = time.perf_counter(), self._notebook
            for record in records:
                for reply in decode_replies(record.value or b""):
                    run, _, n = reply.request_id.partition("-")
                    if run == str(id(notebook)):
                        notebook.note(int(n), back_s, reply.kind, reply.notes, reply.rank_us)


def run_course(course: Course, transport: Transport, visitors: list[Visitor]) -> Found:
    """Ask, then wait for the last replies."""
    count = max(1, round(course.rate * course.seconds))
    notebook = Notebook(count)
    raws, of = [], course.visitors or len(visitors)
    for n in range(count):
        who = visitors[(course.first + n % of) % len(visitors)]
        request = RankRequest(f"{id(notebook)}-{n}", who.user, context=who.context, deadline_ms=course.deadline_ms)
        raws.append(transport.encode(request))
    transport.begin(notebook)
    begun, cpu_s = time.perf_counter() + 0.05, time.process_time()
    notebook.due_s[:] = begun + np.arange(count) / course.rate
    for n, due_s in enumerate(notebook.due_s.tolist()):
        if (left_s := due_s - time.perf_counter()) > 0:
            time.sleep(left_s)
        notebook.sent_s[n] = time.perf_counter()
        transport.send(n, raws[n])
    until = time.perf_counter() + course.deadline_ms / 1e3 + SETTLE_S
    while notebook.open and time.perf_counter() < until:
        time.sleep(0.02)
    return notebook.found(course.deadline_ms, time.process_time() - cpu_s)


def main() -> None:
    """Courses until the input ends."""
    sys.setswitchinterval(SWITCH_S)
    given: dict[str, Any] = json.loads(sys.argv[1])
    visitors = msgspec.msgpack.decode(Path(given["visitors"]).read_bytes(), type=list[Visitor])
    settings, transports = Settings(**given["settings"]), dict[tuple[str, str], Transport]()
    for line in sys.stdin:
        course = msgspec.json.decode(line, type=Course)
        key = course.transport, course.address or course.prefix
        if key not in transports:
            here = settings.model_copy(update={"topic_prefix": course.prefix or settings.topic_prefix})
            transports[key] = Http(course.address) if course.transport == "http" else Kafka(here)
        found = run_course(course, transports[key], visitors)
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
        sys.stdout.flush()
    os._exit(0)  # Kafka's threads needn't end in order


if __name__ == "__main__":
    main()
