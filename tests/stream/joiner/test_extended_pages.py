"""Pages that a further impression under their request id extends, over restarts."""

import pytest

from stream.events.types import SourceEvent, Tick
from stream.joiner.label_rules import LabelRules
from tests.support.join_events import FAR, install, page
from tests.support.join_strategies import START, packed, played


@pytest.mark.parametrize("extension_ms", [101, 105, 108])
def test_an_install_of_an_extension_stays_claimed_wherever_a_joiner_is_killed(extension_ms: int) -> None:
    """A restart that reads the extension reads its first page too: alone it would be a page at its own time."""
    rules = LabelRules("eager", window_ms=10, lateness_ms=3, known_ms=10, early_ms=8, organic=True)
    log: list[SourceEvent] = [
        page("r", 105, "b"),
        page("r", extension_ms, "c"),
        install("i", 113, "c", "r"),
        Tick(129),
        FAR,
    ]
    records = packed(log, [1])
    for first in range(1, len(records)):
        before, joiner = played(records, rules, START, first)
        after, _ = played(records, rules, joiner.restart_point(first), len(records))
        assert before | after == set()
