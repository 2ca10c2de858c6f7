"""What a join remembers of a user: pages and installs, found by user.

Plain structs and tuples of them: the collector doesn't walk through them. Only who has very many things gets an index.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from stream.events import Install
from stream.joiner.raw_impression import RawImpression

MANY: Final = 64  # things of one user: from so many on they are found by item
_time: Final = attrgetter("time_ms")
FEW: Final = 16  # and from so few on no longer; two at least


@dataclass
class Counts:
    """What a joiner has met since it was made (a restart counts what it reads again)."""

    pages: int = 0
    installs: int = 0
    ticks: int = 0
    duplicate: int = 0  # a page or install that is remembered already
    late: int = 0  # older than anything that is remembered: dropped
    early: int = 0  # an install that stood in the log before its page
    organic: int = 0  # an install that surely no page ever claimed
    retracted: int = 0  # an install taken back
    stray: int = 0  # a retraction whose install was forgotten before it came, or never came
    shed: int = 0  # a page that was forgotten early because memory was full


class RecordRef(msgspec.Struct, gc=False, eq=False):
    """A record with something in it that is still remembered."""

    offset: int
    watermark_ms: int  # before it
    refcount: int = 0


class PendingInstall(msgspec.Struct, gc=False, eq=False):
    """An install (or a retraction that came before it) and the page that has it now."""

    install: Install
    time_ms: int
    mark: RecordRef
    ingest_ms: int
    retracted: bool
    page: RawImpression | None = None
    met: bool = False  # a retraction whose install came after it
    again_ms: int = 0  # the latest event time with which it came again
    after: "PendingInstall | None" = None  # the latest retraction of it: stands in its place when it is forgotten

    @property
    def items(self) -> tuple[str]:
        """What it is of."""
        return (self.install.item,)


class Installed(NamedTuple):
    """When a user installed an item last, by what is remembered; None: no longer has it.

    `newest`: surely the newest time. Of what came late it's unknown: a newer install may be forgotten.
    """

    user: str
    item: str
    time_ms: int | None
    newest: bool = True


class Again(msgspec.Struct, gc=False, eq=False):
    """A later event time of what is held already: until it is over, a restart that read it alone would take it in."""

    time_ms: int
    mark: RecordRef
    bytes: int


T = TypeVar("T", RawImpression, PendingInstall)


class _Several(msgspec.Struct, gc=False, eq=False):
    """Of users with more than one. A dict that held tuples would be walked through at every collection."""

    things: tuple[Any, ...]


class _Many(Generic[T]):
    """Of a user with very many: 4 bytes of hash per thing and item, searched all at once.

    The hashes of one thing lie together, in the order of the things; what is gone is cut off now and then.
    """

    def __init__(self, things: Iterable[T]) -> None:
        self.count = 0
        self._things: list[T | None] = []
        self._first = 0  # before it all are None
        self._times = array("q")
        self._hashes = array("I")
        self._ends = array("q")  # where each thing's hashes end, counted from the first thing that ever was
        self._cut = 0  # hashes that were cut off
        for thing in things:
            self.add(thing)

    @property
    def first(self) -> T:
        """The first that is there."""
        first = self._things[self._first]
        assert first is not None
        return first

    def add(self, thing: T) -> None:
        """Put it last."""
        self._hashes.extend(map(_hash, thing.items))
        self._ends.append(self._cut + len(self._hashes))
        self._times.append(thing.time_ms)
        self._things.append(thing)
        self.count += 1

    def drop(self, thing: T) -> None:
        """Take it out; near the front it is found at once."""
        things = self._things
        things[things.index(thing, self._first)] = None
        self.count -= 1
        while self._first < len(things) and things[self._first] is None:
            self._first += 1
        if 2 * self._first > len(things):
            end = self._ends[self._first - 1]
            self._hashes = self._hashes[end - self._cut :]
            self._ends, self._times = self._ends[self._first :], self._times[self._first :]
            self._cut = end
            del things[: self._first]
            self._first = 0

    def all(self) -> tuple[T, ...]:
        """All, in the order in which they came."""
        return tuple(thing for thing in self._things[self._first :] if thing is not None)

    def of(self, items: Iterable[str]) -> list[T]:
        """Those that have one of the items, in order, and now and then another."""
        found: set[int] = set()
        for item in items:
            found.update(self._places(item).tolist())
        return [thing for place in sorted(found) if (thing := self._things[place]) is not None]

    def newest(self, item: str, after_ms: int, until_ms: int) -> Iterator[T]:
        """Those that have the item, newest first, by event time (one exclusive, one inclusive), then order."""
        import numpy as np

        places = self._places(item)
        times = np.frombuffer(self._times, np.int64)[places]
        times[(times <= after_ms) | (times > until_ms)] = -1
        while len(times):
            last = len(times) - 1 - int(times[::-1].argmax())
            if times[last] < 0:
                return
            times[last] = -1
            thing = self._things[places[last]]
            if thing is not None:
                yield thing

    def _places(self, item: str) -> Any:
        """Where in `_things` it is, int64 [things]."""
        import numpy as np  # loaded when the first user has very many

        at = np.flatnonzero(np.frombuffer(self._hashes, np.uint32) == _hash(item))
        return np.searchsorted(np.frombuffer(self._ends, np.int64), at + self._cut, side="right")


def _hash(item: str) -> int:
    return hash(item) & 0xFFFF_FFFF  # another in each process: it only says where to look


class UserIndex(Generic[T]):
    """Things of each user, in the order in which they came."""

    def __init__(self) -> None:
        self.users: dict[str, Any] = {}  # T, _Several or _Many

    def __len__(self) -> int:
        return len(self.users)

    def add(self, user: str, thing: T) -> T:
        """Put it last; returns the user's first."""
        there: Any = self.users.setdefault(user, thing)
        first: T = there
        if there is not thing:
            if type(there) is _Several:
                first = there.things[0]
                if len(there.things) < MANY:
                    there.things += (thing,)
                else:
                    self.users[user] = _Many((*there.things, thing))
            elif type(there) is _Many:
                first = there.first
                there.add(thing)
            else:
                self.users[user] = _Several((there, thing))
        return first

    def drop(self, user: str, thing: T) -> None:
        """Take it out; it must be there."""
        there: Any = self.users.pop(user)
        if there is thing:
            return
        if type(there) is _Many:
            there.drop(thing)
            self.users[user] = _Several(there.all()) if there.count <= FEW else there
            return
        things = there.things
        if things[0] is thing:
            left = things[1:]
        else:
            place = things.index(thing)
            left = things[:place] + things[place + 1 :]
        self.users[user] = left[0] if len(left) == 1 else _Several(left)

    def newest(self, user: str, install: PendingInstall, window_ms: int) -> Iterable[T]:
        """The user's, newest first; of very many only those with the install's item and less than a window older."""
        there: Any = self.users.get(user)
        if type(there) is _Several:
            things: tuple[T, ...] = there.things[::-1]
            return sorted(things, key=_time, reverse=True)  # of one time the last first
        if type(there) is _Many:
            found: Iterator[T] = there.newest(install.install.item, install.time_ms - window_ms, install.time_ms)
            return found
        return () if there is None else (there,)

    def of(self, user: str, wanted: "RawImpression | PendingInstall") -> Sequence[T]:
        """The user's, in order; of very many at least those that have an item with the other thing in common."""
        there: Any = self.users.get(user)
        if type(there) is _Many:
            found: list[T] = there.of(wanted.items)
            return found
        return () if there is None else there.things if type(there) is _Several else (there,)
