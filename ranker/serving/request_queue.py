"""Requests that were admitted and wait, by partition. Partitions are answered in turn, one request each."""

from collections import deque
from dataclasses import dataclass

from ranker.serving.admission import AdmissionQueue
from ranker.serving.offset_tracker import OpenRecord
from ranker.serving.reply_writer import Target
from stream.events.request_parts import RequestHead, RequestPart
from stream.log.protocol import Record


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """One request, where its reply goes, and its record. `read_s`: when it was read, of the loop's clock."""

    part: RequestPart
    head: RequestHead
    target: Target
    record: Record
    opened: OpenRecord
    read_s: float


class RequestQueue:
    """One partition's thousands of requests delay another's next one by one request, not by all. One thread."""

    def __init__(self, admission: AdmissionQueue) -> None:
        self._admission = admission
        self._waiting: dict[int, deque[WaitingRequest]] = {}  # by partition, in the order of their turns

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def admit(self, waiting: WaitingRequest, left_ms: float) -> bool:
        """Queue a request with `left_ms` of its deadline; False: shed it."""
        partition = waiting.record.partition
        mine = len(self._waiting.get(partition, ()))
        # In turns, those after the first `mine` + 1 of another partition are answered later than this request.
        overtaken = sum(len(others) - mine - 1 for others in self._waiting.values() if len(others) > mine + 1)
        if not self._admission.admit(left_ms, overtakes=overtaken):
            return False
        self._waiting.setdefault(partition, deque()).append(waiting)
        return True

    def take(self, count: int) -> list[WaitingRequest]:
        """The next requests, at most `count`; each needs `done`."""
        taken: list[WaitingRequest] = []
        while self._waiting and len(taken) < count:
            partition, requests = next(iter(self._waiting.items()))
            taken.append(requests.popleft())
            del self._waiting[partition]
            if requests:
                self._waiting[partition] = requests  # its next turn comes after the others'
        return taken

    def done(self, cost_ms: float | None = None) -> None:
        """A request that was taken is answered. `cost_ms`: how long it was worked at, if it was ranked."""
        self._admission.done(cost_ms)

    def drop(self, partition: int) -> None:
        """Give up the requests of a partition: they are read again, by this ranker or another."""
        for _ in self._waiting.pop(partition, ()):
            self._admission.done()

    def oldest_ms(self) -> int | None:
        """The append time of the oldest request; None when none waits."""
        return min((requests[0].record.time_ms for requests in self._waiting.values()), default=None)
