"""What falls due by event time: in order, and cheap to hold."""

from bisect import insort
from typing import Final, Generic, Protocol, TypeVar

SLOT_BITS: Final = 10  # a slot is 1,024 ms
NEVER: Final = 2**62
SPENT_MAX: Final = 4_096


class Timed(Protocol):
    """Something with an event time."""

    @property
    def time_ms(self) -> int:
        """Event time, ms."""


T = TypeVar("T", bound=Timed)


class Calendar(Generic[T]):
    """Things in order of event time, then of arrival. What lies further ahead costs 8 bytes each.

    The slots that the present has reached are one sorted list, each later one waits unsorted.
    """

    def __init__(self) -> None:
        self.next_ms = NEVER  # event time of the first thing
        self._near: list[tuple[int, int, T]] = []
        self._at = 0  # the first of `_near` that is still there
        self._far: dict[int, list[T]] = {}
        self._near_slot = -1
        self._added = 0

    def add(self, thing: T) -> None:
        """Put it in its place."""
        time_ms = thing.time_ms
        slot = time_ms >> SLOT_BITS
        if slot > self._near_slot:
            far = self._far.get(slot)
            if far is None:
                self._far[slot] = [thing]
            else:
                far.append(thing)
        else:
            self._added += 1
            insort(self._near, (time_ms, self._added, thing), lo=self._at)
        if time_ms < self.next_ms:
            self.next_ms = time_ms

    def pop(self) -> T:
        """Take out the first thing; there must be one."""
        near = self._near
        if self._at == len(near):
            self._open_slot()
            near = self._near
        thing = near[self._at][2]
        self._at += 1
        if self._at < len(near):
            self.next_ms = near[self._at][0]
            if self._at > SPENT_MAX:
                del near[: self._at]
                self._at = 0
        else:
            self._near, self._at = [], 0
            self.next_ms = min(thing.time_ms for thing in self._far[min(self._far)]) if self._far else NEVER
        return thing

    def _open_slot(self) -> None:
        """Make the first slot the near one."""
        self._near_slot = min(self._far)
        self._near, self._at = [], 0
        for thing in self._far.pop(self._near_slot):
            self._added += 1
            self._near.append((thing.time_ms, self._added, thing))
        self._near.sort()  # numbers differ: things are never compared
