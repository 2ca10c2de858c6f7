"""A loop that hangs is noticed, a long pause that it announced isn't one."""

from stream.runtime.heartbeat import Heartbeat, all_live


class Clock:
    """Stands still until it is set."""

    now_s = 100.0

    def __call__(self) -> float:
        """Now."""
        return self.now_s


def test_a_loop_without_a_beat_for_too_long_hangs() -> None:
    """Until the bound it may pause; after it the message says for how long; the next beat makes it live again."""
    clock = Clock()
    heart = Heartbeat("learning", 60.0, clock)
    clock.now_s += 60.0
    assert heart.live() == (True, "ok")
    clock.now_s += 1.0
    assert heart.live() == (False, "learning hangs: it hasn't run for 61 s; restart this process")
    heart.beat()
    assert heart.live() == (True, "ok")


def test_an_announced_pause_counts_until_the_next_beat() -> None:
    """Compiling may take half an hour; the step after it may not. A short pause doesn't tighten the bound."""
    clock = Clock()
    heart = Heartbeat("learning", 60.0, clock)
    heart.beat(pause_s=1_800.0)
    clock.now_s += 1_800.0
    assert heart.live()[0]
    heart.beat(pause_s=1.0)
    clock.now_s += 60.0
    assert heart.live()[0]
    clock.now_s += 1.0
    assert not heart.live()[0]


def test_one_loop_that_hangs_is_enough() -> None:
    """Its message is the answer; no loops at all are fine."""
    clock = Clock()
    reading, learning = Heartbeat("reading", 10.0, clock), Heartbeat("learning", 60.0, clock)
    assert all_live([reading, learning]) == all_live([]) == (True, "ok")
    clock.now_s += 11.0
    assert all_live([learning, reading])[1].startswith("reading hangs")
