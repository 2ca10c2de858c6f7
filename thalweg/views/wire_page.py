"""`python -m thalweg.views.wire_page`: docs/wire.md, the wire of `rank.requests` and `rank.replies`."""

import json
from typing import Final, get_args, get_origin, get_type_hints

import msgspec

from stream.events.named_requests import NamedRequest
from stream.events.types import (
    DEADLINE_MS,
    EXPIRED,
    FAILED,
    ID_BYTES_MAX,
    INVALID,
    ITEMS_MAX,
    REQUEST_BYTES_MAX,
    RULES_MAX,
    SHED,
    UNKNOWN_MODEL,
    RankReply,
    RankRequest,
    ReplyTo,
)

HEAD: Final = f"""# The wire of ranking requests and replies over Kafka
What a caller writes into the topic `rank.requests` and reads from `rank.replies`; [integrate.md](integrate.md) shows
both. Over HTTP the fields are the same ([http.md](http.md)). This page is written by
`python -m thalweg.views.wire_page > docs/wire.md`.

A request has at most {REQUEST_BYTES_MAX // 1024} KiB; a record's key and headers aren't read. There are two forms,
which a ranker tells apart by the first byte:

* **By name**: JSON in UTF-8, an object or a list of objects. Unknown fields are errors.
* **By position**: MessagePack, a list of requests, each a list: its tag, then the fields in this order. Fields at the
  end that have a default may be left out. Later versions add fields at the end only.

Replies are always by position, a list of them a record; readers skip what comes after the fields that they know.
"""

NOW: Final = """
The *model's now* is the event time up to which its live version has read, plus the time since that version was made.
Where events are recent that is today. On a replayed log it is a time of that log: statistics fade by event time, and by
today's they would all have faded. Without a version it is the ranker's clock.
"""

REQUEST: Final = {
    "request_id": "names the request and its page: unique, the reply has it; may be empty over HTTP only",
    "user": "the user's id",
    "k": f"how many items to return, 1 to {ITEMS_MAX:,}",
    "time_ms": "event time, UTC, ms since 1970; 0: the model's now, see below",
    "context": "context columns of the spec: texts and numbers",
    "candidates": f"1 to {ITEMS_MAX:,} distinct items to rank; null: the ranker finds some",
    "deadline_ms": f"how old the answer may be, from the broker's append time of the request; 0: {DEADLINE_MS:,}",
    "history": "what the user installed, newest last; null: the ranker looks it up",
    "attributes": "the user's attributes; null: the ranker looks them up",
    "model": "the model to rank by; empty: the ranker's first one. Where nobody serves it there's no reply",
    "reply_to": "where the reply goes; null: the partition of `rank.replies` that murmur2(request_id) names",
    "rules": f"at most {RULES_MAX} rules that apply beside the spec's: names of its rules, or objects",
}
REPLY_TO: Final = {
    "topic": "`rank.replies`, or one of the topics that the operator allows (THALWEG_REPLY_TOPICS)",
    "partition": "of that topic",
}
REPLY: Final = {
    "request_id": "the request's",
    "user": "the request's",
    "items": "the best items, best first",
    "scores": "their probabilities, one an item",
    "version": "the model's version that ranked all of them; 0: there's none yet, they are ordered by popularity",
    "staleness_ms": "age of the version's newest learned label",
    "live_since_ms": "when this ranker took the version into use",
    "scored": "how many candidates were scored",
    "rank_us": "how long ranking took",
    "notes": "what was left out: `deadline`, `no_history`, `no_model`, `no_user`, `features_cut`, `rules_cut`",
    "features": "of `items` in this order, opaque: send them back in the page's impression",
    "error": "why there is no list; empty: there is one",
    "time_ms": "event time by which it was ranked",
    "kind": "of the error, see below; empty without an error",
    "sources": "by item, what retrieved it; empty: the request named its candidates",
    "source_ranks": "by item, its rank there, from 1",
    "propensities": "by item, with what probability it was shown where it was; empty: nothing was drawn",
    "removed": "by rule, how many candidates it took away",
    "retrieval_version": "the version whose vectors retrieved; 0: none did",
    "retrieval_terms": "by item, what its rank in retrieval adds to the logit that it's ordered by; empty: nothing",
}
KINDS: Final = {
    INVALID: "a field is wrong, as `error` says; the request is a dead letter, too",
    EXPIRED: "it was older than its deadline when its turn came: it wasn't ranked",
    SHED: "it would have waited for too long: it wasn't ranked; ask later, or start more rankers",
    UNKNOWN_MODEL: "over HTTP: the ranker doesn't serve this model. On Kafka nobody replies: another may serve it",
    FAILED: "the ranker has a defect: its log has the traceback",
}


def page() -> str:
    """The page as text."""
    schema = json.dumps(msgspec.json.schema(NamedRequest), indent=1, ensure_ascii=False)
    kinds = "".join(f"| `{kind}` | {meaning} |\n" for kind, meaning in KINDS.items())
    return (
        HEAD
        + f"\n## Request (tag {tag_of(RankRequest)})\n{_table(RankRequest, REQUEST)}"
        + f"\n`reply_to`, by position a list without a tag, by name an object:\n\n{_table(ReplyTo, REPLY_TO)}"
        + NOW
        + f"\nAn id has at most {ID_BYTES_MAX} bytes as UTF-8.\n"
        + f"\n## Reply (tag {tag_of(RankReply)})\n{_table(RankReply, REPLY)}"
        + f"\n### Kinds of errors\n| `kind` | meaning |\n|---|---|\n{kinds}"
        + f"\n## JSON Schema of a request by name\n```json\n{schema}\n```\n"
    )


def tag_of(form: type[msgspec.Struct]) -> int:
    """What the first element of its list is."""
    tag = form.__struct_config__.tag
    assert isinstance(tag, int), "events are tagged by numbers"
    return tag


def _table(form: type[msgspec.Struct], meanings: dict[str, str]) -> str:
    """One row a field. `meanings` must have every field."""
    assert set(meanings) == set(form.__struct_fields__), "each field has a meaning"
    first = 0 if form.__struct_config__.tag is None else 1
    types = get_type_hints(form)
    rows = "| position | field | type | default | meaning |\n|---|---|---|---|---|\n"
    for position, field in enumerate(msgspec.structs.fields(form), first):
        name = field.name
        rows += f"| {position} | `{name}` | {_type_text(types[name])} | {_default(field)} | {meanings[name]} |\n"
    return rows


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return ""
    made = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return f"`{msgspec.json.encode(made).decode()}`"


_TYPES: Final = {
    str: "text",
    int: "integer",
    float: "number",
    bytes: "bytes",
    type(None): "null",
    ReplyTo: "`reply_to`",
}


def _type_text(hint: object) -> str:
    """A type for readers of any language."""
    if hint in _TYPES:
        return _TYPES[hint]
    arguments = [_type_text(one) for one in get_args(hint)]
    if get_origin(hint) is list:
        return f"list of {arguments[0]}"
    if get_origin(hint) is dict:
        return f"map of {arguments[0]} to {arguments[1]}"
    return " or ".join(arguments)


if __name__ == "__main__":
    print(page(), end="")
