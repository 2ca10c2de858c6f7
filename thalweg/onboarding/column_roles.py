"""Decides what the surveyed columns are used for: types, crosses with items, tastes, slices. Pure."""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from stream.spec.built_in_columns import HOUR, WEEKDAY
from stream.spec.columns import NUMBERS
from thalweg.onboarding.survey import Survey
from thalweg.onboarding.type_guess import Guess, guess

PAGES_EACH: Final = 5  # pages of a user (shows of an item) from which on its own weight is worth learning
SMALL, MEDIUM = 50, 2_000  # values of a category: for crosses with items; for a taste per user
CROSSES: Final = 3
DAY_MS: Final = 86_400_000


class NamedColumn(NamedTuple):
    """A column by its full name, as crosses and statistics name it, and its number of values."""

    name: str
    values: int

    @property
    def short(self) -> str:
        """A word for a statistic's name."""
        return re.sub(r"\W+", "_", self.name.split(".", 1)[1]).strip("_") or "column"


class ColumnRoles:
    """The uses of a survey's columns. `history`: the name of a free user column for the history; empty: none."""

    def __init__(self, survey: Survey) -> None:
        self.survey = survey
        self.guesses = {
            origin: {name: guess(name, column, seen, of_item=origin == "item") for name, column in seen.columns.items()}
            for origin, seen in survey.origins.items()
        }
        self.many_pages = survey.pages >= PAGES_EACH * survey.users_shown
        free = (name for name in ("history", "installed", "installs") if name not in survey.user.columns)
        self.history = next(free, "") if survey.with_history else ""
        self.has_position = max(survey.page_sizes) > 1

    def reserved(self, origin: str, name: str) -> str:
        """Why a spec can't have a column of this name; empty: it can."""
        if name == "id" and origin != "context":
            return f"the id of the {origin} is meant by `id`"
        if name == "position" and origin == "context":
            return "the position on the page is meant by `position`"
        return "" if name else "a column needs a name"

    def is_banded(self, origin: str, name: str) -> bool:
        """Whether a number is cut into bands: it has some, and no other column has their name."""
        return bool(self.guesses[origin][name].bands) and f"{name}_band" not in self.guesses[origin]

    def usable(self, origin: str) -> Iterator[tuple[str, Guess]]:
        """The columns that the spec has, with their types."""
        for name, found in self.guesses[origin].items():
            if found.kind is not None and not self.reserved(origin, name):
                yield name, found

    def categories(self, *origins: str) -> list[NamedColumn]:
        """Columns that crosses can name, bands among them, few values first."""
        found: list[NamedColumn] = []
        for origin in origins:
            for name, one in self.usable(origin):
                if one.kind not in NUMBERS:
                    found.append(NamedColumn(f"{origin}.{name}", one.distinct))
                elif self.is_banded(origin, name):
                    found.append(NamedColumn(f"{origin}.{name}_band", len(one.bands) + 1))
        return sorted(found, key=lambda each: each.values)

    def item_kind(self) -> NamedColumn | None:
        """The column of tastes: the finest category of items below `MEDIUM` values; bands if there's no other."""
        most = min(MEDIUM, self.survey.items_shown // 2)
        fit = [each for each in self.categories("item") if 2 <= each.values <= most]
        return max(fit, key=lambda each: (not each.name.endswith("_band"), each.values), default=None)

    def groups(self) -> list[NamedColumn]:
        """Categories of users and requests to cross with items: those with enough pages for each pair."""
        shown, items = self.survey.shown, max(1, self.survey.items_shown)
        fit = [each for each in self.categories("user", "context") if 2 <= each.values <= SMALL]
        return [each for each in fit if shown >= PAGES_EACH * each.values * items][-CROSSES:]

    def page_times(self) -> list[tuple[str, str]]:
        """Built-in columns of the page's time, with why: those of rhythms that came twice, and that no request says."""
        survey, said = self.survey, " ".join(self.survey.context.columns)
        span_ms = survey.last_ms - survey.first_ms
        rhythms = (HOUR, DAY_MS, r"hour|time|clock", "days"), (WEEKDAY, 7 * DAY_MS, r"day|week|date", "weeks")
        return [
            (name, f"{span_ms / every_ms:.0f} {what} of pages")
            for name, every_ms, words, what in rhythms
            if span_ms >= 2 * every_ms and not re.search(words, said, re.I)
        ]

    def slice_column(self) -> NamedColumn | None:
        """The category of requests or users whose values are sliced by."""
        fit = [each for each in self.categories("context", "user") if 2 <= each.values <= SMALL]
        return next((each for each in fit if not each.name.endswith("_band")), None)
