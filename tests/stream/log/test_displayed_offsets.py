"""Offsets for lag exporters: a failure to commit them costs a warning, nothing else."""

from collections.abc import Mapping

import pytest

from stream.events.topics import EVENTS
from stream.log.displayed_offsets import DisplayedOffsets
from stream.log.memory_log import MemoryLog
from stream.runtime.errors import LogError, LogUnavailable


class FailingLog(MemoryLog):
    """Notes commits, or fails."""

    def __init__(self) -> None:
        super().__init__({EVENTS.name: 2}, lambda: 1)
        self.commits: list[tuple[str, str, dict[int, int]]] = []
        self.failure: LogError | None = None
        self.opened = self.closed = 0

    def open(self) -> "FailingLog":
        """Itself, or the failure."""
        self.opened += 1
        if self.failure:
            raise self.failure
        return self

    def commit(self, topic: str, group: str, positions: Mapping[int, int]) -> None:
        """See Log."""
        if self.failure:
            raise self.failure
        self.commits.append((topic, group, dict(positions)))

    def close(self) -> None:
        """Counted."""
        self.closed += 1


def test_one_log_is_opened_for_all_commits() -> None:
    """At the first one, not before; it is closed once."""
    log = FailingLog()
    offsets = DisplayedOffsets(log.open, EVENTS.name, "shown")
    assert log.opened == 0
    offsets.commit({0: 4})
    offsets.commit({0: 4, 1: 7})
    assert log.commits == [(EVENTS.name, "shown", {0: 4}), (EVENTS.name, "shown", {0: 4, 1: 7})]
    for _ in range(2):
        offsets.close()
    assert (log.opened, log.closed) == (1, 1)


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize(
    ("failure", "warned"), [(LogError("no rights"), [1, 1, 1, 1]), (LogUnavailable("no coordinator"), [0, 0, 1, 1])]
)
def test_a_failure_is_logged_once(
    failure: LogError, warned: list[int], is_open: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Later where the broker is unavailable, which may pass; and it commits again when it may."""
    log = FailingLog()
    offsets = DisplayedOffsets(log.open, EVENTS.name, "shown")
    if is_open:
        offsets.commit({0: 1})
    log.failure, warnings = failure, list[int]()
    for _ in range(4):
        offsets.commit({0: 2})
        warnings.append(len(caplog.records))
    assert warnings == warned
    log.failure = None
    offsets.commit({0: 3})
    assert log.commits[-1] == (EVENTS.name, "shown", {0: 3})
