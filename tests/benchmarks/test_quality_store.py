"""Sessions of the store's traffic."""

import numpy as np

from benchmarks.quality_store import sessions
from learner.training.ranking_figures import SESSION_GAP_MS
from thalweg.experiment.traffic_scores import ScoredTraffic


def test_a_session_is_of_one_user_and_ends_with_a_pause() -> None:
    """Pages are in the order of time, users mixed."""
    user = np.array([1, 2, 1, 1, 2, 1])
    time_ms = np.array([0, 5, 10, 10 + SESSION_GAP_MS, 20 + SESSION_GAP_MS, 11 + 2 * SESSION_GAP_MS])
    n = len(user)
    flat = np.zeros(n)
    items = np.zeros((n, 2), np.int64)
    traffic = ScoredTraffic(user, user, time_ms, items, items > 0, flat, flat, flat, flat, {})
    found = sessions(traffic)
    same = {(a, b) for a in range(n) for b in range(a + 1, n) if found[a] == found[b]}
    assert same == {(0, 2), (0, 3), (2, 3)}  # user 1's last page and user 2's second come after a longer pause
