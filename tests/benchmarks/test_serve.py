"""What the benchmark of the ranking service counts."""

import numpy as np
import pytest

from benchmarks.serve import Lengths, highest
from benchmarks.serve_load import Notebook

LENGTHS = Lengths(rate=1, probe=2, hold=30, overload=1)


@pytest.mark.parametrize("capacity", [37.0, 150.0, 1_234.0])
def test_capacity_is_what_holds_for_long(capacity: float) -> None:
    """What holds in short runs alone is no capacity: it's at most what holds for long, and near it."""
    found = highest(lambda rate, seconds: rate <= capacity * (1.2 if seconds < LENGTHS.hold else 1.0), LENGTHS)
    assert 0.9 * capacity < found <= capacity


def test_requests_count_by_what_became_of_them() -> None:
    """In time and whole: ranked within the deadline, all candidates; a second reply to a request counts for nothing."""
    notebook = Notebook(7)
    notebook.due_s[:] = notebook.sent_s[:] = np.arange(7.0)
    for n, waited_s, kind, notes in [
        (0, 0.1, "", []),
        (1, 0.2, "", ["no_history"]),
        (2, 0.1, "", ["deadline"]),
        (3, 1.5, "", []),
        (4, 0.1, "shed", []),
        (4, 0.2, "", []),
        (5, 0.1, "invalid", []),
    ]:
        notebook.note(n, n + waited_s, kind, notes, 1_000)
    found = notebook.found(1_000, 0.7)
    assert (found.sent, found.full, found.shed, found.expired, found.failed, found.lost) == (7, 2, 1, 0, 1, 1)
    assert [found.p50_ms, found.longest_ms, found.cpu_ms] == pytest.approx([150, 1_500, 100])
