"""Seeds' figures, made up."""

from collections.abc import Mapping, Sequence

import numpy as np

from thalweg.experiment.seed_figures import PERIODS, ArmFigures, LearnerFigures, SeedFigures

NAN = float("nan")
EXPECTED = {"popular": 10.0, "wide": 20.0, "deep": 21.0, "wide_deep": 22.0, "vw": 18.0}


def arm(expected: float, users: int = 50) -> ArmFigures:
    """An arm of so many expected installs; other figures follow from it. Nobody: a shadow."""
    installs, coverage = (2 * expected, expected / 100) if users else (NAN, NAN)
    regret = [30 - expected + period for period in range(PERIODS)]
    gap_closed = (expected - 10) / 20
    return ArmFigures(users, 20 * users, installs, expected, installs, expected + 1, gap_closed, coverage, regret)


def seed_figures(seed: int, factors: Mapping[str, float], arms: Sequence[str] = tuple(EXPECTED)) -> SeedFigures:
    """Of one seed. `factors`: of the arms' expected installs."""
    rng = np.random.default_rng(seed)
    luck = float(rng.uniform(0.8, 1.2))  # of the seed's world, the same for all arms
    values = {name: EXPECTED.get(name, 15.0) * factors.get(name, 1.0) * luck for name in arms}
    return SeedFigures(
        seed, 1_000, 0.01, {name: arm(value) for name, value in values.items()},
        {"oracle": arm(30.0 * luck, 0), "random": arm(8.0 * luck, 0)},
        {
            name: LearnerFigures(0.7 + seed / 100, 0.6, 0.05, 1.1, 0.65, 0.5, {"auc": 0.01})
            for name in arms if name != "popular"
        },
        {name: value + 1 for name, value in values.items()}, {"all": 2.0}, seed,
    )  # fmt: skip
