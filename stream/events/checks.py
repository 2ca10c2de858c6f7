"""Validation of events where they enter."""

import math
from collections.abc import Mapping, Sequence

from stream.events.types import (
    ID_BYTES_MAX,
    ITEMS_MAX,
    NUMBER_MAX,
    REASONS,
    RULES_MAX,
    TIME_MS_MAX,
    WEIGHT_MAX,
    WEIGHT_MIN,
    Erase,
    Examples,
    Install,
    Organic,
    RankRequest,
    SourceEvent,
    Tick,
    TrainingEvent,
    Value,
)
from stream.runtime.errors import BadEvent


def check_source(event: SourceEvent) -> None:
    """Raises BadEvent when a field is invalid."""
    check_time(event.time_ms)
    if isinstance(event, Tick):
        return
    check_id("user", event.user)
    if isinstance(event, Erase):
        return
    if isinstance(event, Install):
        check_id("item", event.item)
        check_id("install_id", event.install_id)
        check_lengths("request_id", (event.request_id,))
        return
    n = len(event.items)
    check_id("request_id", event.request_id)
    if not 1 <= n <= ITEMS_MAX:
        raise BadEvent(f"a page has 1 to {ITEMS_MAX} items, this one {n}")
    if len(set(event.items)) != n or "" in event.items:
        raise BadEvent("a page's items must be distinct and not empty")
    check_lengths("an item's id", event.items)
    if event.variant:
        check_id("variant", event.variant)
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
    """Raises BadEvent when a field of an event of `examples` is invalid."""
    if isinstance(event, Organic):
        check_organic(event)
    elif isinstance(event, Erase):
        check_source(event)
    else:
        check_examples(event)


def check_examples(examples: Examples) -> None:
    """Raises BadEvent when columns differ in length or a value is invalid."""
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
        raise BadEvent(f"a weight must be {WEIGHT_MIN:g} to {WEIGHT_MAX:g}: leave out what shouldn't be learned")
    if not (min(reasons) >= 0 and max(reasons) < len(REASONS)):
        raise BadEvent("unknown reason")
    if not (min(ids) >= 0 and max(ids) < 2**64):
        raise BadEvent("an id isn't an unsigned 64-bit number")
    if not (min(ingest_ms) >= 0 and max(ingest_ms) < TIME_MS_MAX):
        raise BadEvent("an ingest time is not between 1970 and 2100")


def check_organic(organic: Organic) -> None:
    """Raises BadEvent when an id is missing or a time is invalid."""
    check_time(organic.time_ms)
    if not (organic.user and organic.item and organic.install_id):
        raise BadEvent("an organic install needs a user, an item and an install_id")
    ids = organic.user, organic.item, organic.install_id, organic.request_id
    check_lengths("user, item, install_id or request_id", ids)
    if not 0 <= organic.ingest_ms < TIME_MS_MAX:
        raise BadEvent("an ingest time is not between 1970 and 2100")


def check_request(request: RankRequest) -> None:
    """Raises BadEvent when a request is invalid."""
    if not request.request_id or not request.user:
        raise BadEvent("a request needs a request_id and a user")
    check_lengths("request_id, user or model", (request.request_id, request.user, request.model))
    if not 1 <= request.k <= ITEMS_MAX:
        raise BadEvent(f"k must be 1 to {ITEMS_MAX}, not {request.k}")
    if request.candidates is not None:
        n = len(request.candidates)
        if not 1 <= n <= ITEMS_MAX:
            raise BadEvent(f"give 1 to {ITEMS_MAX} candidates, or none at all")
        if len(set(request.candidates)) != n or not all(request.candidates):
            raise BadEvent("candidates must be distinct and not empty")
        check_lengths("a candidate's id", request.candidates)
    check_lengths("an item's id in the history", request.history or ())
    if request.time_ms:
        check_time(request.time_ms)
    if not 0 <= request.deadline_ms < NUMBER_MAX:
        raise BadEvent(f"deadline_ms {request.deadline_ms} is not between 0 and 2**53")
    if request.reply_to is not None and not (request.reply_to.topic and request.reply_to.partition >= 0):
        raise BadEvent("reply_to needs a topic and a partition from 0")
    if request.reply_to is not None:
        check_lengths("reply_to's topic", (request.reply_to.topic,))
    if len(request.rules) > RULES_MAX:
        raise BadEvent(f"a request names at most {RULES_MAX} rules, not {len(request.rules)}")
    check_numbers(request.context)
    check_numbers(request.attributes or {})


def check_id(what: str, text: str) -> None:
    """Raises BadEvent when an id is empty or longer than ID_BYTES_MAX."""
    if not text:
        raise BadEvent(f"{what} is empty")
    check_lengths(what, (text,))


def check_lengths(what: str, ids: Sequence[str]) -> None:
    """Raises BadEvent when one of the ids is longer than ID_BYTES_MAX."""
    if max(map(len, ids), default=0) <= ID_BYTES_MAX // 4:  # a character has at most 4 bytes
        return
    if (most := max(len(one.encode()) for one in ids)) > ID_BYTES_MAX:
        raise BadEvent(f"{what} has {most} bytes, the limit is {ID_BYTES_MAX}: send a shorter id, or a hash of it")


def check_numbers(values: Mapping[str, "Value"]) -> None:
    """Raises BadEvent for numbers of a context or of attributes that aren't finite."""
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise BadEvent(f"{name[:100]} isn't a finite number")


def check_time(time_ms: int) -> None:
    """Raises BadEvent when an event time is invalid."""
    if not 0 < time_ms < TIME_MS_MAX:
        raise BadEvent(f"event time {time_ms} ms is not between 1970 and 2100")


def check_size(raw: bytes, bytes_max: int) -> None:
    """Raises BadEvent when there are more bytes than `bytes_max`."""
    if len(raw) > bytes_max:
        raise BadEvent(f"{len(raw)} bytes are more than the limit of {bytes_max}")
