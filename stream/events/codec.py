"""What travels through the log: typed events, their bytes, and the limits they must keep.

A record of a stream topic is a msgpack list of events of one partition; a compacted topic holds one
entity a record. Evolution: new fields at the end, with defaults; never retype, never reuse a tag;
golden bytes of each released version stay in the tests.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

import msgspec
import xxhash

from stream.runtime.errors import BadEvent

EVENT_BYTES_MAX: Final = 64 * 1024
RECORD_BYTES_MAX: Final = 1024 * 1024
REQUEST_BYTES_MAX: Final = 256 * 1024
EVENTS_MAX: Final = 65_536  # of one record
SLICE_EVENTS: Final = 1_024  # of a large record decoded at once: bad ones take 10 µs each
ITEMS_MAX: Final = 1_000  # of one page or request
TIME_MS_MAX: Final = 4_102_444_800_000  # 2100-01-01: later is no event time but a mistake
WEIGHT_MIN: Final = 1e-6  # of an example; one that is lost in 32 bits would train nothing without a word
WEIGHT_MAX: Final = 1e6
NUMBER_MAX: Final = 2**53  # exclusive, of versions and deadlines: whole numbers that arrays and floats can hold

# Why an example was emitted. The first two tell a position's first label, the others change one that was told.
INSTALLED: Final = 0
WINDOW_CLOSED: Final = 1
LATE_POSITIVE: Final = 2
RETRACTION: Final = 3
REASONS: Final = ("installed", "window_closed", "late_positive", "retraction")


class Impression(msgspec.Struct, array_like=True, tag=1, gc=False, frozen=True):
    """One page that a user saw: `items` in shown order, `features` as they were when it was ranked.

    `scores` and `propensities` are empty or one per item. `features` are opaque bytes (`page_features.py`);
    empty where the source has none.
    """

    request_id: str
    time_ms: int
    user: str
    items: list[str]
    variant: str = ""
    version: int = 0
    scores: list[float] = []
    propensities: list[float] = []
    features: bytes = b""
    context: dict[str, str | float] = {}


class Install(msgspec.Struct, array_like=True, tag=2, gc=False, frozen=True):
    """A user installed an item. With `retracted`, an earlier install of that id is taken back."""

    user: str
    item: str
    time_ms: int
    install_id: str
    request_id: str = ""
    retracted: bool = False


class Tick(msgspec.Struct, array_like=True, tag=3, gc=False, frozen=True):
    """Event time has reached `time_ms` in this partition, though nothing happened."""

    time_ms: int


class Examples(msgspec.Struct, array_like=True, tag=4, gc=False, frozen=True):
    """Labelled items of one page, in columns of one length.

    `ids` are hash64(request id, position, reason, install id); `positions` index `page.items`;
    `labels` are 0 or 1; `reasons` index REASONS; `ingest_ms` is the log's append time of the record
    that triggered the label.
    """

    page: Impression
    ids: list[int]
    positions: list[int]
    labels: list[int]
    weights: list[float]
    reasons: list[int]
    ingest_ms: list[int]


class RankRequest(msgspec.Struct, array_like=True, tag=5, gc=False, frozen=True):
    """Rank for this user. Without `candidates` the ranker retrieves some. `time_ms` is event time; 0: now.

    `history` (newest last) and `attributes` of the user, when given, spare the ranker its look-ups.
    `deadline_ms` counts from when the ranker read the request; 0: none.
    """

    request_id: str
    user: str
    k: int = 10
    time_ms: int = 0
    context: dict[str, str | float] = {}
    candidates: list[str] | None = None
    deadline_ms: int = 0
    history: list[str] | None = None
    attributes: dict[str, "Value"] | None = None


class RankReply(msgspec.Struct, array_like=True, tag=6, gc=False, frozen=True):
    """The k best items with their scores (probabilities), all by one `version` (0: no model yet, by popularity).

    `features` belong to `items` in this order: who shows the page copies them into the Impression.
    `staleness_ms`: age of the version's newest learned label when answered; `live_since_ms`: when this
    ranker swapped the version in; `notes`: what was left out ("deadline", "no_history", "no_model", ...).
    `error` is empty, or says why there is no answer.
    """

    request_id: str
    user: str
    items: list[str]
    scores: list[float]
    version: int
    staleness_ms: int = 0
    live_since_ms: int = 0
    scored: int = 0
    rank_us: int = 0
    notes: list[str] = []
    features: bytes = b""
    error: str = ""
    time_ms: int = 0


Value = str | float | list[str]


class Item(msgspec.Struct, array_like=True, tag=7, gc=False, frozen=True):
    """Static attributes of an item. `popularity` orders answers before there is a model."""

    item: str
    attributes: dict[str, Value] = {}
    title: str = ""
    popularity: float = 0.0


class User(msgspec.Struct, array_like=True, tag=8, gc=False, frozen=True):
    """Static attributes of a user."""

    user: str
    attributes: dict[str, Value] = {}


class History(msgspec.Struct, array_like=True, tag=9, gc=False, frozen=True):
    """User has installed item at `time_ms`: one record of the compacted topic `histories`."""

    user: str
    item: str
    time_ms: int


class DeadLetter(msgspec.Struct, array_like=True, tag=10, gc=False, frozen=True):
    """Bytes that were not taken in: what and why, and where they came from."""

    original: bytes
    error: str
    message: str
    topic: str
    partition: int
    offset: int


class Organic(msgspec.Struct, array_like=True, tag=11, gc=False, frozen=True):
    """An install that no page claimed. A re-read emits it again: `user` and `install_id` are its identity.

    It stands in the topic `organic` and, where the spec wants it, among the Examples of a record of `examples`: its
    tag is the reason why it is there.
    `request_id` is the page that it named, empty if none; `ingest_ms` the log's append time of the install's record.
    """

    user: str
    item: str
    time_ms: int
    install_id: str
    request_id: str = ""
    ingest_ms: int = 0


SourceEvent = Impression | Install | Tick
BadPart = tuple[bytes, str]  # what can't be taken, and the reason
TrainingEvent = Examples | Organic  # of a record of `examples`
T = TypeVar("T")

_ORGANIC_SEED: Final = 11  # the tag: an example of the same texts has another id
_encoder = msgspec.msgpack.Encoder()
_raws = msgspec.msgpack.Decoder(list[msgspec.Raw])
_sources = msgspec.msgpack.Decoder(list[SourceEvent])
_source = msgspec.msgpack.Decoder(SourceEvent)
_trainings = msgspec.msgpack.Decoder(list[TrainingEvent])
_training = msgspec.msgpack.Decoder(TrainingEvent)
_organics = msgspec.msgpack.Decoder(list[Organic])
_organic = msgspec.msgpack.Decoder(Organic)
_requests = msgspec.msgpack.Decoder(list[RankRequest])
_one_request = msgspec.msgpack.Decoder(RankRequest)
_replies = msgspec.msgpack.Decoder(list[RankReply])


def encode(event: msgspec.Struct) -> bytes:
    """The bytes of one entity (compacted topics, dead letters)."""
    return _encoder.encode(event)


def encode_record(events: Iterable[msgspec.Struct]) -> bytes:
    """The bytes of one record: a list of events of one partition."""
    return _encoder.encode(list(events))


def encode_values(*values: object) -> bytes:
    """The bytes of these values one after the other, as they lie in a record between other fields."""
    return b"".join(map(_encoder.encode, values))


def decode_entity(raw: bytes, kind: type[T]) -> T:
    """One entity of a compacted topic or a dead-letter topic. Raises BadEvent."""
    _check_size(raw, RECORD_BYTES_MAX if kind is not DeadLetter else 2 * RECORD_BYTES_MAX)
    try:
        entity = msgspec.msgpack.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
        raise BadEvent(f"not a {kind.__name__}: {bad}") from None
    if isinstance(entity, Item | User):
        check_numbers(entity.attributes)
    if isinstance(entity, Item) and not math.isfinite(entity.popularity):
        raise BadEvent("popularity must be finite")
    if isinstance(entity, Item | History) and not entity.item:
        raise BadEvent("item is empty")
    if isinstance(entity, User | History) and not entity.user:
        raise BadEvent("user is empty")
    return entity


def decode_events(raw: bytes) -> tuple[list[SourceEvent], list[tuple[bytes, str]]]:
    """The events of one record of `events`, and what of it can't be taken: (bytes, reason) each.

    One bad event costs only itself; a record that isn't a list of events is bad as a whole.
    """
    return _decode_record(raw, _sources, _source, check_source, EVENT_BYTES_MAX)


def decode_parts(raw: bytes) -> tuple[list[tuple[int, int, SourceEvent]], list[BadPart]]:
    """The same with where each event begins and ends in the record."""
    events, bad = decode_events(raw)
    if not events:
        return [], bad
    parts = [bytes(part) for part in _raws.decode(raw)]
    refused, good = iter([part for part, _ in bad] + [None]), iter(events)
    found: list[tuple[int, int, SourceEvent]] = []
    begin, next_refused = len(raw) - sum(map(len, parts)), next(refused)
    for part in parts:
        if part == next_refused:
            next_refused = next(refused)
        else:
            found.append((begin, begin + len(part), next(good)))
        begin += len(part)
    return found, bad


def record_slices(raw: bytes, events_max: int = SLICE_EVENTS) -> Iterator[tuple[int, int, bytes]]:
    """The events of a record as records of at most so many: where they begin and end in it, and such a record.

    What is bad as a whole comes as it is.
    """
    parts: list[bytes] = []
    if len(raw) <= RECORD_BYTES_MAX and event_count(raw) <= EVENTS_MAX:
        with suppress(msgspec.MsgspecError, RecursionError):
            parts = [bytes(part) for part in _raws.decode(raw)]
    if not parts:
        yield 0, len(raw), raw
        return
    end = len(raw) - sum(map(len, parts))
    for first in range(0, len(parts), events_max):
        some = b"".join(chosen := parts[first : first + events_max])
        begin, end = end, end + len(some)
        yield begin, end, array_head(len(chosen)) + some


def event_count(raw: bytes) -> int:
    """How many events a record says that it has.

    >>> [event_count(raw) for raw in (b"", bytes([0x92, 1, 2]), bytes([0xDC, 4, 1]))]
    [0, 2, 1025]
    """
    head = raw[0] if raw else 0
    if 0x90 <= head <= 0x9F:
        return head & 15
    return int.from_bytes(raw[1:3], "big") if head == 0xDC else int.from_bytes(raw[1:5], "big") if head == 0xDD else 0


def array_head(size: int) -> bytes:
    """The msgpack bytes that begin an array."""
    if size < 16:
        return bytes((0x90 + size,))
    return b"\xdc" + size.to_bytes(2, "big") if size < 65_536 else b"\xdd" + size.to_bytes(4, "big")


def decode_training(raw: bytes) -> tuple[list[TrainingEvent], list[tuple[bytes, str]]]:
    """All that one record of `examples` holds, labelled pages and organic installs, and what of it can't be taken."""
    return _decode_record(raw, _trainings, _training, check_training, 2 * EVENT_BYTES_MAX)


def decode_examples(raw: bytes) -> tuple[list[Examples], list[tuple[bytes, str]]]:
    """The labelled pages of one record of `examples`, and what of it can't be taken. Organic installs are skipped."""
    events, bad = decode_training(raw)
    return [event for event in events if isinstance(event, Examples)], bad


def decode_organic(raw: bytes) -> tuple[list[Organic], list[tuple[bytes, str]]]:
    """The installs of one record of `organic`, and what of it can't be taken."""
    return _decode_record(raw, _organics, _organic, check_organic, 2 * EVENT_BYTES_MAX)


def decode_requests(raw: bytes) -> tuple[list[RankRequest], list[tuple[bytes, str]]]:
    """The requests of one record of `rank.requests`, and what of it can't be taken."""
    return _decode_record(raw, _requests, _one_request, check_request, REQUEST_BYTES_MAX)


def decode_replies(raw: bytes) -> list[RankReply]:
    """The replies of one record of `rank.replies`. Raises BadEvent."""
    _check_size(raw, RECORD_BYTES_MAX)
    try:
        return _replies.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
        raise BadEvent(f"not a list of replies: {bad}") from None


def example_id(request_id: str, position: int, reason: int, install_id: str) -> int:
    """The identity of an example: duplicates of a re-read have the same one. Unsigned 64 bits."""
    return xxhash.xxh3_64_intdigest(f"{request_id}\x00{position}\x00{reason}\x00{install_id}".encode())


def organic_id(user: str, install_id: str) -> int:
    """The identity of an organic install among the ids of examples. Unsigned 64 bits."""
    return xxhash.xxh3_64_intdigest(install_id.encode(), xxhash.xxh3_64_intdigest(user.encode(), _ORGANIC_SEED))


def check_source(event: SourceEvent) -> None:
    """Raises BadEvent when a field holds what can't be true."""
    _check_time(event.time_ms)
    if isinstance(event, Tick):
        return
    if not event.user:
        raise BadEvent("user is empty")
    if isinstance(event, Install):
        if not event.item or not event.install_id:
            raise BadEvent("an install needs an item and an install_id")
        return
    n = len(event.items)
    if not event.request_id:
        raise BadEvent("request_id is empty")
    if not 1 <= n <= ITEMS_MAX:
        raise BadEvent(f"a page has 1 to {ITEMS_MAX} items, this one {n}")
    if len(set(event.items)) != n or "" in event.items:
        raise BadEvent("a page's items must be distinct and not empty")
    if not 0 <= event.version < NUMBER_MAX:
        raise BadEvent(f"version {event.version} is not between 0 and 2**53")
    if event.scores or event.propensities:
        for name, values in (("scores", event.scores), ("propensities", event.propensities)):
            if values and len(values) != n:
                raise BadEvent(f"{len(values)} {name} for {n} items")
            if not all(map(math.isfinite, values)):
                raise BadEvent(f"{name} must be finite")
    if event.context:
        check_numbers(event.context)


def check_training(event: TrainingEvent) -> None:
    """Raises BadEvent when a field of what stands in `examples` can't be true."""
    if isinstance(event, Organic):
        check_organic(event)
    else:
        check_examples(event)


def check_examples(examples: Examples) -> None:
    """Raises BadEvent when columns differ in length or a label, weight or position can't be true."""
    check_source(examples.page)
    ids, positions, labels, weights = examples.ids, examples.positions, examples.labels, examples.weights
    reasons, ingest_ms, n = examples.reasons, examples.ingest_ms, len(ids)
    if not n == len(positions) == len(labels) == len(weights) == len(reasons) == len(ingest_ms) > 0:
        raise BadEvent("columns of examples differ in length, or are empty")
    if not (min(positions) >= 0 and max(positions) < len(examples.page.items)):
        raise BadEvent("a position is outside the page")
    if not (min(labels) >= 0 and max(labels) <= 1):
        raise BadEvent("a label is neither 0 nor 1")
    if not (min(weights) >= WEIGHT_MIN and max(weights) <= WEIGHT_MAX) or math.isnan(sum(weights)):
        raise BadEvent(f"a weight must be {WEIGHT_MIN:g} to {WEIGHT_MAX:g}: leave out what isn't to be learned")
    if not (min(reasons) >= 0 and max(reasons) < len(REASONS)):
        raise BadEvent("unknown reason")
    if not (min(ids) >= 0 and max(ids) < 2**64):
        raise BadEvent("an id isn't an unsigned 64-bit number")
    if not (min(ingest_ms) >= 0 and max(ingest_ms) < TIME_MS_MAX):
        raise BadEvent("an ingest time is not between 1970 and 2100")


def check_organic(organic: Organic) -> None:
    """Raises BadEvent when a name is missing or a time can't be true."""
    _check_time(organic.time_ms)
    if not (organic.user and organic.item and organic.install_id):
        raise BadEvent("an organic install needs a user, an item and an install_id")
    if not 0 <= organic.ingest_ms < TIME_MS_MAX:
        raise BadEvent("an ingest time is not between 1970 and 2100")


def check_request(request: RankRequest) -> None:
    """Raises BadEvent when a request can't be answered as it stands."""
    if not request.request_id or not request.user:
        raise BadEvent("a request needs a request_id and a user")
    if not 1 <= request.k <= ITEMS_MAX:
        raise BadEvent(f"k must be 1 to {ITEMS_MAX}, not {request.k}")
    if request.candidates is not None:
        n = len(request.candidates)
        if not 1 <= n <= ITEMS_MAX:
            raise BadEvent(f"give 1 to {ITEMS_MAX} candidates, or none at all")
        if len(set(request.candidates)) != n or not all(request.candidates):
            raise BadEvent("candidates must be distinct and not empty")
    if request.time_ms:
        _check_time(request.time_ms)
    if not 0 <= request.deadline_ms < NUMBER_MAX:
        raise BadEvent(f"deadline_ms {request.deadline_ms} is not between 0 and 2**53")
    check_numbers(request.context)
    check_numbers(request.attributes or {})


def check_numbers(values: Mapping[str, "Value"]) -> None:
    """Raises BadEvent for numbers of a context or of attributes that aren't finite."""
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise BadEvent(f"{name[:100]} isn't a finite number")


def _check_time(time_ms: int) -> None:
    if not 0 < time_ms < TIME_MS_MAX:
        raise BadEvent(f"event time {time_ms} ms is not between 1970 and 2100")


def _check_size(raw: bytes, bytes_max: int) -> None:
    if len(raw) > bytes_max:
        raise BadEvent(f"{len(raw)} bytes are more than the limit of {bytes_max}")


def _decode_record(
    raw: bytes,
    many: "msgspec.msgpack.Decoder[Any]",
    one: "msgspec.msgpack.Decoder[Any]",
    check: Any,
    event_bytes_max: int,
) -> tuple[list[Any], list[tuple[bytes, str]]]:
    """All events that can be taken, in order, and the rest with reasons. The fast path decodes at once."""
    try:
        _check_size(raw, RECORD_BYTES_MAX)
        if len(raw) <= event_bytes_max:
            events = many.decode(raw)
            for event in events:
                check(event)
            return events, []
    except (BadEvent, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
        whole = str(bad)
    else:
        whole = ""
    good: list[Any] = []
    rest: list[tuple[bytes, str]] = []
    try:
        _check_size(raw, RECORD_BYTES_MAX)
        if raw[:1] == b"\xdd" and int.from_bytes(raw[1:5], "big") > EVENTS_MAX:
            raise BadEvent(f"more than {EVENTS_MAX} events in a record")
        parts = _raws.decode(raw)
    except (BadEvent, msgspec.MsgspecError, RecursionError) as bad:
        return [], [(raw, whole or str(bad))]
    for part in parts:
        try:
            _check_size(bytes(part), event_bytes_max)
            event = one.decode(part)
            check(event)
            good.append(event)
        except (BadEvent, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
            rest.append((bytes(part), str(bad)))
    if not good:
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            one.decode(raw)  # kept whole, it can be sent back as a list
            return [], [(raw, "an event by itself: a record is a list of events")]
    return good, rest
