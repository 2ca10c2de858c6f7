"""On the Open Bandit sample our estimators print what those of its authors do (obp, Saito et al. 2021)."""

from typing import NamedTuple

import numpy as np
import pytest
from obp.ope import DoublyRobust, InverseProbabilityWeighting, SelfNormalizedInverseProbabilityWeighting
from obp.policy import BernoulliTS

from producers.openbandit import fetch_openbandit, read_openbandit
from stream.events.types import Impression, Install
from stream.runtime.settings import Settings
from stream.tables.dtypes import F64, I64
from thalweg.backtest.off_policy import EstimateOptions, LoggedPages, TargetPages, estimate

ITEMS, SLOTS = 80, 3
SIMULATIONS = 10_000  # draws that the probabilities of `bts` are counted from


class Log(NamedTuple):
    """The rows of a part: a page of one item each, in one of three slots."""

    items: I64
    slots: I64
    clicks: F64
    propensities: F64


def log_of(part: str) -> Log:
    """A part as a backtest reads it."""
    pages, clicked = list[Impression](), set[str]()
    for event in read_openbandit(fetch_openbandit(Settings().data, print), part):
        if isinstance(event, Impression):
            pages.append(event)
        elif isinstance(event, Install):
            clicked.add(event.request_id)
    return Log(
        np.array([int(page.items[0]) for page in pages]),
        np.array([int(page.context["slot"]) - 1 for page in pages]),
        np.array([float(page.request_id in clicked) for page in pages]),
        np.array([page.propensities[0] for page in pages]),
    )


@pytest.fixture(scope="module")
def bts() -> F64:
    """What ZOZOTOWN's policy `bts` shows in each slot, f64[ITEMS, SLOTS]: its priors are in obp."""
    policy = BernoulliTS(n_actions=ITEMS, len_list=SLOTS, is_zozotown_prior=True, campaign="all", random_state=12345)
    found: F64 = policy.compute_batch_action_dist(n_rounds=1, n_sim=SIMULATIONS)[0]
    return found


def test_the_value_of_bts_from_the_log_of_random(bts: F64) -> None:
    """IPS, SNIPS and DR of the policy `bts` from the pages of `random` equal obp's IPW, SNIPW and DR, digit by digit;
    both get the same probabilities, and for DR the same predictions: an item's clicks of a slot in the other half.
    """
    log = log_of("random/all")
    n = len(log.items)
    rows, half = np.arange(n), np.arange(n) % 2
    shown, clicks = np.zeros((2, 2, ITEMS, SLOTS))
    np.add.at(shown, (1 - half, log.items, log.slots), 1)
    np.add.at(clicks, (1 - half, log.items, log.slots), log.clicks)
    predicted = ((clicks + 1) / (shown + 250))[half]  # f64[n, ITEMS, SLOTS]
    chances = np.tile(bts, (n, 1, 1))
    given = {
        "reward": log.clicks, "action": log.items, "position": log.slots, "pscore": log.propensities,
        "action_dist": chances,
    }  # fmt: skip
    wanted = {
        "ips": InverseProbabilityWeighting().estimate_policy_value(**given),
        "snips": SelfNormalizedInverseProbabilityWeighting().estimate_policy_value(**given),
        "dr": DoublyRobust().estimate_policy_value(**given, estimated_rewards_by_reg_model=predicted),
    }
    target = TargetPages(
        chances[rows, log.items, log.slots][:, None],
        predicted[rows, log.items, log.slots][:, None],
        (chances * predicted).sum(1)[rows, log.slots][:, None],
    )
    logged = LoggedPages(log.clicks[:, None], log.propensities[:, None], np.ones((n, 1), np.bool_))
    found = estimate(logged, target, EstimateOptions(resamples=200))
    for name, value in wanted.items():
        assert found.of(name).value == pytest.approx(value, rel=1e-12), name
    assert len({round(value, 5) for value in wanted.values()}) == 3, "three estimators, three numbers"
    measured = log_of("bts/all").clicks.mean()
    assert found.of("snips").low < measured < found.of("snips").high, "what `bts` earned in its own log"
