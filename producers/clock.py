"""The clocks of a replay: a monotonic one that paces it, and the wall clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from stream.runtime.clock import now_ms


@dataclass(frozen=True)
class Clock:
    """`now_s` is monotonic; `sleep` takes seconds; `wall_ms` is in ms since 1970."""

    now_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    wall_ms: Callable[[], int] = now_ms
