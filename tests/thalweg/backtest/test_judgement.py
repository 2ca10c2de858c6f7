"""Judgements: figures by their definitions, intervals that hold what they should."""

import numpy as np
import pytest

from learner.training.ranking_figures import ranking_figures
from thalweg.backtest.backtest import exact_auc
from thalweg.backtest.judgement import FIGURES, JudgedRows, judge


def examples(users: int, seed: int, of_user: float = 1.0) -> tuple[np.ndarray, JudgedRows]:
    """Users of 2 sessions of 3 pages of 4 items. `of_user`: how much users' rates differ; predictions know nothing of
    it, but something of the label."""
    random = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), 24)
    rate = 1 / (1 + np.exp(1.5 - of_user * random.normal(size=users)))
    labels = (random.random(len(user)) < rate[user]).astype(np.float32)
    p = (1 / (1 + np.exp(1.5 - 0.5 * labels - 0.5 * random.normal(size=len(user))))).astype(np.float32)
    return p, JudgedRows(labels, user, np.arange(len(user)) // 4, np.arange(len(user)) // 12)


def test_figures_are_their_definitions() -> None:
    """Over all examples and within groups."""
    p, rows = examples(40, 0)
    found = judge(p, rows, 40, resamples=2)
    y = rows.labels
    values = {name: found.of(name).value for name in FIGURES}
    assert values["auc"] == pytest.approx(exact_auc(p, y))
    loss = -np.mean(np.where(y > 0, np.log(p), np.log(1 - p)))
    base = y.mean()
    assert values["log_loss"] == pytest.approx(loss, rel=1e-5)
    entropy = -base * np.log(base) - (1 - base) * np.log(1 - base)
    assert values["normalised_entropy"] == pytest.approx(loss / entropy, rel=1e-5)
    assert values["calibration"] == pytest.approx(p.mean() / base, rel=1e-5)
    for kind, groups, count in (("page", rows.pages, found.groups[0]), ("session", rows.sessions, found.groups[1])):
        of = ranking_figures(p, y, groups)
        assert count == of.groups
        for name, value in of.named().items():
            assert values[f"{kind}_{name}"] == pytest.approx(value, nan_ok=True)
    assert np.isnan(values["page_hit_rate"]), "every order of four items hits"
    assert 0 < values["session_hit_rate"] <= 1


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of users whose rates differ much: near 95 % of worlds, where the examples' own errors would hold far fewer."""
    truth_p, truth = examples(20_000, 999, of_user=2.0)
    wanted = {name: judge(truth_p, truth, 20_000, resamples=1).of(name).value for name in ("calibration", "auc")}
    covered = dict.fromkeys(wanted, 0)
    narrow = 0
    for seed in range(100):
        p, rows = examples(60, seed, of_user=2.0)
        judged = judge(p, rows, 60, resamples=200)
        for name, value in wanted.items():
            covered[name] += judged.of(name).low <= value <= judged.of(name).high
        base, n = rows.labels.mean(), len(rows.labels)
        narrow += abs(base - truth.labels.mean()) <= 1.96 * np.sqrt(base * (1 - base) / n)
    assert min(covered.values()) >= 85, covered
    assert narrow < 70


def test_the_same_seed_gives_the_same_interval() -> None:
    """And another one another."""
    p, rows = examples(30, 1)
    first, again, other = (judge(p, rows, 30, resamples=50, seed=seed).resampled for seed in (0, 0, 1))
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_a_gain_is_of_pairs() -> None:
    """Predictions that differ by little have a narrow interval of their difference, however wide their own are."""
    p, rows = examples(60, 2, of_user=2.0)
    one, other = judge(p, rows, 60), judge(p**2, rows, 60)
    gain = one.gain_over(other, "auc")
    assert gain == (0, 0, 0), "the order is the same"
    assert one.of("auc").high - one.of("auc").low > 0.02
    worse = judge(np.random.default_rng(0).permutation(p), rows, 60)
    assert one.gain_over(worse, "auc").low > 0


def test_one_user_has_no_interval() -> None:
    """Nor have figures that aren't defined."""
    p, rows = examples(1, 3)
    assert not judge(p, rows, 1).of("auc").is_known
    p, rows = examples(20, 3)
    assert not judge(p, rows, 20).of("page_hit_rate").is_known
    nothing = rows._replace(labels=np.zeros_like(rows.labels))
    judged = judge(p, nothing, 20)
    assert np.isnan([judged.of("auc").value, judged.of("calibration").value, judged.of("page_auc").value]).all()
    assert judged.of("log_loss").is_known


def test_slices_keep_users_apart() -> None:
    """Examples of some of the users: the others count for nothing."""
    p, rows = examples(50, 4)
    which = rows.users < 20
    of_slice = judge(p[which], rows.take(which), 50)
    assert of_slice.of("auc").value == pytest.approx(exact_auc(p[which], rows.labels[which]))
    assert of_slice.of("auc").is_known
