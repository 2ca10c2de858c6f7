"""What a join remembers of a user: pages and installs, found by user.

Plain structs and tuples of them: the collector doesn't walk through them.
"""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from stream.events import Install
from stream.shown import Shown


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
    shed: int = 0  # a page that was forgotten early because memory was full


class Mark(msgspec.Struct, gc=False, eq=False):
    """A record with something in it that is still remembered."""

    offset: int
    watermark_ms: int  # before it
    living: int = 0


class Held(msgspec.Struct, gc=False, eq=False):
    """An install (or a retraction that came before it) and the page that has it now."""

    install: Install
    time_ms: int
    mark: Mark
    ingest_ms: int
    retracted: bool
    page: Shown | None = None


T = TypeVar("T", Shown, Held)


class _Several(msgspec.Struct, gc=False, eq=False):
    """Of users with more than one. A dict that held tuples would be walked through at every collection."""

    things: tuple[Any, ...]


class OfUsers(Generic[T]):
    """Things of each user, in the order in which they came."""

    def __init__(self) -> None:
        self.users: dict[str, Any] = {}  # T, or _Several

    def __len__(self) -> int:
        return len(self.users)

    def add(self, user: str, thing: T) -> T:
        """Put it last; returns the user's first."""
        there: Any = self.users.setdefault(user, thing)
        first: T = there
        if there is not thing:
            if type(there) is _Several:
                first = there.things[0]
                there.things += (thing,)
            else:
                self.users[user] = _Several((there, thing))
        return first

    def drop(self, user: str, thing: T) -> None:
        """Take it out; it must be there."""
        there: Any = self.users.pop(user)
        if there is thing:
            return
        things = there.things
        if things[0] is thing:
            left = things[1:]
        else:
            place = things.index(thing)
            left = things[:place] + things[place + 1 :]
        self.users[user] = left[0] if len(left) == 1 else _Several(left)

    def of(self, user: str) -> tuple[T, ...]:
        """All of the user's."""
        there: Any = self.users.get(user)
        return () if there is None else there.things if type(there) is _Several else (there,)
