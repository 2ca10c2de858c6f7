"""Pages that users ask for, and what came of them."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from producers.store import names
from producers.store.truth import Visits
from stream.tables.dtypes import F64, I64, Bools


class PageBatch(NamedTuple):
    """Requests for pages in time order, each user at most once; B pages, C candidates."""

    numbers: I64  # (B,)
    times_ms: I64  # (B,) event time
    users: I64  # (B,) indices
    candidates: I64  # (B, C) apps' indices: popular ones in order, then new, then random ones
    popularity: F64  # (B, C) decayed count of installs that the store has seen: what the control ranks by
    devices: I64  # (B,)
    hours: I64  # (B,) of the week in world time, from Monday 0 h
    world_ms: F64  # (B,)
    hidden: frozenset[str] = frozenset()  # columns of the context that have vanished

    def request_id(self, b: int) -> str:
        """The page's id."""
        return names.request_id(int(self.numbers[b]))

    def user(self, b: int) -> str:
        """The user's id."""
        return names.user_name(int(self.users[b]))

    def items(self, b: int, chosen: I64 | None = None) -> list[str]:
        """Ids of the candidates, or of those chosen by index."""
        apps = self.candidates[b] if chosen is None else self.candidates[b, chosen]
        return [names.app_name(app) for app in apps.tolist()]

    def take(self, pages: I64) -> "PageBatch":
        """Some of the pages, by index."""
        return self._replace(**{name: getattr(self, name)[pages] for name in COLUMNS})

    @classmethod
    def concatenated(cls, batches: Sequence["PageBatch"]) -> "PageBatch":
        """The pages of several batches."""
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(batch, name) for batch in batches]) for name in COLUMNS
        }
        return batches[-1]._replace(**columns)

    def context(self, b: int) -> dict[str, str | float]:
        """What the request says: hour, weekday (0: Monday) and device."""
        hour = int(self.hours[b])
        said = {"hour": str(hour % 24), "weekday": str(hour // 24), "device": names.DEVICES[self.devices[b]]}
        return {name: value for name, value in said.items() if name not in self.hidden}

    def visits(self) -> Visits:
        """Who looks at the pages, on what and when."""
        return Visits(self.users, self.devices, self.hours)


COLUMNS: Final = tuple(name for name in PageBatch._fields if name != "hidden")


class Outcomes(NamedTuple):
    """What came of pages: [B, k] by shown position. It's the truth, whatever was reported."""

    examined: Bools
    installed: Bools  # those that are retracted later, too
    retracted: Bools

    @property
    def lasting(self) -> Bools:
        """[B, k] installs that aren't retracted later."""
        return self.installed & ~self.retracted
