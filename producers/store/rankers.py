"""Rankers as their callers see them: requests go out, replies come back in their own time."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from stream.events.codec import decode_replies, encode_record
from stream.events.topics import REPLIES, REQUESTS
from stream.events.types import RankReply, RankRequest
from stream.log.protocol import END, Log, partition_of


class Replied(NamedTuple):
    """A reply, and when it was there (ms since 1970): in the log, or at the caller where there's no log between."""

    reply: RankReply
    replied_ms: int


class Rankers(Protocol):
    """Whatever ranks. One thread may ask while another one receives."""

    def ask(self, requests: Sequence[RankRequest]) -> None:
        """Send requests; waits for no reply."""

    def replies(self, wait_s: float) -> list[Replied]:
        """Those that come within this time; also of requests that others have sent."""

    def close(self) -> None:
        """Leave."""


class LogRankers:
    """Rankers that read `rank.requests` of a log. Requests of one call that share a partition share a record."""

    def __init__(self, log: Log) -> None:
        self._log, self._partitions = log, log.partitions(REQUESTS.name)
        self._reader = log.reader(REPLIES.name, dict.fromkeys(log.ends(REPLIES.name), END))

    def ask(self, requests: Sequence[RankRequest]) -> None:
        """See Rankers."""
        by_partition: dict[int, list[RankRequest]] = {}
        for request in requests:
            by_partition.setdefault(partition_of(request.request_id, self._partitions), []).append(request)
        for partition, some in by_partition.items():
            self._log.send(REQUESTS.name, partition, encode_record(some))

    def replies(self, wait_s: float) -> list[Replied]:
        """See Rankers."""
        return [
            Replied(reply, record.time_ms)
            for record in self._reader.poll(wait_s)
            for reply in decode_replies(record.value or b"")
        ]

    def close(self) -> None:
        """Close the reader; the log stays open."""
        self._reader.close()
