"""What rankers answer."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from stream.events.named_events import NamedImpression
from stream.events.named_replies import RankAnswer


class Ranked(RankAnswer, frozen=True):
    """A ranked list, which `impression` puts into the page's event. See RankAnswer."""

    def impression(
        self, *, time_ms: int | None = None, context: Mapping[str, str | float] | None = None
    ) -> NamedImpression:
        """The list as a page that its user saw at `time_ms` (UTC; None: when it is sent), to be sent.

        `context`: that of the request. A page that shows other items, or another order, has other features: this one's
        would be wrong.
        """
        return NamedImpression(
            user=self.user, items=self.items, request_id=self.request_id, time_ms=time_ms, version=self.version,
            scores=self.scores, propensities=self.propensities, features=self.features, context=dict(context or {}),
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
