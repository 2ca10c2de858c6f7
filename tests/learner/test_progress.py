"""Progressive figures against their definitions."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from learner.progress import WINDOW, Progress
from learner.seen import Seen


def exact_auc(p: np.ndarray, y: np.ndarray) -> float:
    """Share of (positive, negative) pairs in order; ties half."""
    positives, negatives = p[y == 1], p[y == 0]
    if not len(positives) or not len(negatives):
        return 0.5
    return float(np.mean((positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)))


@given(st.lists(st.tuples(st.integers(1, 99), st.booleans()), min_size=1, max_size=60))
def test_auc_and_log_loss_are_exact_up_to_the_bins(rows: list[tuple[int, bool]]) -> None:
    """Predictions that lie in different bins are ordered exactly; equal ones count half."""
    p = np.array([r[0] / 100 for r in rows], np.float32)
    y = np.array([r[1] for r in rows], np.float32)
    progress = Progress()
    for first in range(0, len(p), 7):
        progress.record(p[first : first + 7], y[first : first + 7])
    figures = progress.lifetime()
    assert abs(figures.auc - exact_auc(p, y)) < 1e-9
    expected = -np.mean(np.where(y == 1, np.log(p), np.log(1 - p)))
    assert abs(figures.log_loss - expected) < 1e-5
    assert abs(progress.window().log_loss - figures.log_loss) < 1e-5
    assert progress.window().auc == figures.auc


def test_the_window_forgets() -> None:
    """Only the last 2,000 predictions count in the window."""
    progress = Progress()
    progress.record(np.full(3000, 0.9, np.float32), np.zeros(3000, np.float32))
    progress.record(np.full(WINDOW, 0.5, np.float32), np.ones(WINDOW, np.float32))
    assert progress.window().base_rate == 1.0
    assert progress.lifetime().base_rate == WINDOW / (WINDOW + 3000)


@given(st.lists(st.lists(st.integers(0, 40), max_size=10), max_size=20))
def test_an_id_is_new_once(batches: list[list[int]]) -> None:
    """Within the bound an id is new exactly the first time, also within one batch."""
    seen, known = Seen(), set[int]()
    for batch in batches:
        new = seen.new(np.array(batch, np.uint64))
        for i, one in enumerate(batch):
            assert bool(new[i]) == ((one or 1) not in known)
            known.add(one or 1)


def test_memory_of_ids_is_bounded_and_keeps_the_newest() -> None:
    """At least the last `ids` ids are remembered, at most twice as many."""
    seen = Seen(ids=100)
    for first in range(1, 1001, 10):
        seen.new(np.arange(first, first + 10, dtype=np.uint64))
    assert len(seen.young) + len(seen.old) <= 200
    assert not seen.new(np.arange(901, 1001, dtype=np.uint64)).any()
