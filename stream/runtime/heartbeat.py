"""Notices a loop that hangs: it beats at each turn, and `/livez` asks how long ago the last beat was."""

import time
from collections.abc import Callable, Iterable


class Heartbeat:
    """The beats of one loop. `hung_s`: longer than any legitimate pause between two of them, seconds.

    `loop` names it in messages; `clock_s` is monotonic. One thread beats, others ask.

    >>> now_s = 0.0
    >>> heart = Heartbeat("the loop", hung_s=60.0, clock_s=lambda: now_s)
    >>> heart.beat(pause_s=600.0)
    >>> now_s = 300.0
    >>> heart.live()
    (True, 'ok')
    """

    def __init__(self, loop: str, hung_s: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._loop, self._hung_s, self._clock_s = loop, hung_s, clock_s
        self.beat()

    def beat(self, pause_s: float = 0.0) -> None:
        """The loop runs. `pause_s`: how long the next beat may take, where that is more than `hung_s`."""
        now_s = self._clock_s()
        self._last = now_s, now_s + max(pause_s, self._hung_s)  # at once: another thread reads both

    def live(self) -> tuple[bool, str]:
        """For `/livez`: whether it runs, else since when it hangs."""
        (beat_s, until_s), now_s = self._last, self._clock_s()
        if now_s <= until_s:
            return True, "ok"
        return False, f"{self._loop} hangs: it hasn't run for {now_s - beat_s:.0f} s; restart this process"


def all_live(hearts: Iterable[Heartbeat]) -> tuple[bool, str]:
    """Whether all of them run, else the first one that doesn't."""
    return next((found for one in hearts if not (found := one.live())[0]), (True, "ok"))
