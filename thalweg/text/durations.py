"""Durations as people write them."""

from typing import Final

from stream.spec.values import duration_ms

LADDER: Final = (
    "1s", "2s", "5s", "10s", "30s", "1m", "2m", "5m", "10m", "30m",
    "1h", "2h", "6h", "12h", "1d", "2d", "7d", "14d", "30d", "90d", "365d",
)  # fmt: skip


def round_up_duration(ms: float) -> str:
    """The shortest duration in LADDER that is longer than this; a year at most.

    >>> round_up_duration(0), round_up_duration(29_999), round_up_duration(30_000)
    ('1s', '30s', '1m')
    """
    return next((text for text in LADDER if duration_ms(text) > ms), LADDER[-1])


def spec_duration(ms: float) -> str:
    """A duration as a spec has it, to three digits.

    >>> [spec_duration(ms) for ms in (0.4, 119.6, 1_234, 90_000, 7_200_000, 3 * 86_400_000)]
    ['0ms', '120ms', '1.23s', '1.5m', '2h', '3d']
    """
    units = ("s", 1_000, 60_000), ("m", 60_000, 3_600_000), ("h", 3_600_000, 86_400_000)
    if ms < 999.5:
        return f"{round(ms)}ms"
    for unit, size, limit in units:
        if ms < limit:
            return f"{ms / size:.3g}{unit}"
    return f"{ms / 86_400_000:.3g}d"


def format_duration(ms: float) -> str:
    """A duration for a person.

    >>> [format_duration(ms) for ms in (120, 1_500, 90_000, 7_200_000, 3 * 86_400_000)]
    ['120 ms', '1.5 s', '1.5 min', '2 h', '3 days']
    """
    units = ("ms", 1, 1_000), ("s", 1_000, 60_000), ("min", 60_000, 3_600_000), ("h", 3_600_000, 172_800_000)
    for unit, size, limit in units:
        if ms < limit:
            return f"{ms / size:.3g} {unit}"
    return f"{ms / 86_400_000:.3g} days"
