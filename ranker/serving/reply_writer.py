"""Replies on their way to the log: packed into records by topic and partition, and followed until acknowledged."""

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import msgspec

from ranker import metrics
from ranker.serving.answering import Asked, refusal
from ranker.serving.offset_tracker import OpenRecord
from stream.events.codec import encode
from stream.events.topics import REPLIES, REQUESTS_DLQ, TOPICS
from stream.events.types import INVALID, RECORD_BYTES_MAX, RankReply
from stream.log.dead_letters import dead_letter
from stream.log.protocol import Log, Record, Sender, partition_of
from stream.runtime.errors import BadEvent, LogError, MissingTopic, SettingsError

REPLY_BYTES_MAX: Final = RECORD_BYTES_MAX - 1024
RECORD_BYTES_FULL: Final = RECORD_BYTES_MAX // 4

log = logging.getLogger(__name__)


class Target(NamedTuple):
    """Where a reply goes."""

    topic: str
    partition: int


class _ReplyBatch:
    """Replies of one record, and the records whose requests they answer."""

    __slots__ = ("opened", "replies", "size")

    def __init__(self) -> None:
        self.replies: list[msgspec.Raw] = []
        self.opened: list[OpenRecord] = []
        self.size = 0


class ReplyWriter:
    """Writes replies and dead letters. `partitions`: of each topic that a reply may go to. One thread.

    A reply that isn't acknowledged is a failure of the log, which `settle` raises; in a topic of a caller it's only
    counted, since one caller's topic must not stop the others.
    """

    def __init__(self, sender: Sender, partitions: Mapping[str, int]) -> None:
        assert REPLIES.name in partitions, f"{REPLIES.name} is always allowed"
        self._sender, self._partitions = sender, partitions
        self._batches: dict[Target, _ReplyBatch] = {}
        self._outcomes: deque[tuple[int, str, Sequence[OpenRecord], LogError | None]] = deque()  # from any thread
        self._epoch = 0
        self._logged: Record | None = None  # the last one whose invalid requests were logged

    def home(self, request_id: str) -> Target:
        """The partition of `rank.replies` that belongs to a request id."""
        return Target(REPLIES.name, partition_of(request_id, self._partitions[REPLIES.name]))

    def target(self, request: Asked) -> Target | None:
        """Where the reply to a request goes; None when it names a topic or partition that isn't allowed."""
        to = request.reply_to
        if to is None:
            return self.home(request.request_id)
        return Target(to.topic, to.partition) if to.partition < self._partitions.get(to.topic, 0) else None

    def add(self, reply: RankReply, target: Target, opened: OpenRecord) -> None:
        """Send a reply with the next `send`, or earlier. `opened` stays open until it is acknowledged."""
        raw = encode(reply)
        if len(raw) > REPLY_BYTES_MAX:
            why = f"the reply has {len(raw)} bytes, over {REPLY_BYTES_MAX}: ask for a smaller k"
            raw = encode(refusal(reply, INVALID, why))
        batch = self._batches.setdefault(target, _ReplyBatch())
        if batch.replies and batch.size + len(raw) > RECORD_BYTES_FULL:
            self._send(target, batch)
            batch = self._batches[target] = _ReplyBatch()
        batch.replies.append(msgspec.Raw(raw))
        batch.opened.append(opened)
        batch.size += len(raw)
        opened.open += 1

    def send(self) -> None:
        """Send what was added."""
        batches, self._batches = self._batches, {}
        for target, batch in batches.items():
            self._send(target, batch)

    def send_dead_letter(self, raw: bytes, reason: str, record: Record, opened: OpenRecord) -> None:
        """Send rejected bytes to the dead-letter topic."""
        metrics.DEAD_LETTERS.inc()
        if self._logged is not record:
            self._logged = record
            log.warning("a request is invalid (%s): it goes to %s, as do others of its record, of which no log tells",
                        reason, REQUESTS_DLQ.name)  # fmt: skip
        letter = dead_letter(raw, BadEvent.__name__, reason, record)
        assert letter.value is not None, "a dead letter is no tombstone"
        opened.open += 1
        self._sender.send(letter.topic, letter.partition, letter.value, self._settled(letter.topic, [opened]))

    def settle(self) -> None:
        """Close what was acknowledged. Raises LogError when a reply may be lost: `forget`, and answer again."""
        while self._outcomes:
            epoch, topic, opened, failure = self._outcomes.popleft()
            if epoch != self._epoch:
                continue
            if failure is not None:
                if topic in (REPLIES.name, REQUESTS_DLQ.name):
                    raise failure
                metrics.UNDELIVERED.inc(len(opened))
                log.warning("%d replies are lost, their callers named a topic that doesn't take them: %s",
                            len(opened), failure)  # fmt: skip
            for record in opened:
                record.open -= 1

    def forget(self) -> None:
        """Replies that weren't acknowledged yet don't count any more: their requests are read again."""
        self._epoch += 1
        self._batches = {}

    def flush(self, timeout_s: float) -> None:
        """Wait until all that was sent is acknowledged, at most `timeout_s`; then as `settle`."""
        self._sender.flush(timeout_s)
        self.settle()

    def _send(self, target: Target, batch: _ReplyBatch) -> None:
        value = msgspec.msgpack.encode(batch.replies)
        self._sender.send(target.topic, target.partition, value, self._settled(target.topic, batch.opened))

    def _settled(self, topic: str, opened: Sequence[OpenRecord]) -> "partial[None]":
        return partial(self._add_outcome, self._epoch, topic, opened)

    def _add_outcome(self, epoch: int, topic: str, opened: Sequence[OpenRecord], failure: LogError | None) -> None:
        self._outcomes.append((epoch, topic, opened, failure))


def reply_partitions(source: Log, topics: Sequence[str]) -> dict[str, int]:
    """Partitions of `rank.replies` and of the topics that `reply_to` may name. Raises LogError, SettingsError."""
    ours = {topic.name for topic in TOPICS} - {REPLIES.name}
    if wrong := sorted(ours.intersection(topics)):
        raise SettingsError(f"THALWEG_REPLY_TOPICS names {wrong[0]}, which isn't for replies: name topics of callers")
    partitions = {REPLIES.name: source.partitions(REPLIES.name)}
    for topic in topics:
        try:
            partitions[topic] = source.partitions(topic)
        except MissingTopic:
            raise SettingsError(
                f"THALWEG_REPLY_TOPICS names {topic}, which doesn't exist: create it with Kafka's own tools "
                "(kafka-topics --create), since it is a caller's, or leave it out"
            ) from None
    return partitions
