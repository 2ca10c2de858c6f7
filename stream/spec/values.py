"""Types of a spec's values, and the base of its tables."""

import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Duration = Annotated[str, Meta(pattern=r"^\d+(\.\d+)?(ms|s|m|h|d)$", description="such as 250ms, 2s, 10m, 1h, 30d")]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Probability = Annotated[float, Meta(gt=0, lt=1)]
SampleShare = Annotated[float, Meta(ge=0.001, le=1)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Admission = Annotated[int, Meta(ge=1, le=15)]
Pages = Annotated[int, Meta(ge=1, le=65_534)]
Bound = Annotated[int, Meta(ge=1_000, le=1_000_000_000)]  # of rows in memory
UtcOffset = Annotated[str, Meta(pattern=r"^[+-](0\d|1[0-4]):[0-5]\d$", description="such as +02:00")]
ColumnType = Literal["category", "categories", "number", "date", "attribute"]  # an attribute is read by rules alone
PartName = Literal["wide", "deep"]

DURATION_DAYS_MAX: Final = 36_525  # a hundred years
UNIT_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def duration_ms(text: str) -> int:
    """Milliseconds of a Duration.

    >>> duration_ms("2s"), duration_ms("1.5m")
    (2000, 90000)
    """
    number, unit = re.fullmatch(r"([\d.]+)(ms|s|m|h|d)", text).groups()  # type: ignore[union-attr]  # the type's pattern
    return round(float(number) * UNIT_MS[unit])


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of the spec's tables: frozen, unknown keys are rejected."""
