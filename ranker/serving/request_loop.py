"""The desk: requests come in from the log, replies go out to it, and what was answered is committed. One thread."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from ranker import metrics
from ranker.ranking.freshness import Freshness
from ranker.ranking.rank import Ranker
from ranker.serving.history import HistoryReader
from stream.events.codec import decode_requests, encode
from stream.events.topics import REPLIES, REQUESTS_DLQ
from stream.events.types import RECORD_BYTES_MAX, RankReply, RankRequest
from stream.log.dead_letters import dead_letter
from stream.log.protocol import GroupReader, Log, Record, partition_of
from stream.runtime.errors import BadEvent

RECORDS_MAX: Final = 100
COMMIT_EVERY_S: Final = 1.0
HOLD_S: Final = 0.002  # how long a reply may wait for others of its record
REPLY_BYTES_MAX: Final = RECORD_BYTES_MAX - 1024
NAMES_MAX: Final = 1_024  # letters of request id and user that an error goes back to
RECORD_FULL_BYTES: Final = RECORD_BYTES_MAX // 4

log = logging.getLogger(__name__)


class Desk:
    """Answers what `reader` brings. A request is committed when the log has confirmed its reply: at least once."""

    def __init__(
        self,
        source: Log,
        reader: GroupReader,
        ranker: Ranker,
        histories: HistoryReader,
        freshness: Freshness,
        now_ms: Callable[[], int],
    ) -> None:
        self._log, self._reader, self._ranker = source, reader, ranker
        self._histories, self._freshness, self._now_ms = histories, freshness, now_ms
        self._partitions = source.partitions(REPLIES.name)
        self._outbox: dict[int, tuple[list[msgspec.Raw], int]] = {}
        self._first: dict[int, int] = {}  # oldest offset that isn't committed, per partition
        self._next: dict[int, int] = {}  # what would be committed now
        self._committed_s = time.monotonic()
        self._rewinds = False

    def turn(self, timeout_s: float) -> int:
        """Poll once, answer all that came, commit when it's time. Returns how many replies went out.

        Raises what the log raises; after that `rewind`, and turn again.
        """
        if self._rewinds:
            self._go_back()
        records = self._reader.poll(timeout_s, RECORDS_MAX)
        replies = self._answer(records) if records else 0
        if self._next and time.monotonic() - self._committed_s >= COMMIT_EVERY_S:
            self.commit()
        return replies

    def commit(self) -> None:
        """Wait until all replies are confirmed, then store how far requests were answered."""
        self._log.flush()
        self._reader.commit(self._next)
        self._first, self._next = {}, {}
        self._committed_s = time.monotonic()

    def rewind(self) -> None:
        """Some replies may be lost: the next turn answers again what isn't committed."""
        self._rewinds = True

    def _go_back(self) -> None:
        mine = self._reader.positions()
        for partition, offset in self._first.items():
            if partition in mine:
                self._reader.seek(partition, offset)
        self._first, self._next, self._outbox = {}, {}, {}
        self._rewinds = False

    def _answer(self, records: Sequence[Record]) -> int:
        read_s = time.monotonic()
        requests: list[RankRequest] = []
        refused = 0
        for record in records:
            self._first.setdefault(record.partition, record.offset)
            good, bad = decode_requests(record.value or b"")
            requests += good
            for raw, reason in bad:
                self._bury(raw, reason, record)
                if asked := _who_asked(raw):  # and waits for a reply
                    self._put(RankReply(asked.request_id, asked.user, [], [], 0, error=reason), read_s)
                    refused += 1
        wanting = {r.user for r in requests if r.history is None}
        histories = self._histories.get(sorted(wanting), self._ranker.history_last)
        held_s = time.monotonic()
        for request in requests:
            history = request.history
            if history is None:
                history = None if histories is None else histories.get(request.user, [])
            self._put(self._reply(request, history, read_s), read_s)
            if time.monotonic() - held_s >= HOLD_S:
                self._send()
                held_s = time.monotonic()
        self._send()
        self._next.update({r.partition: r.offset + 1 for r in records})
        return len(requests) + refused

    def _reply(self, request: RankRequest, history: Sequence[str] | None, read_s: float) -> RankReply:
        """One request never ends the service: it is answered, if only with its error."""
        try:
            return self._ranker.answer(request, history, read_s)
        except BadEvent as bad:
            return _failed(request, str(bad))
        except Exception as bad:
            log.exception("request %s of user %s can't be answered", request.request_id, request.user)
            return _failed(request, f"the ranker failed ({bad!r}): its log says where")

    def _put(self, reply: RankReply, read_s: float) -> None:
        raw = encode(reply)
        if len(raw) > REPLY_BYTES_MAX:
            why = f"the reply has {len(raw)} bytes, over {REPLY_BYTES_MAX}: ask for a smaller k"
            reply = _failed(reply, why)
            raw = encode(reply)
        partition = partition_of(reply.request_id, self._partitions)
        waiting, size = self._outbox.get(partition, ([], 0))
        if size + len(raw) > RECORD_FULL_BYTES and waiting:
            self._log.send(REPLIES.name, partition, msgspec.msgpack.encode(waiting))
            waiting, size = [], 0
        waiting.append(msgspec.Raw(raw))
        self._outbox[partition] = (waiting, size + len(raw))
        self._measure(reply, read_s)

    def _send(self) -> None:
        for partition, (waiting, _) in self._outbox.items():
            self._log.send(REPLIES.name, partition, msgspec.msgpack.encode(waiting))
        self._outbox = {}

    def _bury(self, raw: bytes, reason: str, record: Record) -> None:
        metrics.DEAD_LETTERS.inc()
        log.warning("a request can't be taken (%s): it goes to %s", reason, REQUESTS_DLQ.name)
        letter = dead_letter(raw, BadEvent.__name__, reason, record)
        self._log.send(REQUESTS_DLQ.name, 0, letter.value)

    def _measure(self, reply: RankReply, read_s: float) -> None:
        metrics.REPLIES.inc()
        metrics.RANKED.observe(time.monotonic() - read_s)
        for note in reply.notes:
            metrics.NOTED.labels(note).inc()
        if reply.error:
            metrics.ERRORS.inc()
        elif reply.version:
            metrics.STALENESS.set(reply.staleness_ms / 1e3)
            self._freshness.replied(reply.version, self._now_ms())


def _failed(asked: RankRequest | RankReply, why: str) -> RankReply:
    return RankReply(asked.request_id, asked.user, [], [], 0, error=why, time_ms=asked.time_ms)


class _Asked(msgspec.Struct, array_like=True, tag=RankRequest.__struct_config__.tag, gc=False, frozen=True):
    """The beginning of a request, whatever follows."""

    request_id: str
    user: str


_asked = msgspec.msgpack.Decoder(_Asked)


def _who_asked(raw: bytes) -> _Asked | None:
    """Who sent a request that can't be taken, if that much of it can be read."""
    try:
        asked = _asked.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return asked if asked.request_id and len(asked.request_id) + len(asked.user) <= NAMES_MAX else None
