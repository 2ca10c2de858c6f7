"""`thalweg backtest --off-policy`: from logged pages to estimates of what a model would have earned."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from learner.training.model import Model
from producers.features import CandidatePage, FeatureBuilder
from producers.source import SourceElement, WorldEvent
from ranker.versions.model import Version
from stream.events.types import Impression, Install, Item, RetiredItem, User
from stream.features.page_features import statistics_of
from stream.runtime.errors import DataError, SettingsError
from stream.spec.retrieval import Retrieval
from stream.spec.rules import Installed
from tests.support.backtest_world import START_MS, TEXT, camps_spec, write_lines
from tests.support.learned_models import served_versions
from thalweg.backtest.backtest import Backtest
from thalweg.backtest.contest import ContestConfig
from thalweg.backtest.entrants import ExampleLog, ModelEntrant
from thalweg.backtest.off_policy import EstimateOptions
from thalweg.backtest.off_policy_run import OffPolicy, TargetConfig, run_off_policy
from thalweg.backtest.ruled_candidates import RuledCandidates
from thalweg.cli.main import app

ITEMS = 6
SPEC = camps_spec(
    "\n".join(line for line in TEXT.splitlines() if not line.startswith(("history", "alike", '"user.camp"', "[slices")))
)


def drawn_world(pages: int, seed: int = 1, favour: float = 0.0) -> list[WorldEvent]:
    """Pages of two items of six, drawn; an install with .6 where camp and tag fit, else .1.

    With `favour` the first place shows item 0 with this probability more than at random.
    """
    draw = random.Random(seed)
    events: list[WorldEvent] = [Item(f"i{i}", {"tags": ["cold", "warm"][i % 2]}) for i in range(ITEMS)]
    events += [User(f"u{u}", {"camp": ["north", "south"][u % 2]}) for u in range(8)]
    for n in range(pages):
        user, at_ms = draw.randrange(8), START_MS + 3_000 * n
        first = 0 if draw.random() < favour else draw.randrange(ITEMS)
        second = draw.choice([i for i in range(ITEMS) if i != first])
        chance = (1 - favour) / ITEMS + favour * (first == 0)
        items = [f"i{first}", f"i{second}"]
        events.append(Impression(f"p{n}", at_ms, f"u{user}", items, propensities=[chance, 1 / (ITEMS - 1)]))
        for i in (first, second):
            if draw.random() < (0.6 if i % 2 == user % 2 else 0.1):
                events.append(Install(f"u{user}", f"i{i}", at_ms + 1_000, f"{n}-{i}", f"p{n}"))
    return events


def judged(events: list[WorldEvent], *epsilons: float, versions: Sequence[Version] = ()) -> OffPolicy:
    """Estimates for the wide part alone."""
    targets = TargetConfig(epsilons, (), versions)
    return run_off_policy(SPEC, events, ContestConfig(["wide"]), targets, EstimateOptions(resamples=200))


def without_propensities(event: WorldEvent) -> WorldEvent:
    """The event, a page without its propensities."""
    return msgspec.structs.replace(event, propensities=[]) if isinstance(event, Impression) else event


WORLD = drawn_world(1_500, seed=3, favour=0.3)


def test_a_model_earns_what_it_would_have_earned() -> None:
    """Two items that fit are on the greedy model's pages, 1.2 installs, though the log's have .7: all estimators
    say so; the policy that drew the second place, and nearly the first, has weights near 1 and earns what was logged.
    """
    found = judged(WORLD, 0.0, 1.0).estimates
    greedy, drawn = found["wide greedy"], found["wide epsilon=1"]
    assert greedy.of("logged").value == pytest.approx(0.7, abs=0.05)
    for name in ("ips", "snips", "dr"):
        interval = greedy.of(name)
        assert interval.low < 1.2 < interval.high, name
        assert interval.low > 0.8, name
    assert greedy.gain("snips").low > 0
    assert drawn.of("snips").value == pytest.approx(0.7, abs=0.05)
    assert drawn.effective_pages > 1_000 > 5 * greedy.effective_pages
    assert greedy.of("mean_weight").low < 1 < greedy.of("mean_weight").high


def test_it_is_reproducible() -> None:
    """A second run gives the same bits."""
    first, again = (judged(WORLD[:600], 0.1).estimates["wide epsilon=0.1"] for _ in range(2))
    assert first.resampled.tobytes() == again.resampled.tobytes()


def test_propensities_that_lie_are_noticed() -> None:
    """If item 0 was favoured and the log denies it, weights are no longer 1 on average."""
    denied = [
        msgspec.structs.replace(event, propensities=[1 / ITEMS, 0.2]) if isinstance(event, Impression) else event
        for event in drawn_world(1_500, favour=0.8)
    ]
    weight = judged(denied, 0.0).estimates["wide greedy"].of("mean_weight")
    assert not weight.low <= 1 <= weight.high


def test_pages_without_propensities_are_left_out() -> None:
    """They are learned and counted, and estimates are of the others; so are pages with invalid ones."""
    events = [without_propensities(event) if n % 4 == 0 else event for n, event in enumerate(WORLD[:600])]
    events += [Impression("bad", START_MS + 10**7, "u0", ["i0", "i1"], propensities=[0.0, 0.5])]
    without = sum(isinstance(event, Impression) and not event.propensities for event in events)
    found = judged(events, 0.1)
    assert found.pages == sum(isinstance(event, Impression) for event in events)
    assert found.pages - found.estimates["wide epsilon=0.1"].pages == without + 1 > 50


def test_a_log_without_propensities_is_refused() -> None:
    """The error says what is missing, why it matters, and how to get it."""
    with pytest.raises(DataError, match=r"(?s)propensities.*what others would have earned.*\[explore\]"):
        judged([without_propensities(event) for event in WORLD[:50]], 0.0)


def test_a_log_of_certainties_is_refused() -> None:
    """As `ucb` writes it."""
    certain = [
        msgspec.structs.replace(event, propensities=[1.0, 1.0]) if isinstance(event, Impression) else event
        for event in WORLD[:50]
    ]
    with pytest.raises(DataError, match="without drawing"):
        judged(certain, 0.0)


@pytest.fixture(scope="module")
def version() -> Version:
    """A version that has learned the first pages of the world."""
    builder = FeatureBuilder(SPEC, 1)
    log = [examples for event in WORLD[:1_200] if (examples := builder.process(event).examples)]
    (*_, (_, found)) = served_versions(Model(SPEC.without_holdout()), log)
    return found


def test_a_published_version_is_judged_by_pages_that_it_has_not_learned(version: Version) -> None:
    """It learns nothing, shows what fits, and earns some 1.15 installs on a page after its watermark."""
    one = judged(WORLD, 0.1, versions=[version]).estimates[f"version {version.number} epsilon=0.1"]
    later = [
        event for event in WORLD if isinstance(event, Impression) and event.time_ms > version.manifest.watermark_ms
    ]
    assert one.pages == len(later) < 1_200
    assert 0.8 < one.of("snips").low < 1.15 < one.of("snips").high


def test_a_version_without_later_pages_is_refused(version: Version) -> None:
    """With the remedy."""
    with pytest.raises(DataError, match="older version"):
        judged(WORLD[:1_000], 0.1, versions=[version])


def test_a_version_of_another_spec_is_refused(version: Version) -> None:
    """Its columns aren't those of the pages."""
    with pytest.raises(SettingsError, match=f"version {version.number} was made by a spec with other columns"):
        run_off_policy(camps_spec(), WORLD[:20], ContestConfig(), TargetConfig(versions=[version]), EstimateOptions())


@pytest.mark.parametrize(("epsilon", "clip", "says"), [(1.5, 10.0, "--epsilon"), (0.1, 0.0, "--clip")])
def test_options_out_of_range_are_refused(epsilon: float, clip: float, says: str) -> None:
    """Before anything is played."""
    with pytest.raises(SettingsError, match=says):
        run_off_policy(SPEC, WORLD[:20], ContestConfig(["wide"]), TargetConfig([epsilon]), EstimateOptions(clip=clip))


def test_candidates_are_what_was_known_before_the_page() -> None:
    """Items described or shown earlier, in that order; a page's own new item isn't one, but is predicted, too."""
    builder = FeatureBuilder(SPEC, 1, RuledCandidates([SPEC]))
    for i in range(2):
        builder.process(Item(f"i{i}", {"tags": "cold"}))
    first = builder.process(Impression("p0", START_MS, "u0", ["new", "i1"])).candidates
    second = builder.process(Impression("p1", START_MS + 1, "u0", ["i0"])).candidates
    assert isinstance(first, CandidatePage)
    assert isinstance(second, CandidatePage)
    assert (first.size, first.shown, int(first.words[1])) == (2, [2, 1], 3)
    assert (second.size, second.shown, int(second.words[1])) == (3, [0], 3)


def test_a_retired_item_is_no_candidate() -> None:
    """Though it was shown, and is shown again, until it's described again."""
    candidates, found = RuledCandidates([SPEC]), list[list[str]]()

    def noted(features: FeatureBuilder, page: Impression) -> list[str]:
        found.append(candidates(features, page))
        return found[-1]

    pages = [Impression(f"p{n}", START_MS + n, "u0", ["i0", "i1"]) for n in range(3)]
    events: list[SourceElement] = [Item("i0"), Item("i1"), RetiredItem("i0"), *pages[:2], Item("i0"), pages[2]]
    backtest = Backtest(SPEC, [ModelEntrant(SPEC, ["wide"], 0)], ExampleLog(), 1, noted)
    backtest.run(candidates.watched(events))
    assert [sorted(names) for names in found] == [["i1"], ["i1"], ["i0", "i1"]]


def test_a_spec_whose_pages_retrieval_orders_is_refused() -> None:
    """Its rank_weight isn't played, so no target would be its ranker: why, and what can be estimated."""
    spec = msgspec.structs.replace(SPEC, retrieval=Retrieval(rank_weight=2.0))
    with pytest.raises(SettingsError, match=r"rank_weight.*isn't played.*rank_weight = 0"):
        run_off_policy(spec, WORLD[:20], ContestConfig(["wide"]), TargetConfig(), EstimateOptions())


def test_candidates_have_the_statistics_of_the_page_s_time() -> None:
    """The shown items' features among the candidates are those of the page itself."""
    builder, compared = FeatureBuilder(SPEC, 1, RuledCandidates([SPEC])), 0
    for event in WORLD[:300]:
        joined = builder.process(event)
        if isinstance(joined.event, Impression) and joined.candidates:
            n = len(SPEC.statistics)
            own = statistics_of(builder.layout, np.frombuffer(joined.event.features, np.uint64))[1:].reshape(-1, n)
            among = statistics_of(builder.layout, joined.candidates.words)[1:].reshape(-1, n)
            np.testing.assert_array_equal(among[joined.candidates.shown], own)
            compared += int((own != 0).any())
    assert compared > 50


def test_who_has_an_item_is_not_shown_it_again() -> None:
    """Where the spec has a history, targets don't show a user's items, nor under a rule `installed` where it has none;
    unless that rule is of none.
    """
    again, all_ = ({"owned": Installed(of=of)} for of in ("none", "all"))
    plain, with_history = SPEC, camps_spec()
    specs = [plain, with_history] + [
        msgspec.structs.replace(spec, rules=rules) for spec in (plain, with_history) for rules in (again, all_)
    ]
    found = []
    for spec in specs:
        candidates = RuledCandidates([spec])
        builder = FeatureBuilder(spec, 1, candidates)
        for i in range(3):
            builder.process(Item(f"i{i}"))
        builder.process(Install("u0", "i1", START_MS, "a"))
        page = Impression("p", START_MS + 1, "u0", ["i2"])
        builder.process(page)
        (ruled,) = candidates.take(page)
        found.append([name for name, free in zip(ruled.items.names, ruled.free, strict=True) if free])
    everything, rest = ["i0", "i1", "i2"], ["i0", "i2"]
    assert found == [everything, rest, everything, rest, everything, rest]


def test_the_command_prints_and_writes_it(tmp_path: Path) -> None:
    """Estimates by target with the weights they stand on; the same in the file."""
    source, spec, report = tmp_path / "events.jsonl", tmp_path / "camps.toml", tmp_path / "found.json"
    write_lines(source, WORLD[:600])
    spec.write_text("\n".join(line for line in TEXT.splitlines() if not line.startswith(("history", "alike"))))
    words = ["backtest", str(source), "--spec", str(spec), "--parts", "wide", "--off-policy", "--epsilon", "0.2"]
    said = CliRunner().invoke(app, [*words, "--clip", "20", "--json", str(report)])
    assert said.exit_code == 0, said.output
    assert "wide epsilon=0.2" in said.stdout
    found = json.loads(report.read_text())
    assert found["wide epsilon=0.2.snips_low"] < found["wide epsilon=0.2.snips"] < found["wide epsilon=0.2.snips_high"]
    assert found["clip"] == 20 >= found["wide epsilon=0.2.weight_max"]
    assert found["wide epsilon=0.2.clipped"] > 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--off-policy", "--peer", "vw"], "--peer and --off-policy don't go together"),
        (["--epsilon", "0.1"], "--epsilon goes with --off-policy only"),
        (["--clip", "5"], "--clip goes with --off-policy only"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words: list[str], says: str) -> None:
    """With the one that is to be left out."""
    said = CliRunner().invoke(app, ["backtest", "openbandit", *words])
    assert said.exit_code == 1
    assert says in " ".join(said.output.split())
