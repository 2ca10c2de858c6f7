"""Events: their types and limits."""

from typing import Any, Final, NamedTuple

import msgspec

EVENT_BYTES_MAX: Final = 64 * 1024
RECORD_BYTES_MAX: Final = 1024 * 1024
REQUEST_BYTES_MAX: Final = 256 * 1024
EVENTS_MAX: Final = 65_536  # of one record
CHUNK_EVENTS: Final = 1_024  # of a large record, decoded at once: rejected ones take 10 µs each
ITEMS_MAX: Final = 1_000  # of one page or request
RULES_MAX: Final = 32  # that a request names
ID_BYTES_MAX: Final = 256  # of an id, or the name of a variant, as UTF-8
TIME_MS_MAX: Final = 4_102_444_800_000  # 2100-01-01: a later event time is a mistake
WEIGHT_MIN: Final = 1e-6  # of an example; a smaller one would vanish in 32 bits
WEIGHT_MAX: Final = 1e6
NUMBER_MAX: Final = 2**53  # exclusive, of versions and deadlines: integers that are exact in floats

# Why an example was emitted. The first two give a position's first label, the others correct an emitted one.
INSTALLED, WINDOW_CLOSED, LATE_POSITIVE, RETRACTION = range(4)
CORRECTIONS: Final = (LATE_POSITIVE, RETRACTION)
REASONS: Final = ("installed", "window_closed", "late_positive", "retraction")

DEADLINE_MS: Final = 1_000  # of a request that names none

# Why a reply has no list: kinds of errors.
INVALID, EXPIRED, SHED, UNKNOWN_MODEL, FAILED = "invalid", "expired", "shed", "unknown_model", "failed"
KINDS: Final = (INVALID, EXPIRED, SHED, UNKNOWN_MODEL, FAILED)


class Impression(msgspec.Struct, array_like=True, tag=1, gc=False, frozen=True):
    """One page that a user saw: `items` in shown order, `features` as of the time when it was ranked.

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
    """A user installed an item. With `retracted`, it retracts the earlier install of that id."""

    user: str
    item: str
    time_ms: int
    install_id: str
    request_id: str = ""
    retracted: bool = False


class Tick(msgspec.Struct, array_like=True, tag=3, gc=False, frozen=True):
    """Event time has reached `time_ms` in this partition without other events."""

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


class ReplyTo(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Where a reply goes: a topic that the ranker's operator allows, and a partition of it."""

    topic: str
    partition: int = 0


class RankRequest(msgspec.Struct, array_like=True, tag=5, gc=False, frozen=True):
    """Rank for this user. Without `candidates` the ranker retrieves some. `time_ms` is event time; 0: the model's now.

    With `history` (newest last) and `attributes` of the user, the ranker needs no look-ups.
    `deadline_ms` is how old an answer may be: it counts from the log's append time, or from arrival over HTTP;
    0: DEADLINE_MS. `model`: empty for the ranker's first one. Without `reply_to` the reply is in the partition of
    `rank.replies` that belongs to the request id. `rules`: names of the spec's rules, or rules of the request's own.
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
    model: str = ""
    reply_to: ReplyTo | None = None
    rules: list["str | dict[str, Any]"] = []


class RankReply(msgspec.Struct, array_like=True, tag=6, gc=False, frozen=True):
    """The k best items with their scores (probabilities), all by one `version` (0: no model yet, by popularity).

    `features` belong to `items` in this order; whoever shows the page copies them into the Impression.
    `staleness_ms`: age of the version's newest learned label when answered; `live_since_ms`: when this
    ranker swapped the version in; `notes`: what was left out ("deadline", "no_history", "no_model", "no_user",
    "features_cut": fewer items than asked for, since the features of more wouldn't fit an Impression; "rules_cut":
    fewer, since rules removed others).
    `sources` and `source_ranks`: by item, what retrieved it and its rank there, from 1; empty for the request's own
    candidates. `propensities`: by item, with what probability it was shown where it was; empty without exploration.
    `removed`: by rule, how many candidates it took away. `retrieval_version`: whose vectors retrieved; 0: nobody's.
    `retrieval_terms`: by item, what its rank in retrieval adds to the logit that it's ordered by; empty: nothing.
    `error` is empty, or the reason why there is no answer, and `kind` then one of KINDS (empty from an older ranker).
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
    kind: str = ""
    sources: list[str] = []
    source_ranks: list[int] = []
    propensities: list[float] = []
    removed: dict[str, int] = {}
    retrieval_version: int = 0
    retrieval_terms: list[float] = []


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
    """A user's newest install of an item: one record of the compacted topic `histories`."""

    user: str
    item: str
    time_ms: int


class DeadLetter(msgspec.Struct, array_like=True, tag=10, gc=False, frozen=True):
    """Rejected bytes, with the reason and the source."""

    original: bytes
    error: str
    message: str
    topic: str
    partition: int
    offset: int


class Organic(msgspec.Struct, array_like=True, tag=11, gc=False, frozen=True):
    """An install that no page claimed. Duplicates of a re-read have the same `user` and `install_id`.

    It is written to the topic `organic` and, if the spec says so, among the Examples of a record of `examples`.
    `request_id` is the page that it named, empty if none; `ingest_ms` the log's append time of the install's record.
    """

    user: str
    item: str
    time_ms: int
    install_id: str
    request_id: str = ""
    ingest_ms: int = 0


class FeatureName(msgspec.Struct, array_like=True, tag=12, gc=False, frozen=True):
    """The text behind a hashed value of a column, such as context.device: one record of `feature.names`."""

    column: str
    text: str


class Erase(msgspec.Struct, array_like=True, tag=13, gc=False, frozen=True):
    """Erase all that is known of a user from before `time_ms`: who comes back is new (docs/privacy.md).

    Written to `events`; the joiner passes it on to `examples`, and to the compacted topic `erased`.
    """

    user: str
    time_ms: int


class Removal(msgspec.Struct, array_like=True, tag=14, gc=False, frozen=True):
    """What an `Erase` removed in one room: `counts`, by what it is. A record of the topic `erased`, for receipts."""

    user: str
    time_ms: int
    room: str
    counts: dict[str, int]


class RetiredItem(NamedTuple):
    """An item that is no longer offered: its record in `items` becomes a tombstone. It has no bytes of its own."""

    item: str


SourceEvent = Impression | Install | Tick | Erase
BadPart = tuple[bytes, str]  # rejected bytes, and the reason
TrainingEvent = Examples | Organic | Erase  # of a record of `examples`
