"""Targets of `thalweg backtest --off-policy`: rules and exploration of a spec, played by the ranker's own code."""

import random
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from producers.source import WorldEvent
from ranker.explore.draws import thompson
from ranker.ranking.selection import FreePlaces, choose
from stream.events.types import Impression, Install, Item
from stream.runtime.errors import SettingsError
from stream.spec.spec import Spec
from stream.spec.spec_file import parse_spec
from tests.support.backtest_world import START_MS
from tests.support.ranked_log import EXPLORE, RULES, SPEC, RankedLog, ranked_log
from thalweg.backtest.contest import ContestConfig
from thalweg.backtest.off_policy import Estimate, EstimateOptions
from thalweg.backtest.off_policy_run import TargetConfig, run_off_policy
from thalweg.backtest.target_policy import page_chances, thompson_with


def estimated(log: RankedLog, spec: Spec, *files: Path, epsilons: list[float] | None = None) -> dict[str, Estimate]:
    """Estimates for the log's version."""
    config = TargetConfig(epsilons or [], files, [log.version])
    return run_off_policy(spec, log.events, ContestConfig(), config, EstimateOptions(resamples=50)).estimates


@pytest.mark.parametrize("kind", ["epsilon", "thompson"])
@pytest.mark.parametrize("rules", ["", RULES])
def test_the_log_s_own_policy_has_weights_of_1(kind: str, rules: str, tmp_path: Path) -> None:
    """A target with the version, the rules and the exploration that filled the pages has a weight of exactly 1 at
    every place: filters, pins, caps, boosts and diversity change what can be drawn as they did in the ranker.
    """
    spec = parse_spec(SPEC + EXPLORE[kind] + rules)
    log, own = ranked_log(spec), tmp_path / "own.toml"
    own.write_text(EXPLORE[kind] + rules)
    found = estimated(log, spec, own, epsilons=[0.9])
    same, other = found["version 1 own"], found["version 1 epsilon=0.9"]
    assert same.pages == 60
    assert same.weight_max == pytest.approx(1, abs=1e-12)
    assert same.of("mean_weight").value == pytest.approx(1, abs=1e-12), "all are 1 if none is above"
    assert same.gain("ips").value == pytest.approx(0, abs=1e-12)
    assert other.effective_pages < 50
    pages = [event for event in log.events if isinstance(event, Impression) and event.propensities]
    logged = np.array([page.propensities for page in pages])
    assert logged.min() < 0.2 < 0.9 > logged.mean()
    if rules:
        pinned = [page.propensities[1] for page in pages if page.items[1] == "i5"]
        assert len(pinned) > 20
        assert pinned == pytest.approx([1] * len(pinned), abs=1e-3), "there's nothing to draw"
        bare = tmp_path / "bare.toml"
        bare.write_text(EXPLORE[kind] + "[rules]\n")
        assert estimated(log, spec, bare)["version 1 bare"].effective_pages < 30


def test_thompson_of_the_learning_model_draws_by_what_it_has_learned(tmp_path: Path) -> None:
    """Without --version a target draws by the sums of the model that learns the log: its chances are those of a
    version of the same moment, whose sums are rounded, so weights are nearly 1 as long as nothing more is learned.
    """
    spec = parse_spec(SPEC + EXPLORE["thompson"])
    log, own = ranked_log(spec, ranked=1), tmp_path / "own.toml"
    own.write_text(EXPLORE["thompson"])
    config = TargetConfig((), [own])
    found = run_off_policy(spec, log.events, ContestConfig(), config, EstimateOptions(resamples=50)).estimates
    assert found["wide,deep own"].weight_max == pytest.approx(1, abs=0.25)
    assert found["wide,deep own"].pages == 1


# A closed world: six items, two of each tag, whose labels depend on the tag alone; pages of two, drawn at random.
RATES = {"a": 0.6, "b": 0.4, "c": 0.1}
CLOSED = """
name = "closed"
[user]
id = "category"
[item]
id = "category"
tag = "category"
[wide]
alpha = 0.5
features = ["item.tag"]
[deep]
features = ["item.tag"]
[label]
policy = "eager"
window = "2s"
"""


def closed_world(pages: int, seed: int = 1) -> list[WorldEvent]:
    """A log of the closed world."""
    draw, names = random.Random(seed), [f"{tag}{i}" for tag in RATES for i in range(2)]
    events: list[WorldEvent] = [Item(name, {"tag": name[0]}) for name in names]
    for n in range(pages):
        shown, at_ms = draw.sample(names, 2), START_MS + 3_000 * n
        events.append(Impression(f"p{n}", at_ms, "u", shown, propensities=[1 / 6, 1 / 5]))
        events += [
            Install("u", item, at_ms + 1_000, f"{n}-{item}", f"p{n}")
            for item in shown
            if draw.random() < RATES[item[0]]
        ]
    return events


@pytest.fixture(scope="module")
def closed_log() -> list[WorldEvent]:
    """A long one. (Of seed 0 the weights come by chance to nine tenths of what they should, two standard errors.)"""
    return closed_world(3_000)


@pytest.mark.parametrize(
    ("rule", "truth"),
    [
        ("", 0.6 + 0.6),
        ('one = { kind = "cap", of = "item.tag", count = 1 }', 0.6 + 0.4),
        ('no_a = { kind = "forbid", of = "item.tag", values = ["a"] }', 0.4 + 0.4),
        ('only_c = { kind = "require", of = "item.tag", values = ["c"] }', 0.1 + 0.1),
        ('first = { kind = "pin", item = "c1", position = 1 }', 0.1 + 0.6),
        ('up = { kind = "boost", of = "item.tag", values = ["b"], factor = 1e6 }', 0.4 + 0.4),
        ('mixed = { kind = "diversity", by = ["item.tag"], strength = 0.99 }', 0.6 + 0.4),
    ],
)
def test_a_rule_earns_what_it_would_have_earned(
    closed_log: list[WorldEvent], rule: str, truth: float, tmp_path: Path
) -> None:
    """In a world whose rates are known each rule's value is known, too: IPS, SNIPS and DR hold it in their intervals,
    which are narrow enough to tell it from what the log earned, and from other rules.
    """
    target = tmp_path / "ruled.toml"
    target.write_text(f"[rules]\n{rule}\n")
    config = TargetConfig((), [target])
    (one,) = run_off_policy(
        parse_spec(CLOSED), closed_log, ContestConfig(["wide"]), config, EstimateOptions(resamples=300)
    ).estimates.values()
    assert one.of("logged").value == pytest.approx(2 * np.mean([*RATES.values()]), abs=0.05)
    for name in ("ips", "snips", "dr"):
        interval = one.of(name)
        assert interval.low < truth < interval.high, name
    assert one.of("dr").high - one.of("dr").low < 0.5
    assert one.effective_pages > 60


def test_what_rules_remove_has_no_chance(closed_log: list[WorldEvent], tmp_path: Path) -> None:
    """Where they leave nothing, the target shows nothing: it earns nothing, and no weight is above 0."""
    target = tmp_path / "nothing.toml"
    target.write_text('[rules]\nnone = { kind = "require", of = "item.tag", values = ["z"] }\n')
    config = TargetConfig((), [target])
    (one,) = run_off_policy(
        parse_spec(CLOSED), closed_log[:300], ContestConfig(["wide"]), config, EstimateOptions(resamples=50)
    ).estimates.values()
    assert (one.of("ips").value, one.of("dr").value, one.weight_max, one.matched) == (0, 0, 0, 0)


def test_a_file_s_tables_stand_before_the_spec_s(tmp_path: Path) -> None:
    """A whole spec of the same model is a target, too; a table that the file lacks is the spec's; epsilon is by the
    spec's own rules.
    """
    spec = parse_spec(SPEC + EXPLORE["epsilon"] + RULES)
    few, whole = tmp_path / "few.toml", tmp_path / "whole.toml"
    few.write_text("[rules]\n")
    whole.write_text(SPEC + EXPLORE["thompson"])
    one, other, third = TargetConfig([0.25], [few, whole]).targets(spec)
    assert (one.name, one.spec.rules, one.spec.explore.epsilon) == ("epsilon=0.25", spec.rules, 0.25)
    assert (other.name, other.spec.rules, other.spec.explore) == ("few", {}, spec.explore)
    assert (third.name, third.spec.rules, third.spec.explore.kind) == ("whole", spec.rules, "thompson")
    assert [target.name for target in TargetConfig().targets(spec)] == ["greedy"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[rules]\nx = { kind = "capp", of = "item.tags", count = 1 }', "line 2.: rules.x: .*did you mean 'cap'"),
        ('[rules]\nx = { kind = "cap", of = "item.tgs", count = 1 }', "'item.tgs' .*did you mean 'item.tags'"),
        ("[rulez]\n", "unknown key 'rulez' .*did you mean 'rules'"),
        ('[explore]\nkind = "tompson"', "did you mean 'thompson'"),
        ('[explore]\nkind = "ucb"', '"ucb" can\'t be estimated: its bounds fall .*"thompson" or "epsilon"'),
        ('[wide]\nfeatures = ["item.tags"]', "wide would make another model.*leave that out"),
        ("[retrieval]\npopular = 7", "isn't played.*leave it out"),
        ("[rules", "not TOML"),
    ],
)
def test_wrong_targets_are_refused(text: str, says: str, tmp_path: Path) -> None:
    """Before anything is played, by file, with line and remedy as a spec's errors."""
    target = tmp_path / "wrong.toml"
    target.write_text(text)
    with pytest.raises(SettingsError, match=f"(?s)--target .*wrong.toml.*{says}"):
        TargetConfig((), [target]).targets(parse_spec(SPEC))


def test_a_missing_file_and_a_name_given_twice_are_refused(tmp_path: Path) -> None:
    """Columns of the table are targets by name."""
    with pytest.raises(SettingsError, match=r"--target .*missing.toml can't be read: No such file"):
        TargetConfig((), [tmp_path / "missing.toml"]).targets(parse_spec(SPEC))
    with pytest.raises(SettingsError, match="named 'greedy': leave one out"):
        TargetConfig([0.0, 0.0]).targets(parse_spec(SPEC))


def test_a_model_that_does_not_know_what_is_uncertain_is_refused(tmp_path: Path) -> None:
    """Thompson sampling needs the wide part, and of a version sums that only such specs publish: why, and a remedy."""
    drawn = tmp_path / "drawn.toml"
    drawn.write_text(EXPLORE["thompson"])
    spec = parse_spec(SPEC + EXPLORE["epsilon"])
    log = ranked_log(spec, learned=20, ranked=3)
    with pytest.raises(SettingsError, match="version 1 has none, since its spec doesn't draw by them: leave --version"):
        estimated(log, spec, drawn)
    config = TargetConfig((), [drawn])
    with pytest.raises(SettingsError, match="--parts deep has no such weights"):
        run_off_policy(spec, log.events, ContestConfig(["deep"]), config, EstimateOptions())


def test_chances_of_pages_are_frequencies_of_the_ranker_s_draws() -> None:
    """Of 20,000 pages of two that Thompson sampling draws each of the six occurs as often as the product of its two
    chances says, within five standard errors.
    """
    keys, deviations = np.array([0.1, 0.08, 0.05]), np.array([0.4, 0.6, 0.9])
    rng, draws = np.random.default_rng(0), 20_000
    drawn = Counter(tuple(choose(keys, 2, draw=thompson(deviations, rng)).order) for _ in range(draws))
    for page in permutations(range(3), 2):
        chances, expected = page_chances(FreePlaces(keys), thompson_with(deviations), page, np.ones(3))
        wanted = chances.prod()
        assert abs(drawn[page] / draws - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / draws)
        assert expected == pytest.approx([1, 1], abs=1e-3), "chances of all candidates sum to 1"
