"""Whether `events` keeps its records for as long as the join may have to read them again."""

from typing import Final

from stream.events.topics import EVENTS
from stream.joiner.label_rules import LabelRules
from thalweg.text.durations import spoken

REMEDY: Final = "shorten label.window or label.lateness"


def too_short(rules: LabelRules, retention_ms: int = EVENTS.retention_ms) -> str:
    """What is wrong, empty when nothing is.

    A joiner that starts reads all pages again that can still get a label, and with `organic` those that have a
    remembered install; if some are gone, it stops.
    """
    # With `organic` a page is read again as long as an install that it claimed at its window's end is remembered.
    organic_ms = rules.window_ms if rules.organic else 0
    needed_ms = rules.life_ms + rules.lateness_ms + organic_ms
    if needed_ms < retention_ms:
        return ""
    parts = "label.window, time for corrections, label.lateness"
    parts += ", and label.window once more for label.organic" if rules.organic else ""
    return (
        f"a page is needed for {spoken(needed_ms)} ({parts}), but `{EVENTS.name}` keeps records for "
        f"{spoken(retention_ms)}: a joiner that starts again would find them gone"
    )
