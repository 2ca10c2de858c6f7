"""The open-loop client of the demo: asks by schedule, whether answers come or not, for users who appear in `events`.

A process of its own, so that nothing else delays it. Latency is counted from the intended moment of
sending until the reply is in the caller's hands: a late send is part of it.
"""

import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from stream.events.codec import decode_events, decode_replies, encode_record
from stream.events.topics import EVENTS, REPLIES, REQUESTS
from stream.events.types import Impression, RankReply, RankRequest
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import END, START, Log, Record, partition_of
from stream.runtime.errors import ThalwegError
from stream.runtime.settings import Settings
from thalweg.demo.caller import own_request_id

USERS_MAX: Final = 256  # of those who appeared last
WATCH_EVERY_S: Final = 0.25  # each look at `events` costs the broker a fetch
UNANSWERED_S: Final = 5.0


class Observed(msgspec.Struct, array_like=True):
    """One request and what became of it. `error` is empty, or says why there's no list. Times of the wall are ms.

    `latency_ms`: intended send → reply at the caller. `reply`: in full, for a sample.
    """

    user: str
    latency_ms: float
    appended_ms: int = 0
    version: int = 0
    live_since_ms: int = 0
    staleness_ms: int = 0
    scored: int = 0
    notes: list[str] = []
    error: str = ""
    reply: RankReply | None = None


@dataclass(frozen=True)
class AskerConfig:
    """How often, how many items, and which part of the replies is given in full."""

    rps: float = 50.0
    k: int = 10
    sample_every: int = 5


class Asker:
    """Three threads: one sends, one takes replies, one keeps the users who appeared last."""

    def __init__(self, log: Log, config: AskerConfig) -> None:
        self._log = log
        self._config = config
        self._requests = log.partitions(REQUESTS.name)
        self._replies = log.partitions(REPLIES.name)
        self._users: OrderedDict[str, int] = OrderedDict()  # user → event time of the last page
        self._pending: dict[str, tuple[str, float]] = {}  # request id → user, intended time (monotonic)
        self._answered = 0
        self._out: list[Observed] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._answers = log.reader(REPLIES.name, {0: END})
        # From the start and everywhere, until somebody appears: a short replay may be over before this process reads.
        self._events = log.reader(EVENTS.name, dict.fromkeys(range(log.partitions(EVENTS.name)), START))
        self._threads = [
            threading.Thread(target=self._guarded, args=(loop,), daemon=True)
            for loop in (self._watch, self._take, self._send)
        ]

    def start(self) -> None:
        """Ask until `stop`, from the first user on."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask no more; what was asked is still waited for."""
        self._stop.set()

    @property
    def running(self) -> bool:
        """Whether there's still something to be observed."""
        return any(thread.is_alive() for thread in self._threads)

    def observed(self) -> list[Observed]:
        """What came since the last call. Raises what broke the asker."""
        with self._lock:
            out, self._out = self._out, []
        if self._failure is not None:
            raise self._failure
        return out

    def close(self) -> None:
        """Stop, and leave the log's readers."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._answers.close()
        self._events.close()

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except ThalwegError as bad:
            self._failure = self._failure or bad
            self._stop.set()

    def _send(self) -> None:
        """One request at each intended moment, from the first user on."""
        while not self._users and not self._stop.is_set():
            time.sleep(0.01)
        begun_s = time.monotonic()
        number = 0
        while not self._stop.is_set():
            intended_s = begun_s + number / self._config.rps
            number += 1
            request_id = own_request_id(0, self._replies)
            wait_s = intended_s - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            with self._lock:
                user, time_ms = self._pick(number)
                self._pending[request_id] = (user, intended_s)
            request = RankRequest(request_id, user, self._config.k, time_ms)
            self._log.send(REQUESTS.name, partition_of(request_id, self._requests), encode_record([request]))

    def _pick(self, number: int) -> tuple[str, int]:
        """One of the users who appeared last, in turn, and that user's event time."""
        users = list(self._users)
        user = users[number % len(users)]
        return user, self._users[user]

    def _watch(self) -> None:
        """Keep the users of the partition in which the first appeared: a part of all is enough to ask for."""
        while not self._users and not self._stop.wait(WATCH_EVERY_S):
            for record in self._events.poll(0.2):
                if self._keep_users(record):
                    self._events.close()
                    self._events = self._log.reader(EVENTS.name, {record.partition: record.offset + 1})
                    break
        while not self._stop.wait(WATCH_EVERY_S):
            for record in self._events.poll(0.2):
                self._keep_users(record)

    def _keep_users(self, record: Record) -> bool:
        """The users of its pages are now the last who appeared. False: it has no page."""
        pages = [one for one in decode_events(record.value or b"")[0] if isinstance(one, Impression)]
        with self._lock:
            for page in pages:
                self._users[page.user] = page.time_ms
                self._users.move_to_end(page.user)
            while len(self._users) > USERS_MAX:
                self._users.popitem(last=False)
        return bool(pages)

    def _take(self) -> None:
        while self._pending or not self._stop.is_set():
            records = self._answers.poll(0.05)
            now_s = time.monotonic()
            for record in records:
                for reply in decode_replies(record.value or b""):
                    self._answer(reply, record.time_ms, now_s)
            self._give_up(now_s)

    def _answer(self, reply: RankReply, appended_ms: int, now_s: float) -> None:
        with self._lock:
            user, intended_s = self._pending.pop(reply.request_id, ("", 0.0))
            if not user:
                return  # not ours
            self._answered += 1
            whole = reply if self._answered % self._config.sample_every == 0 else None
            self._out.append(
                Observed(user, (now_s - intended_s) * 1000, appended_ms, reply.version, reply.live_since_ms,
                         reply.staleness_ms, reply.scored, reply.notes, reply.error, whole)
            )  # fmt: skip

    def _give_up(self, now_s: float) -> None:
        """A request that nobody answered is an error, not a gap in the figures."""
        with self._lock:
            late = [i for i, (_, intended_s) in self._pending.items() if now_s - intended_s > UNANSWERED_S]
            for request_id in late:
                user, _ = self._pending.pop(request_id)
                self._out.append(Observed(user, UNANSWERED_S * 1000, error=f"no answer within {UNANSWERED_S:g} s"))


def run_asker(settings: Settings, config: AskerConfig) -> None:
    """Ask until stdin ends, which it does when whoever started this ends; a JSON line on stdout for each Observed."""
    log = KafkaLog(settings)
    asker = Asker(log, config)

    def listen() -> None:
        sys.stdin.read()
        asker.stop()

    threading.Thread(target=listen, daemon=True).start()
    asker.start()
    try:
        more = True
        while more:
            more = asker.running
            for one in asker.observed():
                sys.stdout.buffer.write(msgspec.json.encode(one) + b"\n")
            sys.stdout.buffer.flush()
            time.sleep(0.1)
    finally:
        asker.close()
        log.close()
