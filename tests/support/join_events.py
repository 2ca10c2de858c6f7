"""Short events for the join's tests, what a joiner emits for them, and when records arrive."""

from collections.abc import Sequence

from stream.events.types import (
    Examples,
    Impression,
    Install,
    SourceEvent,
    Tick,
)
from stream.joiner.join import Joiner
from stream.joiner.label_rules import LabelRules

RULES = LabelRules(policy="eager", window_ms=10, lateness_ms=0, known_ms=5, skew_ms=0)
FAR = Tick(time_ms=100_000)
NOW = 1_000_000  # when records come: long after what they tell of
POLICIES = ("wait", "eager", "fake_negative", "delayed_negative")


def page(request_id: str, time_ms: int, items: str = "ab", user: str = "u") -> Impression:
    """A page; `items` one letter each."""
    return Impression(request_id=request_id, time_ms=time_ms, user=user, items=list(items))


def install(install_id: str, time_ms: int, item: str = "a", request_id: str = "", user: str = "u") -> Install:
    """An install."""
    return Install(user=user, item=item, time_ms=time_ms, install_id=install_id, request_id=request_id)


def retraction(install_id: str, time_ms: int, item: str = "a", user: str = "u") -> Install:
    """The retraction of an install."""
    return Install(user=user, item=item, time_ms=time_ms, install_id=install_id, retracted=True)


def rows(said: Sequence[Examples]) -> list[tuple[str, int, int, int]]:
    """(request id, position, label, reason) in the order they were said."""
    return [
        (e.page.request_id, p, label, r)
        for e in said
        for p, label, r in zip(e.positions, e.labels, e.reasons, strict=True)
    ]


def ids(said: Sequence[Examples]) -> set[int]:
    """Every id that was said."""
    return {example for examples in said for example in examples.ids}


def play(rules: LabelRules, *events: SourceEvent) -> list[tuple[str, int, int, int]]:
    """Rows said when each event is a record."""
    joiner = Joiner(rules)
    return [row for offset, event in enumerate(events) for row in rows(joiner.feed([event], offset, NOW + offset))]
