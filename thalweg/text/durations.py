"""Durations as people write them."""

from typing import Final

from stream.spec.spec import duration_ms

LADDER: Final = (
    "1s", "2s", "5s", "10s", "30s", "1m", "2m", "5m", "10m", "30m",
    "1h", "2h", "6h", "12h", "1d", "2d", "7d", "14d", "30d", "90d", "365d",
)  # fmt: skip


def rounded_up(ms: float) -> str:
    """The shortest duration of the usual ones that is longer than this; a year at most.

    >>> rounded_up(0), rounded_up(29_999), rounded_up(30_000)
    ('1s', '30s', '1m')
    """
    return next((text for text in LADDER if duration_ms(text) > ms), LADDER[-1])


def spoken(ms: float) -> str:
    """A duration for a person.

    >>> spoken(120), spoken(1_500), spoken(90_000), spoken(7_200_000), spoken(3 * 86_400_000)
    ('120 ms', '1.5 s', '1.5 min', '2 h', '3 days')
    """
    for unit, size, most in (("ms", 1, 1_000), ("s", 1_000, 60_000), ("min", 60_000, 3_600_000),
                             ("h", 3_600_000, 172_800_000)):  # fmt: skip
        if ms < most:
            return f"{ms / size:.3g} {unit}"
    return f"{ms / 86_400_000:.3g} days"
