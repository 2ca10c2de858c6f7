"""Each arm runs on rates of its own, those that the tuning found."""

import json
from pathlib import Path

import pytest

from stream.spec.spec import Spec
from stream.spec.spec_file import load_spec
from thalweg.backtest.peers import PeerRates
from thalweg.experiment.arm_rates import STORE, TUNED, peer_rates, spec_of_arm, spec_with

ROOT = Path(__file__).parents[3]
BEST = json.loads((ROOT / "benchmarks" / "tuned_store.json").read_text())


@pytest.fixture
def spec() -> Spec:
    """The store's."""
    return load_spec(ROOT / "specs" / "store.toml")


def test_rates_are_the_best_draws(spec: Spec) -> None:
    """To three digits; the spec's own are those of wide and wide_deep."""
    for arm, rates in TUNED.items():
        assert rates == pytest.approx(BEST[arm], rel=2e-3), arm
    shipped = spec_with(spec, BEST["wide"] | BEST["wide_deep"])
    assert rates_of(spec) == pytest.approx(rates_of(shipped), rel=2e-2)
    assert BEST["wide"].items() <= BEST["wide_deep"].items(), "or wide needs rates of its own"


def rates_of(spec: Spec) -> list[float]:
    """Those that are tuned."""
    wide, deep = spec.wide, spec.deep
    alphas = [cross.alpha or wide.alpha for cross in spec.crosses()]
    accumulator = deep.embedding_accumulator
    assert accumulator is not None
    return [*alphas, wide.l1, wide.l2, deep.learning_rate, deep.warm_start.every, deep.embedding_dim, accumulator]


def test_an_arm_differs_in_its_rates_only(spec: Spec) -> None:
    """Columns, statistics and crosses stay, so that its pages can be learned by the others."""
    assert spec.name == STORE
    wide, deep = spec_of_arm(spec, "wide"), spec_of_arm(spec, "deep")
    assert spec_of_arm(spec, "wide_deep") == wide == spec
    assert deep.deep.learning_rate == TUNED["deep"]["learning_rate"] != spec.deep.learning_rate
    for one in (wide, deep):
        assert (one.columns(), one.statistics, one.label) == (spec.columns(), spec.statistics, spec.label)
        assert [cross.of for cross in one.crosses()] == [cross.of for cross in spec.crosses()]
    assert peer_rates(spec) == PeerRates(**TUNED["vw"])


def test_other_specs_keep_their_rates() -> None:
    """They weren't tuned."""
    movielens = load_spec(ROOT / "specs" / "movielens.toml")
    assert spec_of_arm(movielens, "wide") is movielens
    assert peer_rates(movielens) == PeerRates()
