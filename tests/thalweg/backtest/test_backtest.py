"""A backtest: nothing of the future is known, everyone sees the same, and a second run says the same."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from learner.publishing.gate_rules import labels_refusal
from learner.retraining.schedule import RetrainSchedule
from learner.training.dedup import NO_SOURCE
from learner.training.model import Model
from producers.features import FeatureBuilder
from producers.source import WorldEvent
from stream.events.types import Erase, Impression, Install, Tick, TrainingEvent
from stream.features.encoder import one_page
from stream.runtime.errors import DataError
from stream.spec.parts import Gate, Policy
from stream.spec.spec import Spec
from stream.spec.values import PartName
from tests.support.backtest_world import START_MS, TEXT, backtested, camps_spec, slow_world, world, write_lines
from thalweg.backtest.entrants import ModelEntrant
from thalweg.backtest.judgement import AS_SHOWN, FIGURES
from thalweg.backtest.peers import PeerRates, River
from thalweg.backtest.plots import curves, reliability
from thalweg.backtest.report import judgements
from thalweg.cli.main import app

EVENTS = world(400)
ERASED_MS = max(event.time_ms for event in EVENTS[:500] if isinstance(event, Impression | Install))
ERASED: list[WorldEvent] = [*EVENTS[:500], Erase("u3", ERASED_MS), *EVENTS[500:]]


def test_a_second_run_says_the_same() -> None:
    """Predictions are equal bit for bit, over quantile freezes and retrains."""
    first, backtest = backtested(EVENTS, ["wide", "deep"])
    second, _ = backtested(EVENTS, ["wide", "deep"])
    assert first.predictions.tobytes() == second.predictions.tobytes()
    ours = backtest.entrants[0]
    assert isinstance(ours, ModelEntrant)
    assert ours.learning.verdicts


def test_a_prediction_knows_nothing_of_what_comes_later() -> None:
    """The first pages are predicted alike whether the world ends after them or goes on; limit counts pages."""
    whole, _ = backtested(EVENTS, ["wide", "deep"])
    part, _ = backtested(EVENTS, ["wide", "deep"], limit=150)
    assert part.pages == 150
    assert part.predictions.tobytes() == whole.predictions[:, : 2 * 150].copy().tobytes()


def test_an_erased_user_is_new_to_model_and_statistics() -> None:
    """Until then all is predicted as if nobody were erased; then the user's pages are those of a stranger."""
    gone = [event for event in ERASED[501:] if getattr(event, "user", "") != "u3"]
    scores, backtest = backtested([*ERASED[:501], *gone], ["wide", "deep"])
    whole, _ = backtested(EVENTS, ["wide", "deep"])
    shown = 2 * sum(isinstance(event, Impression) for event in ERASED[:500])
    assert scores.predictions[:, :shown].tobytes() == whole.predictions[:, :shown].tobytes()
    ours = backtest.entrants[0]
    assert isinstance(ours, ModelEntrant)
    pages = [step for step in ERASED[:500] if isinstance(step, Impression) and step.user == "u3"]
    assert pages
    words = np.frombuffer(FeatureBuilder(camps_spec(), 1).process(pages[0]).event.features, np.uint64)  # type: ignore[union-attr]
    keys = {*ours.model.encoder.wide_keys(one_page(words)).keys.tolist()}
    table = ours.model.wide.table
    of_user = {key for key in keys if key & 255 == 1 + ours.model.encoder.cross_names.index("user.id")}
    assert of_user
    assert not table.contains(np.array([*of_user], np.uint64)).any()
    assert backtest.maker.histories.newest("u3", 9) == []


def test_entrants_are_alone_among_others() -> None:
    """Side by side, each predicts what it predicts on its own."""
    together, _ = backtested(EVENTS, ["wide"], ["deep"], ["wide", "deep"])
    choices: list[list[PartName]] = [["wide"], ["deep"], ["wide", "deep"]]
    for i, parts in enumerate(choices):
        alone, _ = backtested(EVENTS, parts)
        assert alone.predictions[0].tobytes() == together.predictions[i].tobytes()
        assert together.names[i] == ",".join(parts)


@pytest.mark.parametrize("events", [EVENTS, ERASED], ids=["plain", "a user is erased"])
def test_it_learns_what_a_learner_learns(events: list[WorldEvent]) -> None:
    """A model with statistics of its own that is given the joiner's records says the same when it learns them."""
    spec = camps_spec()
    maker, records = FeatureBuilder(spec, 1), list[list[TrainingEvent]]()
    last_ms = max(event.time_ms for event in EVENTS if isinstance(event, Impression | Install))
    for event in [*events, Tick(last_ms + 8_001)]:
        joined = maker.process(event)
        if joined.examples:
            records.append([*joined.examples])
        if isinstance(event, Erase):
            records.append([event])
    learning = RetrainSchedule(Model(spec.without_holdout()))
    for offset, record in enumerate(records):
        (chunk,) = learning.model.record_encoder.of_events([record], [offset], NO_SOURCE)
        learning.learn(chunk, 0, 1)
    model = learning.model
    scores, backtest = backtested(events, ["wide", "deep"])
    ours = backtest.entrants[0]
    assert isinstance(ours, ModelEntrant)
    np.testing.assert_array_equal(
        np.sort(ours.model.wide.table.rows(), axis=0), np.sort(model.wide.table.rows(), axis=0)
    )
    own, theirs = maker.statistics.rows(), model.statistics.rows()
    np.testing.assert_array_equal(own[np.argsort(own[:, 0])], theirs[np.argsort(theirs[:, 0])])
    assert scores.arrivals == [model.progress.lifetime().auc]
    assert scores.learned == model.examples > len(scores.labels), "late positives are learned, too"


def test_labels_after_the_close_are_not_judged() -> None:
    """An install that is logged when its window is over makes a late positive: the judged label stays 0."""
    scores, _ = backtested(EVENTS, ["wide"])
    pages = [event for event in EVENTS if isinstance(event, Impression)]
    rows = {page.request_id: 2 * n for n, page in enumerate(pages)}
    shown = {page.request_id: page.items for page in pages}
    wanted = np.zeros(len(scores.labels), np.float32)
    for event in EVENTS:
        if isinstance(event, Install) and not event.install_id.startswith("late"):
            wanted[rows[event.request_id] + shown[event.request_id].index(event.item)] = 1
    np.testing.assert_array_equal(scores.labels, wanted)
    assert scores.unlabelled == 0


def policies(window: str) -> dict[str, Spec]:
    """The camps' spec under each policy, with this window; late events are known for five minutes."""
    spec = camps_spec(TEXT.replace("alpha = 0.1", "alpha = 0.05").replace("every = 300, window = 100", "every = 3_000"))
    label = msgspec.structs.replace(spec.label, window=window, lateness="40s", known="5m")
    delays = {"delayed_negative": ["10s", "1m", "2m"]}
    return {
        name: msgspec.structs.replace(
            spec, label=msgspec.structs.replace(label, policy=name, delays=delays.get(name, []))
        )
        for name in get_args(Policy)
    }


SLOW = slow_world(4_000)


def test_labels_judged_are_those_at_the_windows_close_under_every_policy() -> None:
    """An install that came in its window counts, unless it was taken back by then, however the joiner tells it."""
    found = {name: backtested(SLOW, ["wide"], spec=spec)[0] for name, spec in policies("3m").items()}
    assert 0.1 < found["wait"].labels.mean() < 0.2
    assert found["wait"].learned < found["eager"].learned < found["fake_negative"].learned
    for name, scores in found.items():
        np.testing.assert_array_equal(scores.labels, found["wait"].labels, name)
        assert scores.auc(0, 4_000) > 0.6, name
    wanted = at_the_close(SLOW, 180_000, 40_000)
    np.testing.assert_array_equal(found["wait"].labels, wanted)
    assert 0.01 < np.mean(at_the_close(SLOW, 10**9, 0) != np.array(wanted)) < 0.1, "much comes later"


def at_the_close(events: Sequence[WorldEvent], window_ms: int, lateness_ms: int) -> list[float]:
    """By hand: who is installed when the first event comes by which the page is over, or at the page's own coming."""
    labels: dict[str, list[float]] = {}
    pages: dict[str, Impression] = {}
    installed: dict[tuple[str, str], set[str]] = {}
    now_ms = 0

    def settle(page: Impression) -> None:
        labels[page.request_id] = [float(bool(installed.get((page.request_id, item)))) for item in page.items]

    for event in events:
        if not isinstance(event, Impression | Install):
            continue
        now_ms = max(now_ms, event.time_ms)
        for over in [page for page in pages.values() if page.time_ms + window_ms <= now_ms - lateness_ms]:
            settle(pages.pop(over.request_id))
        if isinstance(event, Impression):
            pages[event.request_id] = event
            labels[event.request_id] = []
            continue
        shown_ms = START_MS + 3_000 * int(event.install_id.split("-")[0])
        held = installed.setdefault((event.request_id, event.item), set())
        if event.retracted:
            held.discard(event.install_id)
        elif event.time_ms < shown_ms + window_ms:
            held.add(event.install_id)
    for page in pages.values():
        settle(page)
    return [label for one in labels.values() for label in one]


@pytest.mark.parametrize("policy", get_args(Policy))
def test_a_learner_knows_its_rate_and_publishes_under_every_policy(policy: str) -> None:
    """Though installs come minutes after their pages: base rate near the true one, nothing for the gate to refuse."""
    scores, backtest = backtested(SLOW, ["wide", "deep"], spec=policies("15m")[policy])
    ours = backtest.entrants[0]
    assert isinstance(ours, ModelEntrant)
    for figures in (ours.model.progress.lifetime(), ours.model.progress.window()):
        assert figures.base_rate == pytest.approx(float(scores.labels.mean()), rel=0.2)
        assert figures.auc > 0.6
        assert labels_refusal(Gate(), figures) is None
    assert ours.model.progress.lifetime().examples == len(scores.labels)


def test_a_request_id_that_comes_again_is_left_out() -> None:
    """Though the joiner has forgotten the first page with it: its labels stay, and nobody learns the second page."""
    spec = camps_spec()
    told: list[WorldEvent] = [
        Impression("s1", 1_000_000, "u1", ["i1"]), Install("u1", "i1", 1_001_000, "a", "s1"),
        Impression("p2", 1_002_000, "u2", ["i2"]), Install("u2", "i2", 1_003_000, "b", "p2"),
    ]  # fmt: skip
    again = Impression("s1", 1_063_000, "u1", ["i3", "i4"])
    river = River(spec, PeerRates())
    scores, backtest = backtested([*told, again], ["wide"], spec=spec, peers=[river])
    assert scores.labels.tolist() == [1, 1]
    assert (scores.pages, scores.rejected, scores.learned) == (2, 1, 2)
    ours = backtest.entrants[0]
    assert isinstance(ours, ModelEntrant)
    assert ours.model.examples == 2


def test_auc_is_exact() -> None:
    """Of each entrant and slice, and of the curves: pairs in order, equal ones half, however near they are."""
    scores, _ = backtested(EVENTS, ["wide"])
    n = len(scores.labels)
    near = (0.5 + np.arange(n) * 2.0**-23).astype(np.float32)
    assert len(set(near.tolist())) == n, "they're in one bin of the learner's"
    scores.predictions = near[None]
    wanted = {"all": (near, scores.labels)}
    for s, name in enumerate(scores.slices):
        wanted[name] = (near[scores.members[:, s]], scores.labels[scores.members[:, s]])
    for name, (p, y) in wanted.items():
        pairs = np.sign(p[y == 1][:, None].astype(np.float64) - p[y == 0])
        assert scores.figures(0)[name].auc == pytest.approx((1 + pairs.mean()) / 2, abs=1e-12)
    assert curves(scores).total[0, -1] == scores.figures(0)["all"].auc


def test_curves_end_with_the_last_example() -> None:
    """The last point is over all examples, though windows don't divide them; its window is as wide as the others."""
    scores, _ = backtested(EVENTS, ["wide"])
    n = len(scores.labels)
    found = curves(scores)
    assert found.width == 500
    assert found.ends == [500, n]
    assert found.total[0].tolist() == [scores.auc(0, 0, 500), scores.auc(0)]
    assert found.window[0].tolist() == [scores.auc(0, 0, 500), scores.auc(0, n - 500)]
    assert found.label_rate.tolist() == [scores.labels[:500].mean(), scores.labels[n - 500 :].mean()]
    last = scores.predictions[0, n - 500 :].mean() / scores.labels[n - 500 :].mean()
    assert found.calibration[0, -1] == pytest.approx(last)


def test_ranking_is_judged_within_pages_and_sessions() -> None:
    """Pages of two items, users without a pause of half an hour: by hand, in slices too; the order shown is judged as
    well."""
    scores, _ = backtested(EVENTS, ["wide", "deep"])
    judged = judgements(scores)
    for s, of in enumerate([np.ones(len(scores.labels), np.bool_), *scores.members.T]):
        for name, p in (("wide,deep", scores.predictions[0]), (AS_SHOWN, -scores.positions)):
            wins = []
            for first in range(0, len(scores.labels), 2):
                y = scores.labels[first : first + 2]
                if of[first] and y[0] != y[1]:
                    wins.append(np.sign(float(p[first]) - float(p[first + 1])) * np.sign(y[0] - y[1]))
            assert judged[name][s].of("page_auc").value == pytest.approx((1 + np.mean(wins)) / 2)
            assert judged[name][s].groups == (len(wins), len(set(scores.rows.users[of].tolist())))
    whole = judged["wide,deep"][0]
    assert whole.of("page_auc").value > 0.6 > judged[AS_SHOWN][0].of("page_auc").high
    assert whole.of("auc").value == pytest.approx(scores.figures(0)["all"].auc)
    assert whole.of("normalised_entropy").value == pytest.approx(scores.figures(0)["all"].normalised_entropy())
    assert whole.of("auc").low < whole.of("auc").value < whole.of("auc").high


def test_a_reliability_diagram_has_each_example_once() -> None:
    """Bins by rising prediction; equal predictions share one; none is empty."""
    p, y = np.repeat(np.array([0.1, 0.5, 0.9], np.float32), [600, 300, 100]), np.zeros(1_000, np.float32)
    y[600:700] = 1
    found = reliability(p, y)
    assert found.examples.tolist() == [600, 300, 100]
    assert found.predicted == pytest.approx([0.1, 0.5, 0.9])
    assert found.came == pytest.approx([0, 1 / 3, 0])
    random = np.random.default_rng(0).random(10_000, np.float32)
    assert set(reliability(random, np.ones(10_000, np.float32)).examples.tolist()) <= {499, 500, 501}


def test_without_an_install_there_is_no_calibration(tmp_path: Path) -> None:
    """A dash on the screen, and no such figure in the file."""
    spec, source, out = tmp_path / "camps.toml", tmp_path / "events.jsonl", tmp_path / "figures.json"
    spec.write_text(TEXT)
    write_lines(source, [event for event in world(20) if not isinstance(event, Install)])
    words = ["backtest", str(source), "--spec", str(spec), "--parts", "wide", "--json", str(out)]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    assert re.search(r"│ wide .*│ +- │ +40 │", said.output)
    assert "wide.auc" in (found := json.loads(out.read_text()))
    assert "wide.calibration" not in found


def test_the_world_is_learned_and_slices_add_up() -> None:
    """AUC is well above chance; the camps' examples are all examples."""
    scores, _ = backtested(EVENTS, ["wide", "deep"])
    figures = scores.figures(0)
    assert figures["all"].auc > 0.7
    camps = [figures[f"user.camp={camp}"].examples for camp in ("north", "south")]
    assert sum(camps) == figures["all"].examples == len(scores.labels)
    assert min(camps) > 0


def test_a_pack_is_one_record() -> None:
    """Events in packs make fewer records of the same examples; so labels are learned later, and micro-batches grow."""
    one, by_one = backtested(EVENTS, ["wide", "deep"])
    packed, by_ten = backtested(EVENTS, ["wide", "deep"], pack=10)
    assert packed.learned == one.learned
    assert by_ten.log.newest < by_one.log.newest / 3
    assert packed.predictions.tobytes() != one.predictions.tobytes()


def test_without_a_page_there_is_nothing_to_judge() -> None:
    """A source without pages is refused, with a remedy."""
    with pytest.raises(DataError, match="thalweg check"):
        backtested(EVENTS[:5], ["wide"])


def test_the_command_prints_draws_and_writes(tmp_path: Path) -> None:
    """Table and slices on the screen, a PNG, figures by entrant; broken lines are told and left out."""
    spec, source = tmp_path / "camps.toml", tmp_path / "events.jsonl"
    spec.write_text(TEXT)
    write_lines(source, world(60))
    source.write_text(source.read_text() + '{"type":"click"}\n')
    png, figures = tmp_path / "auc.png", tmp_path / "figures.json"
    words = ["backtest", str(source), "--spec", str(spec), "--parts", "wide", "--parts", "deep,wide"]
    said = CliRunner().invoke(app, [*words, "--plot", str(png), "--json", str(figures)])
    assert said.exit_code == 0, said.output
    assert "auc_arrival" in said.output
    assert "user.camp=south" in said.output
    assert png.read_bytes()[:4] == b"\x89PNG"
    found = json.loads(figures.read_text())
    assert found["pages"] == 60
    assert found["broken"] == 1
    for name in ("wide", "wide,deep"):
        assert 0 < found[f"{name}.auc"] < 1
        for key in set(FIGURES) - {"page_hit_rate"}:  # pages of two
            assert found[f"{name}.{key}_low"] <= found[f"{name}.{key}"] <= found[f"{name}.{key}_high"], key
        assert found[f"{name}.page_auc_low[user.camp=north]"] <= found[f"{name}.page_auc[user.camp=north]"]
    assert found["wide,deep.auc_gain"] == pytest.approx(found["wide,deep.auc"] - found["wide.auc"])
    assert found["wide,deep.auc_gain_low"] <= found["wide,deep.auc_gain_high"]
    assert "as_shown.page_auc" in found
    for title in ("figures with intervals", "above wide: 95 %", "page auc by slice", "session auc by slice"):
        assert title in said.output
        assert found[f"{name}.examples[user.camp=north]"] < found[f"{name}.examples"] == 120


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["--parts", "narrow"], "--parts takes"),
        (["--peer", "sklearn"], "--peer takes vw, river"),
        (["--policy", "never"], "--policy takes wait, eager, fake_negative, delayed_negative"),
        (["--parts", "wide,deep", "--parts", "deep,wide"], "--parts deep,wide is given twice"),
        (["--peer", "river", "--peer-rate", "beta1=2"], "--peer-rate takes alpha, beta, l1, l2, river"),
        (["--peer", "river", "--peer-rate", "river=-1"], "--peer-rate takes alpha, beta, l1, l2, river"),
    ],
)
def test_what_it_cannot_do_it_says(tmp_path: Path, words: list[str], remedy: str) -> None:
    """A wrong choice is one line with the right ones."""
    spec, source = tmp_path / "camps.toml", tmp_path / "events.jsonl"
    spec.write_text(TEXT)
    write_lines(source, world(3))
    said = CliRunner().invoke(app, ["backtest", str(source), "--spec", str(spec), *words])
    assert said.exit_code == 1
    assert remedy in said.output


@pytest.mark.parametrize("part", ["wide", "deep"])
def test_a_part_of_which_the_spec_says_nothing_is_refused(tmp_path: Path, part: str) -> None:
    """--parts is checked as the spec's own parts are."""
    other = {"wide": "deep", "deep": "wide"}[part]
    lines = TEXT.replace('name = "camps"', f'name = "camps"\nparts = ["{other}"]').splitlines()
    gone = [line for line in lines if not line.startswith(("crosses", "features"))]
    gone.insert(gone.index(f"[{other}]") + 1, 'features = ["user.id"]')
    spec, source = tmp_path / "camps.toml", tmp_path / "events.jsonl"
    spec.write_text("\n".join(gone))
    write_lines(source, world(3))
    said = CliRunner().invoke(app, ["backtest", str(source), "--spec", str(spec), "--parts", part])
    assert said.exit_code == 1
    assert isinstance(said.exception, SystemExit)
    assert f"--parts {part}" in said.output
    assert f"leave {part} out of parts" in " ".join(said.output.split())
