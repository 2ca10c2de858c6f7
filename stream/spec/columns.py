"""What a spec's features are made of: columns, statistics, cross-products."""

from typing import Annotated, Final

from msgspec import NODEFAULT, Meta
from msgspec.structs import FieldInfo, fields

from stream.spec.statistic_kinds import KIND_DESCRIPTIONS, Measure
from stream.spec.values import Admission, ColumnType, Count, Duration, Part, Positive, UtcOffset, duration_ms

ORGANIC_INSTALLS: Final = "organic"  # what a statistic may be `of`, instead of labels
ALL_INSTALLS: Final = "installs"  # those too: positive labels and organic installs
INSTALLS: Final = (ORGANIC_INSTALLS, ALL_INSTALLS)
CROSSES_MAX: Final = 250  # of the wide part: a cross's index fits a key's low byte
FIRST_FIELDS: Final = ("kind", "by", "of", "to", "prior", "half_life", "neighbours")  # of a statistic; never changed
NUMBERS: Final = ("number", "date")  # types of columns that are read as a number
POSITION: Final = "context.position"  # the only column that differs within a page: where the item stood, from 1


class Column(Part, frozen=True):
    """A column in full: `bands` make a further category of a number; `serve_as` is its value when ranking.

    A column with `serve_as` belongs to the request: it's learned as logged, and replaced by that text or number when
    ranking. `of` and `last` make it a history: what this user installed before the page, newest last. A date of an
    item (ISO 8601, UTC unless it says otherwise, or ms since 1970) is read as the days from then to the page.
    """

    type: ColumnType | None = None
    bands: list[float] = []
    serve_as: float | str | None = None
    of: str = ""
    last: Annotated[int, Meta(ge=1, le=1000)] = 50


class PageTime(Part, frozen=True):
    """What `page.hour` ("0" to "23") and `page.weekday` ("0" is Monday) count from: UTC plus this."""

    utc_offset: UtcOffset = "+00:00"

    def offset_ms(self) -> int:
        """Milliseconds to add to UTC.

        >>> PageTime("-05:30").offset_ms()
        -19800000
        """
        sign = -1 if self.utc_offset[0] == "-" else 1
        return sign * (int(self.utc_offset[1:3]) * 60 + int(self.utc_offset[4:])) * 60_000


class Statistic(Part, frozen=True):
    """A streaming number by one field or a pair, updated by each label.

    With of = "organic" a count or since is updated by organic installs instead, with of = "installs" by them and by
    positive labels: by item.id, user.id or both. A lift is of = "installs", by both.
    Labels fade by `half_life`, or a rate or count is of the last `window` alone; both are of event time.
    """

    kind: Annotated[Measure, Meta(description=KIND_DESCRIPTIONS)]
    by: list[str] = []
    of: str = ""
    to: str = ""
    prior: Positive = 10.0
    half_life: Duration | None = None
    neighbours: Count = 50
    window: Duration | None = None

    def fade_ms(self) -> int:
        """How labels fade: half-life; minus the window; 0: they don't."""
        return duration_ms(self.half_life) if self.half_life else -duration_ms(self.window) if self.window else 0

    def layout_text(self) -> str:
        """The text that a layout's hash covers.

        It includes the first release's fields always and later ones only where they aren't default: so a new field
        doesn't change the hash of an existing spec, and its logged pages stay valid.
        """
        names = [*FIRST_FIELDS, *(one.name for one in fields(self) if _is_later(one, self))]
        return f"Statistic({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


def _is_later(one: FieldInfo, statistic: Statistic) -> bool:
    """Whether the field came after the first release and isn't default."""
    default = one.default if one.default_factory is NODEFAULT else one.default_factory()
    return one.name not in FIRST_FIELDS and getattr(statistic, one.name) != default


class Cross(Part, frozen=True):
    """A cross-product of columns, optionally with its own learning rate, admission and expiry."""

    of: list[str]
    alpha: Positive | None = None
    admit: Admission | None = None
    expire: Duration | None = None
