"""Each arm runs on rates of its own, those that the tuning found."""

import json
from pathlib import Path

import pytest

from stream.spec.spec import Spec
from stream.spec.spec_file import load_spec
from thalweg.backtest.peers import PeerRates
from thalweg.experiment.arm_rates import STORE, TUNED, peer_rates, spec_of_arm

ROOT = Path(__file__).parents[3]
BEST = json.loads((ROOT / "benchmarks" / "tuned_store.json").read_text())


@pytest.fixture
def spec() -> Spec:
    """The store's."""
    return load_spec(ROOT / "specs" / "store.toml")


def test_the_arms_run_on_the_rates_of_the_tunings_file() -> None:
    """To three digits."""
    for arm, rates in TUNED.items():
        assert rates == pytest.approx(BEST[arm], rel=2e-3), arm


def test_an_arm_differs_in_its_rates_only(spec: Spec) -> None:
    """Columns, statistics and crosses stay, so that its pages can be learned by the others."""
    assert spec.name == STORE
    wide, deep, both = (spec_of_arm(spec, arm) for arm in ("wide", "deep", "wide_deep"))
    assert both.wide == spec.wide
    assert deep.deep.learning_rate == TUNED["deep"]["learning_rate"] != spec.deep.learning_rate
    assert wide.wide.l1 == TUNED["wide"]["l1"] != spec.wide.l1
    for one in (wide, deep, both):
        assert (one.columns(), one.statistics, one.label) == (spec.columns(), spec.statistics, spec.label)
        assert [cross.of for cross in one.crosses()] == [cross.of for cross in spec.crosses()]
    assert peer_rates(spec) == PeerRates(**TUNED["vw"])


def test_other_specs_keep_their_rates() -> None:
    """They weren't tuned."""
    movielens = load_spec(ROOT / "specs" / "movielens.toml")
    assert spec_of_arm(movielens, "wide") is movielens
    assert peer_rates(movielens) == PeerRates()
