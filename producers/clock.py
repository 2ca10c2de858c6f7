"""Time, passed in: the steady clock by which a replay is paced, and the time of day."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from stream.runtime.clock import now_ms


@dataclass(frozen=True)
class Clock:
    """`now_s` runs steadily; `wall_ms` is the time of day in ms since 1970; `sleep` takes seconds."""

    now_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    wall_ms: Callable[[], int] = now_ms
