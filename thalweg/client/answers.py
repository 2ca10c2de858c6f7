"""What rankers answer."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from stream.events.named_events import NamedImpression


class Ranked(msgspec.Struct, frozen=True):
    """A ranked list: the best items with their scores (probabilities), best first, all by one `version` of the model.

    `features` belong to `items` in this order; `impression` puts them into the page's event. `staleness_ms`: age of the
    version's newest label. `notes` say what was left out: "deadline", "no_history", "no_model", "no_user", ...
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

    def impression(
        self, *, time_ms: int | None = None, context: Mapping[str, str | float] | None = None
    ) -> NamedImpression:
        """The list as a page that its user saw at `time_ms` (UTC; None: when it is sent), to be sent.

        `context`: that of the request. A page that shows other items, or another order, has other features: this one's
        would be wrong.
        """
        return NamedImpression(
            user=self.user, items=self.items, request_id=self.request_id, time_ms=time_ms, version=self.version,
            scores=self.scores, features=self.features, context=dict(context or {}),
        )  # fmt: skip


class EventResult(msgspec.Struct, frozen=True):
    """What became of the event at `index` of the list. `id`: its request_id, install_id, item or user, if written."""

    index: int
    status: Literal["written", "invalid", "forbidden"]
    id: str = ""
    reason: str = ""


class Sent(msgspec.Struct, frozen=True):
    """How many events were written, how many weren't, and each one's result, in the order of the list."""

    written: int
    rejected: int
    results: list[EventResult]
