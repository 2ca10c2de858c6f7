"""Whether `events` keeps its records for as long as the join may have to read them again."""

from typing import Final

from stream.label_rules import LabelRules
from stream.topics import EVENTS
from thalweg.durations import spoken

REMEDY: Final = "shorten label.window or label.lateness"


def too_short(rules: LabelRules, retention_ms: int = EVENTS.retention_ms) -> str:
    """What is wrong, empty when nothing is.

    A joiner that starts reads all pages again that can still get a label; if some are gone, it stops.
    """
    needed_ms = rules.life_ms + rules.lateness_ms
    if needed_ms < retention_ms:
        return ""
    return (
        f"a page can get labels for {spoken(needed_ms)} (label.window, time for corrections, label.lateness), but "
        f"`{EVENTS.name}` keeps records for {spoken(retention_ms)}: a joiner that starts again would find them gone"
    )
