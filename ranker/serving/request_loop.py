"""The request loop: reads requests from the log, writes replies to it, commits what was answered. One thread."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from ranker import metrics
from ranker.ranking.freshness import FreshnessTracker
from ranker.ranking.rank import Ranker
from ranker.serving.answering import refusal
from ranker.serving.profile_reader import ProfileRead, ProfileReader
from stream.events.codec import decode_requests, encode
from stream.events.topics import REPLIES, REQUESTS_DLQ
from stream.events.types import FAILED, INVALID, RECORD_BYTES_MAX, RankReply, RankRequest
from stream.log.dead_letters import dead_letter
from stream.log.protocol import GroupReader, Log, Record, partition_of
from stream.runtime.errors import BadEvent

RECORDS_MAX: Final = 100
COMMIT_EVERY_S: Final = 1.0
LINGER_S: Final = 0.002  # how long a reply may wait for others of its record
REPLY_BYTES_MAX: Final = RECORD_BYTES_MAX - 1024
NAMES_MAX: Final = 1_024  # characters of request id and user together; beyond it an invalid request gets no reply
RECORD_BYTES_FULL: Final = RECORD_BYTES_MAX // 4

log = logging.getLogger(__name__)


class RequestLoop:
    """Answers the requests of `reader`. A request is committed once the log has confirmed its reply: at least once."""

    def __init__(
        self,
        source: Log,
        reader: GroupReader,
        ranker: Ranker,
        profiles: ProfileReader,
        freshness: FreshnessTracker,
        now_ms: Callable[[], int],
    ) -> None:
        self._log, self._reader, self._ranker = source, reader, ranker
        self._profiles, self._freshness, self._now_ms = profiles, freshness, now_ms
        self._partitions = source.partitions(REPLIES.name)
        self._buffered: dict[int, tuple[list[msgspec.Raw], int]] = {}  # partition → replies and their bytes
        self._first_uncommitted: dict[int, int] = {}  # offset by partition
        self._next: dict[int, int] = {}  # offsets to commit
        self._committed_s = time.monotonic()
        self._must_rewind = False

    def poll_once(self, timeout_s: float) -> int:
        """Poll, answer all requests, commit when it's time. Returns how many replies were sent.

        Raises what the log raises; after that call `rewind`, then poll again.
        """
        if self._must_rewind:
            self._seek_back()
        records = self._reader.poll(timeout_s, RECORDS_MAX)
        replies = self._answer(records) if records else 0
        if self._next and time.monotonic() - self._committed_s >= COMMIT_EVERY_S:
            self.commit()
        return replies

    def commit(self) -> None:
        """Wait until all replies are confirmed, then commit the offsets of the requests answered."""
        self._log.flush()
        self._reader.commit(self._next)
        self._first_uncommitted, self._next = {}, {}
        self._committed_s = time.monotonic()

    def rewind(self) -> None:
        """Replies may be lost: the next poll answers again what isn't committed."""
        self._must_rewind = True

    def _seek_back(self) -> None:
        assigned = self._reader.positions()
        for partition, offset in self._first_uncommitted.items():
            if partition in assigned:
                self._reader.seek(partition, offset)
        self._first_uncommitted, self._next, self._buffered = {}, {}, {}
        self._must_rewind = False

    def _answer(self, records: Sequence[Record]) -> int:
        read_s = time.monotonic()
        requests: list[RankRequest] = []
        rejected = 0
        for record in records:
            self._first_uncommitted.setdefault(record.partition, record.offset)
            valid, invalid = decode_requests(record.value or b"")
            requests += valid
            for raw, reason in invalid:
                self._send_dead_letter(raw, reason, record)
                if header := _header_of(raw):  # its sender waits for a reply
                    self._buffer(
                        RankReply(header.request_id, header.user, [], [], 0, error=reason, kind=INVALID), read_s
                    )
                    rejected += 1
        profiles = self._profiles.begin([r.user for r in requests if r.history is None or r.attributes is None])
        sent_s = time.monotonic()
        for request in requests:
            self._buffer(self._reply(request, profiles, read_s), read_s)
            if time.monotonic() - sent_s >= LINGER_S:
                self._send_buffered()
                sent_s = time.monotonic()
        self._send_buffered()
        self._next.update({r.partition: r.offset + 1 for r in records})
        return len(requests) + rejected

    def _reply(self, request: RankRequest, profiles: ProfileRead, read_s: float) -> RankReply:
        """A request never ends the service: if ranking fails, its reply is the error."""
        deadline_s = read_s + request.deadline_ms / 1e3 if request.deadline_ms else None
        try:
            return self._ranker.answer(request, lambda: profiles.result()[request.user], read_s, deadline_s)
        except BadEvent as error:
            return refusal(request, INVALID, str(error))
        except Exception as error:
            log.exception("request %s of user %s can't be answered", request.request_id, request.user)
            return refusal(request, FAILED, f"the ranker failed ({error!r}): its log says where")

    def _buffer(self, reply: RankReply, read_s: float) -> None:
        raw = encode(reply)
        if len(raw) > REPLY_BYTES_MAX:
            why = f"the reply has {len(raw)} bytes, over {REPLY_BYTES_MAX}: ask for a smaller k"
            reply = refusal(reply, INVALID, why)
            raw = encode(reply)
        partition = partition_of(reply.request_id, self._partitions)
        replies, size = self._buffered.get(partition, ([], 0))
        if size + len(raw) > RECORD_BYTES_FULL and replies:
            self._log.send(REPLIES.name, partition, msgspec.msgpack.encode(replies))
            replies, size = [], 0
        replies.append(msgspec.Raw(raw))
        self._buffered[partition] = (replies, size + len(raw))
        self._observe(reply, read_s)

    def _send_buffered(self) -> None:
        for partition, (replies, _) in self._buffered.items():
            self._log.send(REPLIES.name, partition, msgspec.msgpack.encode(replies))
        self._buffered = {}

    def _send_dead_letter(self, raw: bytes, reason: str, record: Record) -> None:
        metrics.DEAD_LETTERS.inc()
        log.warning("a request is invalid (%s): it goes to %s", reason, REQUESTS_DLQ.name)
        self._log.send(REQUESTS_DLQ.name, 0, dead_letter(raw, BadEvent.__name__, reason, record).value)

    def _observe(self, reply: RankReply, read_s: float) -> None:
        metrics.REPLIES.inc()
        metrics.LATENCY.observe(time.monotonic() - read_s)
        for note in reply.notes:
            metrics.INCOMPLETE.labels(note).inc()
        if reply.error:
            metrics.ERRORS.labels(reply.kind).inc()
        elif reply.version:
            metrics.STALENESS.set(reply.staleness_ms / 1e3)
            self._freshness.replied(reply.version, self._now_ms())


class _RequestHeader(msgspec.Struct, array_like=True, tag=RankRequest.__struct_config__.tag, gc=False, frozen=True):
    """The first fields of a request, whatever follows."""

    request_id: str
    user: str


_header_decoder = msgspec.msgpack.Decoder(_RequestHeader)


def _header_of(raw: bytes) -> _RequestHeader | None:
    """Request id and user of an invalid request, if they can be read."""
    try:
        header = _header_decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return header if header.request_id and len(header.request_id) + len(header.user) <= NAMES_MAX else None
