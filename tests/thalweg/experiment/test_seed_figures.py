"""Figures of a seed: by hand, and by a plain reference."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from thalweg.experiment.seed_figures import (
    PERIODS,
    arm_figures,
    learner_figures,
    shadow_figures,
)
from thalweg.experiment.traffic_scores import ScoredTraffic
from thalweg.experiment.user_adjustment import Adjustment


def traffic(**columns: Any) -> ScoredTraffic:
    """Four pages of two items of three users: arm 0 served users 1 and 2, arm 1 user 3."""
    whole: dict[str, Any] = {
        "arm": [0, 1, 0, 0],
        "user": [1, 3, 2, 1],
        "time_ms": [10, 20, 30, 40],
        "items": [[1, 2], [3, 4], [2, 1], [1, 5]],
        "labels": [[True, False], [False, False], [True, True], [False, False]],
        "expected": [0.5, 0.2, 0.7, 0.3],
        "oracle": [0.9, 0.8, 0.7, 0.6],
        "random": [0.1, 0.1, 0.2, 0.2],
        "popular": [0.4, 0.3, 0.2, 0.1],
    }
    arrays: dict[str, Any] = {name: np.array(of) for name, of in (whole | columns).items() if name != "predictions"}
    return ScoredTraffic(**arrays, predictions=columns.get("predictions", {}))


class Unadjusted(Adjustment):
    """Plain means."""

    def mean(self, values: Any, rows: Any) -> float:
        """Of these rows."""
        return float(values[rows].mean())


def test_an_arms_figures_are_of_its_own_pages() -> None:
    """Per 1,000 items, the gap between popular and oracle, apps of the store, regret by time: of its rows only."""
    shown = traffic()
    found = arm_figures(shown, shown.arm == 0, 10, Unadjusted(shown))
    assert (found.users, found.pages) == (2, 3)
    assert found.installs == found.raw_installs == pytest.approx(1_000 * 3 / 6)
    assert found.expected == found.raw_expected == pytest.approx(1_000 * 1.5 / 6)
    assert found.gap_closed == pytest.approx((0.1 + 0.5 + 0.2) / (0.5 + 0.5 + 0.5))
    assert found.coverage == pytest.approx(3 / 10)
    regret = np.array(found.regret)
    assert len(regret) == PERIODS
    pages = np.flatnonzero(np.isfinite(regret)).tolist()  # four pages are in four of the periods, one is another arm's
    assert len(pages) == 3
    assert regret[pages] == pytest.approx([200, 0, 150])
    assert pages == sorted(pages)
    assert pages[1] - pages[0] > pages[2] - pages[1], "the second page was another arm's"


def test_figures_are_adjusted_where_users_differ() -> None:
    """Installs and expected ones by the adjustment, raw ones without."""
    shown = traffic()

    class Halved(Unadjusted):
        def mean(self, values: Any, rows: Any) -> float:
            return super().mean(values, rows) / 2

    plain, halved = (arm_figures(shown, shown.arm == 0, 10, kind(shown)) for kind in (Unadjusted, Halved))
    assert halved.installs == plain.installs / 2
    assert halved.expected == plain.expected / 2
    assert dataclasses.replace(halved, installs=0, expected=0, regret=[]) == dataclasses.replace(
        plain, installs=0, expected=0, regret=[]
    )


def test_an_arm_without_pages_has_no_figures() -> None:
    """Nobody and nothing, and no division by 0."""
    shown = traffic()
    found = arm_figures(shown, shown.arm == 2, 10, Unadjusted(shown))
    assert (found.users, found.pages) == (0, 0)
    assert np.isnan([found.installs, found.expected, found.gap_closed, *found.regret]).all()


def test_where_popular_is_best_no_gap_is_closed() -> None:
    """A gap of 0 can't be divided by."""
    shown = traffic(oracle=[0.4, 0.3, 0.2, 0.1], expected=[0.4, 0.3, 0.2, 0.1])
    assert arm_figures(shown, shown.arm == 0, 10, Unadjusted(shown)).gap_closed == 0
    assert shadow_figures(shown, shown.oracle).gap_closed == 0


def test_shadows_are_of_all_pages() -> None:
    """Expected installs as if they had served everyone; the oracle closes the gap without regret."""
    shown = traffic()
    oracle, random = shadow_figures(shown, shown.oracle), shadow_figures(shown, shown.random)
    assert (oracle.pages, oracle.users, oracle.gap_closed) == (4, 0, 1)
    assert oracle.expected == pytest.approx(1_000 * 3.0 / 8)
    assert random.expected == random.raw_expected == pytest.approx(1_000 * 0.6 / 8)
    assert random.gap_closed == pytest.approx((0.6 - 1.0) / (3.0 - 1.0))
    assert np.nanmax(np.abs(oracle.regret)) == 0
    assert np.nanmean(random.regret) == pytest.approx(1_000 * 2.4 / 8)
    assert np.isnan([oracle.installs, oracle.coverage]).all()


def test_a_learners_figures_are_of_all_traffic() -> None:
    """AUC over everything and within users, log loss, mean prediction over the mean probability of the truth."""
    p = np.array([[0.8, 0.3], [0.1, 0.2], [0.5, 0.4], [0.6, 0.3]], np.float32)
    found = learner_figures(traffic(), p)
    # Positives .8, .5, .4; negatives .3, .1, .2, .6, .3: of 15 pairs .5 and .4 lose to .6.
    assert found.auc == pytest.approx(13 / 15)
    # User 1: .8 against .3, .6, .3. Users 2 and 3 have one label only.
    assert found.group_auc == pytest.approx(1)
    assert found.page_auc == found.page_ndcg == pytest.approx(1), "only the first page has both labels"
    assert set(found.errors) == {"auc", "group_auc", "page_auc", "page_ndcg"}
    assert found.errors["auc"] > 0
    assert found.calibration == pytest.approx(3.2 / traffic().expected.sum())
    y = traffic().labels
    assert found.log_loss == pytest.approx(-np.log(np.where(y, p, 1 - p)).mean(), rel=1e-5)


def test_certainty_that_is_wrong_costs_a_finite_loss() -> None:
    """Predictions of 0 and 1 are bounded."""
    wrong = 1 - traffic().labels.astype(np.float32)
    found = learner_figures(traffic(), wrong)
    assert found.log_loss == pytest.approx(-np.log(1e-7), rel=1e-3)
    assert found.auc == 0
