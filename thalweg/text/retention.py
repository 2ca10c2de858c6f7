"""Whether retention of `events` covers what a restarted joiner must read again."""

from typing import Final

from stream.events.topics import EVENTS
from stream.joiner.label_rules import LabelRules
from thalweg.text.durations import format_duration

REMEDY: Final = "shorten label.window or label.lateness"


def retention_needed_ms(rules: LabelRules) -> int:
    """How long a page is needed. With `organic`, also every page that has a remembered install, at the latest one from
    its window's end.
    """
    return rules.life_ms + rules.lateness_ms + (rules.window_ms if rules.organic else 0)


def retention_problem(rules: LabelRules, retention_ms: int = EVENTS.retention_ms) -> str:
    """Why retention is too short; empty when it isn't.

    A starting joiner reads again every page that can still get a label, and stops if one is gone.
    """
    if (needed_ms := retention_needed_ms(rules)) < retention_ms:
        return ""
    parts = "label.window, time for corrections, label.lateness"
    parts += ", and label.window once more for label.organic" if rules.organic else ""
    return (
        f"a page is needed for {format_duration(needed_ms)} ({parts}), but `{EVENTS.name}` keeps records for "
        f"{format_duration(retention_ms)}: a joiner that starts again would find them gone"
    )
