"""The open-loop client of the demo: sends ranking requests by schedule, answered or not, for users seen in `events`.

A process of its own, so that nothing else delays it. Latency is counted from the intended send time until the reply is
at the caller: a late send is part of it.
"""

import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing
from typing import Final
from uuid import uuid4

import msgspec

from producers.store.rankers import Rankers
from stream.events.codec import decode_events
from stream.events.topics import EVENTS
from stream.events.types import Impression, RankReply, RankRequest
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import START, Log, Record
from stream.runtime.errors import ThalwegError
from stream.runtime.settings import Settings
from thalweg.demo.http_rankers import HttpRankers

USERS_MAX: Final = 256  # the users who were seen last
WATCH_EVERY_S: Final = 0.25  # each poll of `events` costs the broker a fetch
UNANSWERED_S: Final = 5.0


class RequestOutcome(msgspec.Struct, array_like=True, tag="request"):
    """One request and its outcome. `error` is empty, or says why there's no list; `kind`: the ranker's word for it.

    `latency_ms`: intended send → reply at the caller. `replied_ms`: see Replied. `reply`: the whole reply, for a
    sample. `is_timed` False: it had so few candidates that its latency isn't counted.
    """

    user: str
    latency_ms: float
    replied_ms: int = 0
    version: int = 0
    live_since_ms: int = 0
    staleness_ms: int = 0
    error: str = ""
    reply: RankReply | None = None
    is_timed: bool = True
    kind: str = ""


class OpenLoopClient:
    """Three threads: one sends `rps` requests a second, one receives, one watches which users were seen last.

    Every Nth reply (`sample_every`) is kept whole. `k`: items a request.
    """

    def __init__(self, log: Log, rankers: Rankers, rps: float, sample_every: int, k: int = 10) -> None:
        self._log, self._rankers = log, rankers
        self._rps, self._sample_every, self._k = rps, sample_every, k
        self._users: OrderedDict[str, int] = OrderedDict()  # user → event time of the last page
        self._pending: dict[str, tuple[str, float]] = {}  # request id → user, intended time (monotonic)
        self._answered = 0
        self._outcomes: list[RequestOutcome] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._failure: Exception | None = None
        # All partitions from their start, until a user is seen: a short replay may be over before this process reads.
        self._event_reader = log.reader(EVENTS.name, dict.fromkeys(range(log.partitions(EVENTS.name)), START))
        self._threads = [
            threading.Thread(target=self._run, args=(loop,), daemon=True)
            for loop in (self._watch_users, self._receive, self._send)
        ]

    def start(self) -> None:
        """Send requests until `stop`, from the first user on."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send no more; pending replies are still waited for."""
        self._stop.set()

    @property
    def running(self) -> bool:
        """Whether there may be further outcomes."""
        return any(thread.is_alive() for thread in self._threads)

    def take(self) -> list[RequestOutcome]:
        """Outcomes since the last call. Raises the error that ended a thread."""
        with self._lock:
            outcomes, self._outcomes = self._outcomes, []
        if self._failure is not None:
            raise self._failure
        return outcomes

    def close(self) -> None:
        """Stop, and leave the rankers; the log stays open."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._rankers.close()
        self._event_reader.close()

    def _run(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except ThalwegError as bad:
            self._failure = self._failure or bad
            self._stop.set()

    def _send(self) -> None:
        """One request at each intended time, from the first user on."""
        while not self._users and not self._stop.is_set():
            time.sleep(0.01)
        begun_s = time.monotonic()
        number = 0
        while not self._stop.is_set():
            intended_s = begun_s + number / self._rps
            number += 1
            request_id = uuid4().hex
            wait_s = intended_s - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            with self._lock:
                user, time_ms = self._pick(number)
                self._pending[request_id] = (user, intended_s)
            request = RankRequest(request_id, user, self._k, time_ms, deadline_ms=int(UNANSWERED_S * 1000))
            self._rankers.ask([request])

    def _pick(self, number: int) -> tuple[str, int]:
        """One of the users who were seen last, in turn, and that user's event time."""
        users = list(self._users)
        user = users[number % len(users)]
        return user, self._users[user]

    def _watch_users(self) -> None:
        """Follow the users of the partition in which the first one is seen: a part of all users is enough."""
        while not self._users and not self._stop.wait(WATCH_EVERY_S):
            for record in self._event_reader.poll(0.2):
                if self._add_users(record):
                    self._event_reader.close()
                    self._event_reader = self._log.reader(EVENTS.name, {record.partition: record.offset + 1})
                    break
        while not self._stop.wait(WATCH_EVERY_S):
            for record in self._event_reader.poll(0.2):
                self._add_users(record)

    def _add_users(self, record: Record) -> bool:
        """The users of its pages become those seen last. False: it has no page."""
        pages = [event for event in decode_events(record.value or b"")[0] if isinstance(event, Impression)]
        with self._lock:
            for page in pages:
                self._users[page.user] = page.time_ms
                self._users.move_to_end(page.user)
            while len(self._users) > USERS_MAX:
                self._users.popitem(last=False)
        return bool(pages)

    def _receive(self) -> None:
        while self._pending or not self._stop.is_set():
            replies = self._rankers.replies(0.05)
            now_s = time.monotonic()
            for reply, replied_ms in replies:
                self._add_reply(reply, replied_ms, now_s)
            self._expire(now_s)

    def _add_reply(self, reply: RankReply, replied_ms: int, now_s: float) -> None:
        with self._lock:
            user, intended_s = self._pending.pop(reply.request_id, ("", 0.0))
            if not user:
                return  # another caller's
            self._answered += 1
            whole = reply if self._answered % self._sample_every == 0 else None
            self._outcomes.append(
                RequestOutcome(user, (now_s - intended_s) * 1000, replied_ms, reply.version, reply.live_since_ms,
                               reply.staleness_ms, reply.error, whole, kind=reply.kind)
            )  # fmt: skip

    def _expire(self, now_s: float) -> None:
        """A request without a reply is an error, not a gap in the figures."""
        with self._lock:
            expired = [i for i, (_, intended_s) in self._pending.items() if now_s - intended_s > UNANSWERED_S]
            for request_id in expired:
                user, _ = self._pending.pop(request_id)
                error = f"no answer within {UNANSWERED_S:g} s"
                self._outcomes.append(RequestOutcome(user, UNANSWERED_S * 1000, error=error))


def run_open_loop_client(settings: Settings, http: str, rps: float, sample_every: int) -> None:
    """Ask the ranker at `http` (host:port) until stdin closes, at the latest when the parent process ends.

    An outcome a line, as JSON, on stdout.
    """
    with (
        closing(KafkaLog(settings)) as log,
        closing(OpenLoopClient(log, HttpRankers(http), rps, sample_every)) as client,
    ):

        def wait_for_end() -> None:
            sys.stdin.read()
            client.stop()

        threading.Thread(target=wait_for_end, daemon=True).start()
        client.start()
        more = True
        while more:
            more = client.running
            for outcome in client.take():
                sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
            sys.stdout.buffer.flush()
            time.sleep(0.1)
