"""A backtest: nothing of the future is known, everyone sees the same, and a second run says the same."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from learner.model import Model
from producers.features import FeatureMaker
from stream.errors import DataError
from stream.events import Impression, Install, Tick
from stream.spec import PartName, WarmStart
from tests.thalweg.contests import TEXT, backtested, camps_spec, world, write_lines
from thalweg.backtest import Ours
from thalweg.main import app

EVENTS = world(400)


def test_a_second_run_says_the_same() -> None:
    """Predictions are equal bit for bit, over quantile freezes and warm starts."""
    first, backtest = backtested(EVENTS, ["wide", "deep"])
    second, _ = backtested(EVENTS, ["wide", "deep"])
    assert first.predictions.tobytes() == second.predictions.tobytes()
    ours = backtest.entrants[0]
    assert isinstance(ours, Ours)
    assert ours.model.warm_starts >= 2


def test_a_prediction_knows_nothing_of_what_comes_later() -> None:
    """The first pages are predicted alike whether the world ends after them or goes on; limit counts pages."""
    whole, _ = backtested(EVENTS, ["wide", "deep"])
    part, _ = backtested(EVENTS, ["wide", "deep"], limit=150)
    assert part.pages == 150
    assert part.predictions.tobytes() == whole.predictions[:, : 2 * 150].copy().tobytes()


def test_entrants_are_alone_among_others() -> None:
    """Side by side, each predicts what it predicts on its own."""
    together, _ = backtested(EVENTS, ["wide"], ["deep"], ["wide", "deep"])
    choices: list[list[PartName]] = [["wide"], ["deep"], ["wide", "deep"]]
    for i, parts in enumerate(choices):
        alone, _ = backtested(EVENTS, parts)
        assert alone.predictions[0].tobytes() == together.predictions[i].tobytes()
        assert together.names[i] == ",".join(parts)


def test_it_learns_what_a_learner_learns() -> None:
    """A model with statistics of its own that is given the joiner's records says the same when it learns them."""
    spec = camps_spec()
    maker, records = FeatureMaker(spec, 1), []
    last_ms = max(event.time_ms for event in EVENTS if isinstance(event, Impression | Install))
    for event in [*EVENTS, Tick(last_ms + 8_001)]:
        if told := maker.take(event).examples:
            records.append(told)
    model = Model(spec, 0, lambda offset: iter(records[offset:]))
    for offset, record in enumerate(records):
        model.learn(record, offset)
    scores, _ = backtested(EVENTS, ["wide", "deep"])
    assert scores.arrivals == [model.progress.lifetime().auc]
    assert scores.learned == model.examples > len(scores.labels), "late positives are learned, too"


def test_only_first_labels_are_judged() -> None:
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
    assert scores.untold == 0


def test_the_world_is_learned_and_slices_add_up() -> None:
    """AUC is well above chance; the camps' examples are all examples."""
    scores, _ = backtested(EVENTS, ["wide", "deep"])
    progress = scores.progress(0)
    assert progress.lifetime().auc > 0.7
    camps = [progress.lifetime(f"user.camp={camp}").examples for camp in ("north", "south")]
    assert sum(camps) == progress.lifetime().examples == len(scores.labels)
    assert min(camps) > 0


def test_a_pack_is_one_record() -> None:
    """Events in packs make fewer records of the same examples; so labels are learned later, and micro-batches grow."""
    one, by_one = backtested(EVENTS, ["wide", "deep"])
    packed, by_ten = backtested(EVENTS, ["wide", "deep"], pack=10)
    assert packed.learned == one.learned
    assert by_ten.told.newest < by_one.told.newest / 3
    assert packed.predictions.tobytes() != one.predictions.tobytes()


def test_a_warm_start_finds_the_records_that_it_reads_again() -> None:
    """Though old records are forgotten, and however rarely and far a warm start looks back."""
    spec = camps_spec()
    deep = msgspec.structs.replace(spec.deep, warm_start=WarmStart(every=350, window=330))
    _, backtest = backtested(EVENTS, ["deep"], spec=msgspec.structs.replace(spec, deep=deep))
    ours = backtest.entrants[0]
    assert isinstance(ours, Ours)
    assert ours.model.warm_starts >= 2
    assert len(list(backtest.told.since(ours.model.records[0][0]))) < backtest.told.newest


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
        assert found[f"{name}.examples[user.camp=north]"] < found[f"{name}.examples"] == 120


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["--parts", "narrow"], "--parts takes"),
        (["--peer", "sklearn"], "--peer takes vw, river"),
        (["--policy", "never"], "--policy takes wait, eager, fake_negative"),
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
