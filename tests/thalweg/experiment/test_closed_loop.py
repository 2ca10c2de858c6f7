"""The closed loop is a function of its seed, and its figures are what the world's truth says."""

from dataclasses import asdict, replace
from typing import Any

import msgspec
import numpy as np
import pytest

from stream.events.types import RankRequest
from tests.support.closed_loops import FEW, SPEC, Ran, loop_of, run
from thalweg.experiment.arm_rates import peer_rates, spec_of_arm
from thalweg.experiment.closed_loop import ALL_ARMS
from thalweg.experiment.experiment import ExperimentConfig, run_seed
from thalweg.experiment.traffic_scores import REFERENCES, ScoredTraffic

PAGES = 400


@pytest.fixture(scope="module")
def all_arms() -> Ran:
    """A run of all arms."""
    return run(loop_of(ALL_ARMS), PAGES)


def columns(traffic: ScoredTraffic) -> dict[str, Any]:
    """All that was measured, by name."""
    found = dict(vars(traffic))
    for kind in ("predictions", "ranked"):
        found |= {f"{kind} of {name}": values for name, values in found.pop(kind).items()}
    return found


def differing(one: ScoredTraffic, other: ScoredTraffic) -> set[str]:
    """Names of the columns that aren't the same, to the bit."""
    first, second = columns(one), columns(other)
    assert first.keys() == second.keys()
    return {name for name in first if first[name].tobytes() != second[name].tobytes()}


def test_a_run_is_a_function_of_its_seed(all_arms: Ran) -> None:
    """Each page, label and prediction of every arm is the same in a second run."""
    again = run(loop_of(ALL_ARMS), PAGES).traffic
    assert differing(all_arms.traffic, again) == set()
    assert len(again.arm) >= PAGES
    assert {name: np.ptp(values) > 0 for name, values in again.predictions.items()} == dict.fromkeys(
        ("wide_deep", "wide", "deep", "vw", "ensemble"), True
    )


def test_a_model_retrieves_for_a_history(all_arms: Ran) -> None:
    """As many as the spec says, each once, none that the user has, and others for other users."""
    model, histories = all_arms.loop.served["wide_deep"], all_arms.loop.histories
    found = []
    for user in sorted({page.user for page in all_arms.pages.values()})[:2]:
        history = histories.newest(user, 1_000)
        found.append(model.retrieved("r", history))
        assert history
        assert len({*found[-1]}) == len(found[-1]) == SPEC.retrieval.count
        assert not {*found[-1]} & {*history}
    assert found[0] != found[1]


def test_a_seeds_figures_are_the_same_but_for_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `thalweg experiment` runs them, from an equal spec of another process."""
    monkeypatch.setattr("thalweg.experiment.experiment.preset", lambda rate: FEW)
    config = ExperimentConfig(SPEC, "common", 150, ALL_ARMS)
    copy = msgspec.convert(msgspec.to_builtins(SPEC), type(SPEC))
    first, again, other = run_seed(config, 3), run_seed(replace(config, spec=copy), 3), run_seed(config, 4)
    encoded = [msgspec.json.encode(asdict(replace(found, seconds={}))) for found in (first, again, other)]
    assert encoded[0] == encoded[1] != encoded[2]
    assert set(first.arms) == set(ALL_ARMS)
    assert set(first.learners) == set(ALL_ARMS) - {"popular"}
    assert sum(arm.pages for arm in first.arms.values()) == first.pages >= 150
    assert first.seconds["all"] > 0
    assert first.versions_rejected == 0


def test_all_rank_the_same_pages(all_arms: Ran) -> None:
    """A learner's ranking of a page is what it would have shown: on the pages that it served, that was shown."""
    ranked, at, served = all_arms.traffic.ranked, 0, 0
    for shown in all_arms.shown:
        for b in shown.whole:
            arm = ALL_ARMS[shown.arms[b]]
            assert ranked[arm][at] == pytest.approx(shown.expected[b], rel=1e-12)
            assert max(values[at] for values in ranked.values()) <= shown.oracle[b] * (1 + 1e-12)
            at, served = at + 1, served + (arm == "vw")
    assert {len(values) for values in ranked.values()} == {at}
    assert 0.08 * PAGES < at < 0.12 * PAGES + len(all_arms.shown)
    assert served


def test_further_learners_serve_nobody() -> None:
    """They learn and rank what the arms do, and change nothing: an equal one's figures are its arm's."""
    arms = ["popular", "wide", "vw"]
    alone, watched = loop_of(arms), loop_of(arms)
    watched.add_model("same", spec_of_arm(SPEC, "wide"), ["wide"])
    watched.add_model(
        "other", msgspec.structs.replace(SPEC, wide=msgspec.structs.replace(SPEC.wide, alpha=1.0)), ["wide"]
    )
    watched.add_peer("vw-2", peer_rates(SPEC))
    expected, found = run(alone, 150).traffic, run(watched, 150).traffic
    of_arms = columns(expected).keys()
    seen = columns(found)
    assert {name for name in of_arms if seen[name].tobytes() != columns(expected)[name].tobytes()} == set()
    for one, same in ("wide", "same"), ("vw", "vw-2"):
        assert found.predictions[one].tobytes() == found.predictions[same].tobytes()
        assert found.ranked[one].tobytes() == found.ranked[same].tobytes()
    assert not np.array_equal(found.predictions["wide"], found.predictions["other"])
    assert set(np.unique(found.arm)) == {0, 1, 2}


def _asked(request: RankRequest) -> tuple[str, str, int, dict[str, str | float]]:
    return request.request_id, request.user, request.time_ms, request.context


def test_a_sync_interval_changes_what_is_served_not_who_asks() -> None:
    """Users ask for the same pages at the same times, whatever they are shown and however old its version is."""
    often, seldom = (run(loop_of(["wide"], sync_ms=sync_ms), PAGES) for sync_ms in (500, 8_000))
    first, second = ([_asked(request) for request in ran.requests][:PAGES] for ran in (often, seldom))
    assert first == second
    assert not np.array_equal(often.traffic.items[:PAGES], seldom.traffic.items[:PAGES])
    other = run(loop_of(["wide"], seed=1, sync_ms=8_000), PAGES).traffic
    differ = {"arm", "user", "time_ms", "items", "labels", "expected", "oracle", "random", "popular"}
    differ |= {"predictions of wide", *(f"ranked of {name}" for name in ("wide", *REFERENCES))}
    assert differing(seldom.traffic, other) == differ, "another seed is another world"
    assert len({page.version for page in often.pages.values()}) > 2 * len({p.version for p in seldom.pages.values()})


def test_a_frozen_model_publishes_no_more() -> None:
    """After its share of the pages the version stays; predictions go on by what was learned."""
    ran = run(loop_of(["wide"], frozen_from=0.4), PAGES)
    versions = [ran.pages[request.request_id].version for request in ran.requests if request.request_id in ran.pages]
    assert len(set(versions[: PAGES // 3])) > 3
    assert len(set(versions[PAGES // 2 :])) == 1
    late = ran.loop.served["wide"]
    assert late.model.learned > late._learned


def test_a_page_is_predicted_as_its_version_scored_it(all_arms: Ran) -> None:
    """A model predicts a step's pages before it learns from that step: where it served, it says what it served by.

    The deep part serves every place as the first one.
    """
    traffic, pages = all_arms.traffic, all_arms.pages
    ids = [shown.pages.request_id(b) for shown in all_arms.shown for b in range(len(shown.arms))]
    for name in ("wide", "deep", "wide_deep"):
        mine = np.flatnonzero(traffic.arm == ALL_ARMS.index(name))
        served = [n for n in mine.tolist() if ids[n] in pages and pages[ids[n]].version]
        assert len(served) > 20
        scores = np.array([pages[ids[n]].scores for n in served], np.float32)
        places = 10 if name == "wide" else 1
        assert scores[:, :places] == pytest.approx(traffic.predictions[name][served][:, :places], abs=1e-5), name


def test_nothing_beats_the_oracle(all_arms: Ran) -> None:
    """Page by page no arm shows more expected installs than the oracle's page of the same candidates has."""
    traffic = all_arms.traffic
    for arm in range(len(ALL_ARMS)):
        assert (traffic.arm == arm).sum() > 20
    for column in (traffic.expected, traffic.popular, traffic.random):
        assert (column <= traffic.oracle * (1 + 1e-12)).all()
    assert traffic.oracle.mean() > 1.2 * traffic.popular.mean()
    best = np.concatenate([np.sort(shown.probabilities, 1)[:, ::-1][:, :10] for shown in all_arms.shown])
    assert traffic.oracle == pytest.approx(best @ np.arange(1, 11) ** -0.5)


def test_expected_installs_are_those_of_what_was_shown(all_arms: Ran) -> None:
    """By the world's own count; the control's pages have the control's."""
    world, traffic = all_arms.loop.world, all_arms.traffic
    expected = [world.expected_installs(shown.probabilities, shown.shown) for shown in all_arms.shown]
    assert traffic.expected == pytest.approx(np.concatenate(expected))
    control = traffic.arm == ALL_ARMS.index("popular")
    assert np.array_equal(traffic.expected[control], traffic.popular[control])
    assert not np.array_equal(traffic.expected[~control], traffic.popular[~control])
    apps = np.concatenate([np.take_along_axis(shown.pages.candidates, shown.shown, 1) for shown in all_arms.shown])
    assert np.array_equal(traffic.items, apps)


def test_random_is_the_mean_of_random_orders(all_arms: Ran) -> None:
    """What ten random candidates in random order give, over many draws."""
    rng, world = np.random.default_rng(0), all_arms.loop.world
    probabilities = np.concatenate([shown.probabilities for shown in all_arms.shown])
    draws = np.array([
        world.expected_installs(probabilities, np.argsort(rng.random(probabilities.shape), axis=1)[:, :10])
        for _ in range(100)
    ])  # fmt: skip
    errors = draws.std(0) / np.sqrt(len(draws))
    z = (draws.mean(0) - all_arms.traffic.random) / errors
    assert abs(z.mean()) < 4 / np.sqrt(len(z))
    assert z.std() == pytest.approx(1, abs=0.2)


def test_the_truth_is_calibrated(all_arms: Ran) -> None:
    """As many installs as the true probabilities say, within the binomial; labels are those that weren't retracted."""
    traffic, world = all_arms.traffic, all_arms.loop.world
    p = np.concatenate([np.take_along_axis(shown.probabilities, shown.shown, 1) for shown in all_arms.shown])
    p *= world.examination
    installed = np.concatenate([shown.outcomes.installed for shown in all_arms.shown])
    retracted = np.concatenate([shown.outcomes.retracted for shown in all_arms.shown])
    assert abs(installed.sum() - p.sum()) < 3 * np.sqrt((p * (1 - p)).sum())
    assert installed.sum() > 200
    assert np.array_equal(traffic.labels, installed & ~retracted)
    assert retracted.any()
