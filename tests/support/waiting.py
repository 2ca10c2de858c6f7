"""Waiting in tests: until a condition holds, or the test fails and names what it waited for."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
WAIT_S = 120.0
FIRST_S = 0.001  # threads are quick; from there each pause is twice the one before
EVERY_S = 0.02  # oftener, and the services that are asked would do little else


def wait_until(
    holds: Callable[[], T], what: str = "a condition", wait_s: float = WAIT_S, every_s: float = EVERY_S
) -> T:
    """What `holds` returns once it is truthy, asked `every_s`, at first oftener; fails after `wait_s`."""
    deadline_s, pause_s = time.monotonic() + wait_s, FIRST_S
    while not (found := holds()):
        assert time.monotonic() < deadline_s, f"waited {wait_s:g} s for {what}"
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, every_s)
    return found
