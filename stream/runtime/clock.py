"""The wall clock, for entry points to pass on."""

import time


def now_ms() -> int:
    """Wall clock, ms since 1970."""
    return time.time_ns() // 1_000_000
