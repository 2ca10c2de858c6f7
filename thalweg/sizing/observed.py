"""What a file of events says of a load: its pages, and how many values each column has as pages go on.

Distinct values grow more slowly than pages: as a power of their number (Heaps' law), which two points of the file give.
"""

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

from producers.source import SourceElement
from thalweg.onboarding.columns import DISTINCT_MAX
from thalweg.onboarding.survey import Survey

USERS, ITEMS = "user.id", "item.id"
FIRST: Final = 64  # pages of the first count; each later one is at twice as many


class Count(NamedTuple):
    """Distinct values by column after this number of pages."""

    pages: int
    values: dict[str, int]


class Observed:
    """Add every event with its line, in order, then `finish`. Pure, in bounded memory."""

    def __init__(self) -> None:
        self.survey, self.counts = Survey(), [Count(0, {})]

    def add(self, line: int, event: SourceElement) -> None:
        """Add the event in this line."""
        self.survey.add(line, event)
        if self.survey.pages >= max(FIRST, 2 * self.counts[-1].pages):
            self._count()

    def finish(self) -> None:
        """All events are added."""
        self.survey.finish()
        if self.survey.pages > self.counts[-1].pages:
            self._count()

    def _count(self) -> None:
        columns = {
            f"{origin}.{name}": len(column.distinct)
            for origin, of in self.survey.origins.items()
            for name, column in of.columns.items()
        }
        known = {USERS: self.survey.users_shown, ITEMS: self.survey.items_shown}
        self.counts.append(Count(self.survey.pages, columns | known))

    @property
    def page_items(self) -> int:
        """Mean items of a page, rounded up."""
        return math.ceil(self.survey.shown / max(1, self.survey.pages)) or 1

    @property
    def lengths(self) -> dict[str, float]:
        """Mean values of lists by column: their medians."""
        return {
            f"{origin}.{name}": max(1.0, column.list_lengths.quantile(0.5))
            for origin, of in self.survey.origins.items()
            for name, column in of.columns.items()
            if column.list_lengths.count
        }

    def values(self, pages: float) -> dict[str, int]:
        """Distinct values by column after this number of pages."""
        return {name: math.ceil(self._grown(name, pages)) for name, n in self.counts[-1].values.items() if n}

    def _grown(self, name: str, pages: float) -> float:
        """From the last two counts that are complete: a column's first DISTINCT_MAX values are counted."""
        capped = name not in (USERS, ITEMS)
        points = [
            (one.pages, one.values[name])
            for one in self.counts
            if one.values.get(name) and not (capped and one.values[name] >= DISTINCT_MAX)
        ]
        if len(points) < 2:
            return float(self.counts[-1].values[name])
        (before, fewer), (seen, more) = points[-2:]
        power = math.log(more / fewer) / math.log(seen / before)
        return more * math.pow(max(1.0, pages / seen), min(1.0, power))


def observe(events: Iterable[tuple[int, SourceElement]]) -> Observed:
    """All events of a source."""
    observed = Observed()
    for line, event in events:
        observed.add(line, event)
    observed.finish()
    return observed
