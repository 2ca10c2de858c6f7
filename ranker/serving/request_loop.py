"""The request loop: reads requests from the log, answers them in slices, commits what was answered. One thread.

What a request waits for is bounded. Once it is read, its head decides: expired, shed, another model's, or admitted.
Admitted ones are decoded and ranked in slices of some milliseconds; between two slices the loop reads what has
arrived. Age counts from the broker's append time.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from ranker import metrics
from ranker.serving.admission import AdmissionQueue
from ranker.serving.answering import Answerer, deadline_of, expired, refusal, shed
from ranker.serving.offset_tracker import OffsetTracker, OpenRecord
from ranker.serving.reply_writer import ReplyWriter, Target
from ranker.serving.request_lag import RequestLag
from ranker.serving.request_queue import RequestQueue, WaitingRequest
from stream.events.request_parts import RequestHead, RequestPart, request_parts
from stream.events.types import INVALID, RankReply, RankRequest
from stream.log.protocol import START, GroupReader, Record
from stream.runtime.errors import BadEvent, LogGap, LogReset

RECORDS_MAX: Final = 500  # a poll; they are read ahead, so that the queue's length is known
UNREAD_BYTES_MAX: Final = 8 * 1024 * 1024  # of records whose requests aren't all admitted or shed: no poll above it,
STAY_S: Final = 1.0  # but one of one record so often, which keeps the membership of the group
HEADS_MAX, HEADS_MS = 256, 5.0  # of one partition, between two slices: an invalid request costs as much as ranking one
SLICE_MS: Final = 10.0
SLICE_MAX: Final = 32  # requests
LINGER_S: Final = 0.002  # how long a reply may wait for others of its record
COMMIT_EVERY_S: Final = 0.25
FINISH_S: Final = 0.2
SKEW_MS: Final = 1_000  # a broker's clock so far ahead is logged
SKEW_LOG_EVERY_S: Final = 60.0

log = logging.getLogger(__name__)


class _UnreadRecord:
    """A record whose requests aren't all admitted, shed or skipped yet."""

    __slots__ = ("opened", "parts", "read_s", "record")

    def __init__(self, record: Record, opened: OpenRecord, parts: list[RequestPart], read_s: float) -> None:
        self.record, self.opened, self.read_s = record, opened, read_s
        self.parts = deque(parts)


class RequestLoop:
    """Answers the requests of `reader` that name `model`, or (`answers_unnamed`) none. At least once.

    A record is committed once the log has acknowledged the replies to its requests, and to all before them.
    `now_ms` is the wall clock, `clock_s` a monotonic one.
    """

    def __init__(
        self,
        reader: GroupReader,
        replies: ReplyWriter,
        answerer: Answerer,
        admission: AdmissionQueue,
        now_ms: Callable[[], int],
        *,
        model: str,
        answers_unnamed: bool = True,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader, self._replies, self._answerer, self._admission = reader, replies, answerer, admission
        self._now_ms, self._clock_s = now_ms, clock_s
        self._models = {model, ""} if answers_unnamed else {model}
        self._answers_unnamed = answers_unnamed
        self._queue = RequestQueue(admission)
        self._unread: dict[int, deque[_UnreadRecord]] = {}  # by partition
        self._unread_bytes = 0
        self._lag = RequestLag(model)
        self._trackers: dict[int, OffsetTracker] = {}  # by partition
        self._committed_s = self._polled_s = self._skew_logged_s = clock_s()
        self._ranked_s = 0.0  # when the last reply was ready
        self._must_rewind = False
        self._replied = 0  # since the last poll

    def poll_once(self, timeout_s: float) -> int:
        """Read what has arrived (waiting for it if there's nothing to do), answer a slice. Returns how many replies.

        Raises what the log raises; after that call `rewind`, then poll again.
        """
        if self._must_rewind:
            self._seek_back()
        self._replies.settle()
        self._replied = 0
        if self._unread_bytes <= UNREAD_BYTES_MAX:
            self._poll(timeout_s if self.is_idle else 0.0, RECORDS_MAX)
        elif self._clock_s() - self._polled_s >= STAY_S:
            self._poll(0.0, 1)
        self._read_heads()
        self._answer_slice()
        self._replies.send()
        if self._clock_s() - self._committed_s >= COMMIT_EVERY_S:
            self._reader.commit_async(self._committable())
            self._committed_s = self._clock_s()
            self._lag.observe(self._reader.ends(), self._reader.assigned(), self._trackers, self._now_ms())
        self._observe_queue()
        return self._replied

    @property
    def is_idle(self) -> bool:
        """Whether all that was read is answered: a slice without a reply may have run out of time."""
        return not self._unread and not len(self._queue)

    def finish(self) -> None:
        """Commit what is answered and acknowledged within FINISH_S; others answer the rest. Raises LogError."""
        self._replies.flush(FINISH_S)
        self._reader.commit(self._committable(), FINISH_S)

    def rewind(self) -> None:
        """Replies may be lost: the next poll answers again what isn't committed."""
        self._must_rewind = True

    def _seek_back(self) -> None:
        self._replies.forget()
        assigned, positions = self._reader.assigned(), self._committable()
        for partition in positions:
            self._drop(partition)
        for partition in assigned & positions.keys():
            self._reader.seek(partition, positions[partition])
        self._must_rewind = False

    def _committable(self) -> dict[int, int]:
        return {partition: tracker.committable() for partition, tracker in self._trackers.items()}

    def _drop(self, partition: int) -> None:
        """Whoever reads this partition next reads what isn't committed again."""
        self._trackers.pop(partition, None)
        self._queue.drop(partition)
        for unread in self._unread.pop(partition, ()):
            self._unread_bytes -= len(unread.record.value or b"")

    def _poll(self, timeout_s: float, records_max: int) -> None:
        try:
            records = self._reader.poll(timeout_s, records_max)
        except LogGap as gap:
            metrics.GAPS.inc(gap.start - gap.wanted)
            log.warning("%s/%d: %d records were deleted (retention) before they were read: nobody waits for them any "
                        "more, they are skipped", gap.topic, gap.partition, gap.start - gap.wanted)  # fmt: skip
            self._reader.seek(gap.partition, START)
            return
        except LogReset as reset:
            log.warning("%s; requests are answered from its beginning", reset)
            self._drop(reset.partition)
            self._reader.seek(reset.partition, START)
            return
        for partition in self._trackers.keys() - self._reader.assigned():
            self._drop(partition)
        self._polled_s = self._clock_s()
        for record in records:
            self._add(record, self._polled_s)

    def _add(self, record: Record, read_s: float) -> None:
        partition, tracker = record.partition, self._trackers.get(record.partition)
        if tracker is None or record.offset < tracker.next_read:  # it was revoked, and came back
            self._drop(partition)
            tracker = self._trackers[partition] = OffsetTracker(record.offset)
        opened = tracker.read(record.offset, record.time_ms)
        try:
            parts = request_parts(record.value or b"")
        except BadEvent as bad:
            parts = []
            if self._answers_unnamed:
                self._replies.send_dead_letter(record.value or b"", str(bad), record, opened)
        self._unread.setdefault(partition, deque()).append(_UnreadRecord(record, opened, parts, read_s))
        self._unread_bytes += len(record.value or b"")
        self._observe_skew(record.time_ms - self._now_ms())

    def _read_heads(self) -> None:
        """Admit, shed or skip the next requests of each partition."""
        for partition, records in list(self._unread.items()):
            heads, until_s = HEADS_MAX, self._clock_s() + HEADS_MS / 1e3
            while records and heads and self._clock_s() < until_s:
                unread = records[0]
                while unread.parts and heads and self._clock_s() < until_s:
                    self._read_head(unread, unread.parts.popleft())
                    heads -= 1
                if not unread.parts:
                    unread.opened.open -= 1
                    self._unread_bytes -= len(unread.record.value or b"")
                    records.popleft()
            if not records:
                del self._unread[partition]

    def _read_head(self, unread: _UnreadRecord, part: RequestPart) -> None:
        head = part.head()
        if head is None and self._answers_unnamed:
            head = self._checked_head(unread, part)
        if head is None:
            return
        if head.model not in self._models:
            metrics.OTHERS.inc()
            return
        target, left_ms = self._replies.target(head), self._answerer.left_ms(head, unread.record.time_ms)
        home = target or self._replies.home(head.request_id)
        waiting = WaitingRequest(part, head, home, unread.record, unread.opened, unread.read_s)
        if target is None:
            refused = refusal(head, INVALID, _forbidden(head))
        elif left_ms <= 0:
            refused = expired(head, deadline_of(head.deadline_ms) - left_ms)
        elif self._queue.admit(waiting, left_ms):
            unread.opened.open += 1
            return
        else:
            refused = shed(head, self._admission.queue_ms)
        self._answerer.observe(refused, unread.record.time_ms)
        self._reply(waiting, refused)

    def _checked_head(self, unread: _UnreadRecord, part: RequestPart) -> RequestHead | None:
        """The head of a request that isn't plain, which has to be decoded and checked; None: it's rejected."""
        request = self._request(part, unread.record, unread.opened)
        if request is None:
            return None
        return RequestHead(
            request.request_id, request.user, time_ms=request.time_ms, deadline_ms=request.deadline_ms,
            model=request.model, reply_to=request.reply_to,
        )  # fmt: skip

    def _answer_slice(self) -> None:
        """Rank the next requests."""
        sent_s = self._clock_s()
        batch: list[tuple[WaitingRequest, RankRequest]] = []
        for waiting in self._queue.take(max(1, min(SLICE_MAX, int(SLICE_MS / self._admission.cost_ms)))):
            request = self._request(waiting.part, waiting.record, waiting.opened, waiting.target)
            if request is None:
                waiting.opened.open -= 1
                self._queue.done()
            else:
                batch.append((waiting, request))
        if not batch:
            return
        profiles = self._answerer.begin_profiles([request for _, request in batch])
        for waiting, request in batch:
            reply = self._answerer.answer_with(request, waiting.record.time_ms, profiles)
            self._reply(waiting, reply)
            waiting.opened.open -= 1
            now_s = self._clock_s()
            # A request also waits for what the loop does between two slices: reading, and shedding others.
            took_s = now_s - max(self._ranked_s, waiting.read_s)
            self._queue.done(None if reply.error else took_s * 1e3)
            self._ranked_s = now_s
            if now_s - sent_s >= LINGER_S:
                self._replies.send()
                sent_s = now_s

    def _request(
        self, part: RequestPart, record: Record, opened: OpenRecord, target: Target | None = None
    ) -> RankRequest | None:
        """The whole request; None: it's invalid, which its dead letter and a reply say.

        The reply goes to `target`; None: to the partition of its request id, since it isn't known where else.
        """
        try:
            return part.request()
        except BadEvent as bad:
            reason = str(bad)
        self._replies.send_dead_letter(bytes(part.raw), reason, record, opened)
        names = part.names()
        if names is not None:
            reply = RankReply(names.request_id, names.user, [], [], 0, error=reason, kind=INVALID)
            self._answerer.observe(reply, record.time_ms)
            self._replies.add(reply, target or self._replies.home(names.request_id), opened)
            self._replied += 1
        return None

    def _reply(self, waiting: WaitingRequest, reply: RankReply) -> None:
        self._replies.add(reply, waiting.target, waiting.opened)
        self._replied += 1
        metrics.READ.observe(self._clock_s() - waiting.read_s)

    def _observe_queue(self) -> None:
        waiting_ms = [records[0].record.time_ms for records in self._unread.values()]
        if (oldest_ms := self._queue.oldest_ms()) is not None:
            waiting_ms.append(oldest_ms)
        metrics.QUEUE.set(len(self._queue))
        metrics.QUEUE_AGE.set(max(0, self._now_ms() - min(waiting_ms)) / 1e3 if waiting_ms else 0.0)

    def _observe_skew(self, ahead_ms: int) -> None:
        metrics.SKEW.set(max(0, ahead_ms) / 1e3)
        if ahead_ms > SKEW_MS and self._clock_s() - self._skew_logged_s >= SKEW_LOG_EVERY_S:
            self._skew_logged_s = self._clock_s()
            log.warning("the broker's clock is %d ms ahead of this machine's: requests seem younger than they are, and "
                        "are answered too late; set both clocks by NTP", ahead_ms)  # fmt: skip


def _forbidden(head: RequestHead) -> str:
    assert head.reply_to is not None, "rank.replies is always allowed"
    return (
        f"reply_to names partition {head.reply_to.partition} of {head.reply_to.topic[:100]!r}, where this ranker may "
        "not write: name another one, or have the operator list the topic in THALWEG_REPLY_TOPICS"
    )
