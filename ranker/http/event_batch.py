"""From the body of `POST /v1/events` to records: each event is checked by itself, a bad one hinders no other."""

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from ranker.http.tokens import Scope
from stream.events.codec import array_head, encode
from stream.events.half_surrogates import split_list, why_invalid
from stream.events.named_events import NAMED_ERRORS, Sent, SentEvent, event_of
from stream.events.topics import EVENTS, ITEMS, USERS
from stream.events.types import RECORD_BYTES_MAX, Erase, Impression, Item, RetiredItem, Tick, User
from stream.log.format_level import check_erasable
from stream.log.protocol import partition_of
from stream.runtime.errors import BadEvent, MissingTopic

EVENTS_MAX: Final = 1_000  # of one call
RECORD_BYTES_FULL: Final = RECORD_BYTES_MAX // 4
WRITTEN: Final = "written"
INVALID: Final = "invalid"
FORBIDDEN: Final = "forbidden"

Status = Literal["written", "invalid", "forbidden"]
EventList = Annotated[list[SentEvent], Meta(min_length=1, max_length=EVENTS_MAX, description="see docs/events.md")]


class EventResult(msgspec.Struct, frozen=True):
    """What became of the event at `index` of the list. `id`: its request_id, install_id, item or user, if written."""

    index: int
    status: Status
    id: str = ""
    reason: str = ""


class EventsAnswer(msgspec.Struct, frozen=True):
    """How many events were written, how many weren't, and each one's result, in the order of the list."""

    written: int
    rejected: int
    results: list[EventResult]


class Outgoing(NamedTuple):
    """A record on its way to the log."""

    topic: str
    partition: int
    value: bytes | None  # None: a tombstone
    key: bytes | None = None


@dataclass(frozen=True)
class EventBatch:
    """Events of one call: what is written, and the answer once it is."""

    answer: EventsAnswer
    records: list[Outgoing]


_list: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])
_events: Final[dict[bool, Any]] = {  # by whether it's JSON
    True: msgspec.json.Decoder(SentEvent),
    False: msgspec.msgpack.Decoder(SentEvent),
}


def read_events(body: bytes, *, is_json: bool) -> Sequence[msgspec.Raw | bytes]:
    """The events of a body, unread. Raises BadEvent."""
    try:
        parts: Sequence[msgspec.Raw | bytes] = split_list(body) if is_json else _list.decode(body)
    except NAMED_ERRORS as bad:
        raise BadEvent(f"not a list of events: {bad}") from None
    if not 1 <= len(parts) <= EVENTS_MAX:
        raise BadEvent(f"send 1 to {EVENTS_MAX} events at once, not {len(parts)}")
    return parts


def batch_of(
    parts: Iterable[msgspec.Raw | bytes],
    *,
    is_json: bool,
    scopes: Set[str],
    arrived_ms: int,
    key: str,
    partitions: Callable[[str], int],
) -> EventBatch:
    """The records of all events that are valid and that `scopes` allow.

    `key` (empty: none) names the call: ids that events lack are derived from it. `partitions`: of a topic.
    """
    results: list[EventResult] = []
    records = _Records(partitions)
    for index, part in enumerate(parts):
        key_of_event = f"{key}\x00{index}" if key else ""
        try:
            event = event_of(_events[is_json].decode(part), arrival_ms=arrived_ms, key=key_of_event)
        except NAMED_ERRORS as bad:
            reason = why_invalid(bytes(part), bad) if is_json else str(bad)
            results.append(EventResult(index, INVALID, reason=reason))
            continue
        scope = _scope_of(event)
        if scope not in scopes:
            results.append(EventResult(index, FORBIDDEN, reason=f"the token hasn't the scope {scope}"))
            continue
        try:
            if isinstance(event, Erase):
                check_erasable(partitions)
        except MissingTopic as missing:
            results.append(EventResult(index, INVALID, reason=str(missing)))
            continue
        results.append(EventResult(index, WRITTEN, records.add(event)))
    written = sum(result.status == WRITTEN for result in results)
    return EventBatch(EventsAnswer(written, len(results) - written, results), records.take())


def _scope_of(event: Sent) -> Scope:
    """What a token must allow for this event."""
    if isinstance(event, Erase):
        return "admin"
    return "catalogue" if isinstance(event, Item | User | RetiredItem) else "events"


def erasure_records(event: Erase, partitions: Callable[[str], int]) -> list[Outgoing]:
    """The records that erase one user. Raises MissingTopic where nobody can be erased yet."""
    check_erasable(partitions)
    records = _Records(partitions)
    records.add(event)
    return records.take()


class _Records:
    """Records of the events that are added."""

    def __init__(self, partitions: Callable[[str], int]) -> None:
        self._partitions = partitions
        self._entities: dict[tuple[str, str], bytes | None] = {}  # by topic and id: of one entity the last event counts
        self._events: dict[int, list[bytes]] = {}  # by partition of `events`

    def add(self, event: Sent) -> str:
        """Add an event; its id."""
        assert not isinstance(event, Tick), "a tick is no SentEvent"
        if isinstance(event, RetiredItem):
            self._entities[ITEMS.name, event.item] = None
            return event.item
        raw = encode(event)
        if isinstance(event, Item):
            self._entities[ITEMS.name, event.item] = raw
            return event.item
        if isinstance(event, User):
            self._entities[USERS.name, event.user] = raw
            return event.user
        if isinstance(event, Erase):
            self._entities[USERS.name, event.user] = None
        self._events.setdefault(partition_of(event.user, self._partitions(EVENTS.name)), []).append(raw)
        if isinstance(event, Erase):
            return event.user
        return event.request_id if isinstance(event, Impression) else event.install_id

    def take(self) -> list[Outgoing]:
        """All of them. Entities come first: pages may be about them."""
        entities = [
            Outgoing(topic, partition_of(name, self._partitions(topic)), raw, name.encode())
            for (topic, name), raw in self._entities.items()
        ]
        events = [Outgoing(EVENTS.name, p, value) for p, raws in self._events.items() for value in _packed(raws)]
        return entities + events


def _packed(raws: Iterable[bytes]) -> Iterable[bytes]:
    """Records of these events, in order."""
    some: list[bytes] = []
    size = 0
    for raw in raws:
        if some and size + len(raw) > RECORD_BYTES_FULL:
            yield array_head(len(some)) + b"".join(some)
            some, size = [], 0
        some.append(raw)
        size += len(raw)
    yield array_head(len(some)) + b"".join(some)
