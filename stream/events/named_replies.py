"""The ranked list with named fields: what HTTP answers, and what clients read."""

import msgspec

from stream.events.types import RankReply


class RankAnswer(msgspec.Struct, frozen=True):
    """The ranked list: the `k` best items with their scores, best first, all by one `version` of the model.

    `features` belong to `items` in this order: whoever shows the page sends them back, unread, in its impression, with
    `propensities`. `notes` say what was left out: "deadline", "no_history", "no_model", "no_user", ...
    Beside each item are the source that retrieved it and its rank there; `removed` says how many candidates each rule
    took away. See RankReply.
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
    time_ms: int = 0
    sources: list[str] = []
    source_ranks: list[int] = []
    propensities: list[float] = []
    removed: dict[str, int] = {}
    retrieval_version: int = 0
    retrieval_terms: list[float] = []


def answer_of(reply: RankReply) -> RankAnswer:
    """A reply with a list, by name."""
    return RankAnswer(**{name: getattr(reply, name) for name in RankAnswer.__struct_fields__})


def reply_of(answer: RankAnswer) -> RankReply:
    """The same by position."""
    return RankReply(**{name: getattr(answer, name) for name in RankAnswer.__struct_fields__})
