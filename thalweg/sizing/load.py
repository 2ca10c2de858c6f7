"""The load that a deployment is sized for, and what isn't known of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from stream.history.histories import MEMBERS_MAX
from stream.spec.built_in_columns import HOUR, NEWEST, WEEKDAY
from stream.spec.spec import Spec

VALUES: Final = 100  # distinct values of a category of which nothing is known
LENGTH: Final = 3.0  # values in a list of which nothing is known
CALENDAR: Final = {HOUR: 24, WEEKDAY: 7}


@dataclass(frozen=True)
class Load:
    """Pages a second, and the world that they are of.

    `installs_share`: of shown items. `days`: how long keys accumulate. `record_pages`: pages that a producer puts into
    one record of `events`. `values`: distinct values by column; `lengths`: mean values of a list, by column; columns
    that neither names have VALUES and LENGTH.
    """

    pages_s: float
    users: int
    items: int
    page_items: int = 10
    installs_share: float = 0.02
    days: float = 30.0
    record_pages: int = 1
    values: Mapping[str, int] = field(default_factory=dict)
    lengths: Mapping[str, float] = field(default_factory=dict)

    @property
    def shown_s(self) -> float:
        """Items shown a second."""
        return self.pages_s * self.page_items

    @property
    def installs_s(self) -> float:
        """Installs a second."""
        return self.shown_s * self.installs_share

    @property
    def installs_per_user(self) -> float:
        """Within `days`."""
        return self.installs_s * self.seconds / self.users

    @property
    def history(self) -> float:
        """Items of a user's history in Redis, which has more than a page takes of it."""
        return min(MEMBERS_MAX, self.items, self.installs_per_user)

    @property
    def seconds(self) -> float:
        """Of `days`."""
        return 86_400 * self.days

    def distinct(self, spec: Spec, column: str) -> int:
        """Distinct values of a category or list."""
        known = {"user.id": self.users, "item.id": self.items, **CALENDAR, **self.values}
        if column in known:
            return known[column]
        columns = spec.columns()
        if columns[column].of or column.endswith(NEWEST):
            return self.items
        banded = columns.get(column.removesuffix("_band"))
        return len(banded.bands) + 1 if banded is not None and banded.bands else VALUES

    def length(self, spec: Spec, column: str) -> float:
        """Mean values of a column on a page; of a history as many as it may have, unless users install less."""
        if column in self.lengths:
            return self.lengths[column]
        one = spec.columns()[column]
        if one.of:
            return max(1.0, min(one.last, self.history))
        return LENGTH if one.type == "categories" else 1.0

    def unknown(self, spec: Spec) -> list[str]:
        """Categories and lists whose distinct values are assumed."""
        columns = spec.columns()
        lists = [name for name, one in columns.items() if one.type in ("category", "categories")]
        known = {"user.id", "item.id", *CALENDAR, *self.values}
        return [n for n in lists if n not in known and not n.endswith((NEWEST, "_band"))]
