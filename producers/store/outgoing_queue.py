"""Events on their way: ordered by when they are sent, with duplicates, late ones, and outages of the broker."""

import heapq
import math
from collections.abc import Sequence
from itertools import count
from typing import Final

from producers.source import WorldEvent
from producers.store.draws import Draws, Purpose, log_uniform
from producers.store.parameters import ReportParameters
from stream.events.types import Impression, Install, SourceEvent

_Entry = tuple[int, int, int, str, int, int, WorldEvent]
ENTITY, PAGE, INSTALL, RETRACTION, OTHER = range(5)  # sent in this order within a millisecond
HALF: Final = 0.5


class OutgoingQueue:
    """Events by send time. The order depends on times and ids only, not on the order of the calls."""

    def __init__(
        self, reports: ReportParameters, compress: float, draws: Draws, outages: Sequence[tuple[int, int]]
    ) -> None:
        self._reports, self._draws = reports, draws
        self._event_ms = 1_000 / compress  # of a second of world time
        self.outages = outages  # event times
        self._heap: list[_Entry] = []
        self._sequence = count()

    def put_entity(self, entity: WorldEvent, name: str, time_ms: int) -> None:
        """An item or user, sent once, at this time."""
        self._push(time_ms, ENTITY, name, 0, entity)

    def put(self, event: SourceEvent, time_ms: int) -> int:
        """An event that is ready at this time: sent at once or late, and some twice. Returns when it is first sent."""
        reports, draws = self._reports, self._draws
        kind, name = _kind_and_name(event)
        key = f"{kind} {name}"
        draw = draws.name(Purpose.LATE, key)
        if draw < reports.late:
            time_ms += round(log_uniform(draw / reports.late, reports.late_by_s) * self._event_ms)
        draw = draws.name(Purpose.DUPLICATE, key)
        if draw < reports.duplicated:
            share, after_ms = draw / reports.duplicated, 0
            if share >= HALF:
                after_ms = round(log_uniform(2 * share - 1, reports.duplicate_after_s) * self._event_ms)
            self._push(time_ms + after_ms, kind, name, 1, event)
        return self._push(time_ms, kind, name, 0, event)

    def take(self, until_ms: int | None) -> list[WorldEvent]:
        """Events that are sent before `until_ms` (None: all), in order."""
        heap, taken = self._heap, []
        while heap and (until_ms is None or heap[0][0] < until_ms):
            taken.append(heapq.heappop(heap)[-1])
        return taken

    def _push(self, time_ms: int, kind: int, name: str, copy: int, event: WorldEvent) -> int:
        send_ms = time_ms
        for first_ms, end_ms in self.outages:
            if first_ms <= send_ms < end_ms:
                send_ms = end_ms
        heapq.heappush(self._heap, (send_ms, time_ms, kind, name, copy, next(self._sequence), event))
        return send_ms


def event_time(start_ms: int, world_ms: float, compress: float) -> int:
    """The event time, in ms, of a world time."""
    return start_ms + math.floor(world_ms / compress)


def _kind_and_name(event: SourceEvent) -> tuple[int, str]:
    if isinstance(event, Impression):
        return PAGE, event.request_id
    if isinstance(event, Install):
        return RETRACTION if event.retracted else INSTALL, event.install_id
    return OTHER, str(event.time_ms)
