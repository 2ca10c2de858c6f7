"""Events with named fields, as docs/events.md describes them: lines of a file, and bodies over HTTP."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Final

import msgspec
import xxhash
from msgspec import Meta

from stream.events.checks import check_id, check_source
from stream.events.codec import DECODE_ERRORS, decode_entity, encode
from stream.events.types import (
    EVENT_BYTES_MAX,
    Erase,
    Impression,
    Install,
    Item,
    RetiredItem,
    SourceEvent,
    Tick,
    User,
    Value,
)
from stream.runtime.errors import BadEvent

NAMED_BYTES_MAX: Final = 4 * EVENT_BYTES_MAX  # JSON is longer than msgpack
NAMED_ERRORS: Final = (*DECODE_ERRORS, OverflowError)
GIVE_TIME: Final = 'give either "time", such as "2024-11-24T08:00:00Z", or "time_ms"'

Moment = Annotated[datetime, Meta(tz=True)]


class Named(msgspec.Struct, tag_field="type", forbid_unknown_fields=True):
    """Root of the events, tagged by `type`; unknown fields are rejected."""


class Timed(Named):
    """An event with an event time: `time` as RFC 3339 text with its zone, or `time_ms` since 1970."""

    time: Moment | None = None
    time_ms: int | None = None

    def at_ms(self, arrival_ms: int | None) -> int:
        """The event time in ms, at most `arrival_ms`, which is also the time of an event that names none.

        Raises BadEvent when it names two, or none and `arrival_ms` is None.
        """
        if self.time is not None and self.time_ms is not None:
            raise BadEvent(GIVE_TIME)
        named_ms = self.time_ms if self.time is None else round(self.time.timestamp() * 1000)
        if named_ms is None:
            named_ms = arrival_ms
        if named_ms is None:
            raise BadEvent(GIVE_TIME)
        return named_ms if arrival_ms is None else min(named_ms, arrival_ms)


class NamedImpression(Timed, tag="impression", kw_only=True):
    """A page that a user saw; without `request_id` its id is a hash of user, time and items."""

    user: str
    items: list[str]
    request_id: str = ""
    context: dict[str, str | float] = {}
    variant: str = ""
    version: int = 0
    scores: list[float] = []
    propensities: list[float] = []
    features: bytes = b""


class NamedInstall(Timed, tag="install", kw_only=True):
    """An install; without `install_id` its id is a hash of user, item and time."""

    user: str
    item: str
    install_id: str = ""
    request_id: str = ""
    retracted: bool = False


class NamedTick(Timed, tag="tick"):
    """Event time has reached this, in every partition."""


class NamedItem(Named, tag="item", kw_only=True):
    """An item's attributes; replaces earlier ones."""

    item: str
    title: str = ""
    popularity: float = 0.0
    attributes: dict[str, Value] = {}


class NamedUser(Named, tag="user", kw_only=True):
    """A user's attributes; replaces earlier ones."""

    user: str
    attributes: dict[str, Value] = {}


class NamedErase(Timed, tag="erase", kw_only=True):
    """Erase all that is known of a user until then."""

    user: str


class NamedRetirement(Named, tag="retire", kw_only=True):
    """An item is no longer offered."""

    item: str


SentEvent = NamedImpression | NamedInstall | NamedItem | NamedUser | NamedErase | NamedRetirement
Sent = SourceEvent | Item | User | RetiredItem  # what such an event becomes
LineEvent = SentEvent | NamedTick


def content_id(kind: str, *content: str) -> str:
    """The id of an event that brings none: equal content has equal ids."""
    return f"{kind}-{xxhash.xxh3_64_hexdigest(chr(0).join((kind, *content)).encode())}"


def event_of(named: LineEvent, *, arrival_ms: int | None = None, key: str = "") -> Sent:
    """The event, checked. Raises BadEvent.

    With `arrival_ms` (by HTTP) the event has happened by then. `key` is unique to this event: an event without an id
    gets one that is hashed from the key, its user and its items, and has it again whenever it is sent again with that
    key. Without a key the id is hashed from user, time and items.
    """
    event = _event(named, arrival_ms, key)
    if isinstance(event, RetiredItem):
        check_id("item", event.item)
        return event
    raw = encode(event)
    if isinstance(event, Item | User):
        decode_entity(raw, type(event))
    else:
        check_source(event)
        if isinstance(event, Impression) and len(event.features) % 8:
            raise BadEvent(
                f"features have {len(event.features)} bytes, no multiple of 8: send those of the ranked list, unread"
            )
    if len(raw) > EVENT_BYTES_MAX:
        raise BadEvent(f"an event has at most {EVENT_BYTES_MAX} bytes, this one {len(raw)}")
    return event


def _event(named: LineEvent, arrival_ms: int | None, key: str) -> Sent:
    if isinstance(named, NamedItem):
        return Item(named.item, named.attributes, named.title, named.popularity)
    if isinstance(named, NamedUser):
        return User(named.user, named.attributes)
    if isinstance(named, NamedRetirement):
        return RetiredItem(named.item)
    if isinstance(named, NamedInstall) and named.retracted and not named.install_id:
        raise BadEvent("a retraction needs the install_id of the install that it retracts")
    at_ms = named.at_ms(arrival_ms)
    if isinstance(named, NamedTick):
        return Tick(at_ms)
    if isinstance(named, NamedErase):
        return Erase(named.user, at_ms)
    if isinstance(named, NamedInstall):
        install_id = named.install_id or _id("install", key, named.user, at_ms, [named.item])
        return Install(named.user, named.item, at_ms, install_id, named.request_id, named.retracted)
    return Impression(
        named.request_id or _id("page", key, named.user, at_ms, named.items), at_ms, named.user, named.items,
        named.variant, named.version, named.scores, named.propensities, named.features, named.context,
    )  # fmt: skip


def _id(kind: str, key: str, user: str, time_ms: int, items: Iterable[str]) -> str:
    return content_id(kind, key or user, user if key else str(time_ms), *items)
