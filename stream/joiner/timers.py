"""What falls due by event time: in order, and cheap to hold."""

from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final, Generic, Protocol, TypeVar

SLOT_BITS: Final = 10  # a slot is 1,024 ms
NEVER: Final = 2**62
SPENT_MAX: Final = 4_096  # things taken whose places are kept until then


class Timed(Protocol):
    """Something with an event time."""

    @property
    def time_ms(self) -> int:
        """Event time, ms."""


T = TypeVar("T", bound=Timed)
_time: Final = attrgetter("time_ms")


class TimerQueue(Generic[T]):
    """Things in order of event time, then of arrival. What lies further ahead costs 8 bytes each.

    The slots that the present has reached are one sorted list, each later one waits unsorted.
    """

    def __init__(self) -> None:
        self.next_ms = NEVER  # event time of the first thing
        self._near: list[Any] = []  # T, None where it was taken
        self._times: list[int] = []  # of `_near`
        self._at = 0  # the first of `_near` that is still there
        self._far: dict[int, list[T]] = {}
        self._near_slot = -1

    def add(self, thing: T) -> None:
        """Put it in its place."""
        time_ms = thing.time_ms
        slot = time_ms >> SLOT_BITS
        if slot <= self._near_slot:
            place = bisect_right(self._times, time_ms, lo=self._at)
            self._times.insert(place, time_ms)
            self._near.insert(place, thing)
        else:
            try:
                self._far[slot].append(thing)
            except KeyError:
                self._far[slot] = [thing]
        if time_ms < self.next_ms:
            self.next_ms = time_ms

    def add_all(self, things: Sequence[T]) -> None:
        """Put each in its place: at once if they belong into one slot."""
        times = list(map(_time, things))
        first_ms, slot = min(times), max(times) >> SLOT_BITS
        if first_ms >> SLOT_BITS != slot or slot <= self._near_slot:
            for thing in things:
                self.add(thing)
            return
        if slot in self._far:
            self._far[slot] += things
        else:
            self._far[slot] = list(things)
        self.next_ms = min(self.next_ms, first_ms)

    def take(self, until_ms: int, most: int = NEVER) -> list[T]:
        """Take out everything up to this event time, inclusive, in order; so many things at most."""
        taken: list[T] = []
        while self.next_ms <= until_ms and len(taken) < most:
            if self._at == len(self._near):
                self._open_slot()
            end = min(bisect_right(self._times, until_ms, lo=self._at), self._at + most - len(taken))
            taken += self._near[self._at : end]
            self._near[self._at : end] = [None] * (end - self._at)
            self._at = end
            if end < len(self._near):
                self.next_ms = self._times[end]
            else:
                self.next_ms = min(map(_time, self._far[min(self._far)])) if self._far else NEVER
            if end > SPENT_MAX or end == len(self._near):
                del self._near[:end], self._times[:end]
                self._at = 0
        return taken

    def _open_slot(self) -> None:
        """Make the first slot the near one."""
        self._near_slot = min(self._far)
        self._near = self._far.pop(self._near_slot)
        self._near.sort(key=_time)  # keeps the order of arrival
        self._times = list(map(_time, self._near))
        self._at = 0
