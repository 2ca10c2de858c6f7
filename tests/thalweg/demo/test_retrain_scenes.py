"""The demo's two retrains: what they run, when they begin and end, and what is said of them."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.runtime.errors import StackError
from stream.spec.spec_file import load_spec
from thalweg.cli.options import SPEC
from thalweg.demo.retrain_scenes import RETRAINS, SCENE_S, SCENES, SLIP, RetrainScenes, Verdict, with_rates
from thalweg.demo.screen import ScreenState

STORE = SPEC.with_name("store.toml")
GOOD = Verdict(True, "", 5_000, 0.97, 0.96, -0.02, 0.0)
WORSE = Verdict(False, "it is worse than the live one", 5_000, 0.97, 7.0, 5.0, 7.0)


class Services:
    """Processes that a test ends, and a learner that takes their verdicts when the test says so."""

    def __init__(self, local: Path) -> None:
        self.local, self.taken = local, 3.0
        self.commands: list[tuple[str, ...]] = []
        self.running = ""

    def start(self, *words: str) -> None:
        """Begin a process."""
        self.commands.append(words)
        self.running = words[0]

    def is_running(self, name: str) -> bool:
        """Whether the test hasn't ended it."""
        return self.running == name

    def metrics(self, _: str) -> dict[str, float]:
        """Of the learner."""
        return {RETRAINS: self.taken}

    def end(self, verdict: Verdict | None) -> None:
        """The process that runs ends, with this verdict."""
        if verdict:
            (self.local / f"{self.running}.json").write_bytes(msgspec.json.encode(verdict))
        self.running = ""


class Monitor:
    """How many pages were shown."""

    def __init__(self) -> None:
        self.state = ScreenState(pages_total=1_000)


class Run:
    """The scenes of a demo that a test plays."""

    def __init__(self, local: Path) -> None:
        self.services, self.monitor, self.lines = Services(local), Monitor(), list[str]()
        services: Any = self.services
        monitor: Any = self.monitor
        self.scenes = RetrainScenes(services, STORE, monitor, self.lines.append)

    def looked(self, pages: int) -> int:
        """Look once; returns how many commands have begun."""
        self.monitor.state.pages = pages
        self.scenes.look()
        return len(self.services.commands)


def test_one_follows_the_other_and_each_ends_when_the_learner_has_taken_its_verdict(tmp_path: Path) -> None:
    """Both come from the commands that users have."""
    run = Run(tmp_path)
    assert [run.looked(299), run.looked(300), run.looked(500)] == [0, 1, 1]
    run.services.end(GOOD)
    assert run.looked(500) == 1
    assert not run.lines, "the learner hasn't taken it"
    run.services.taken += 1
    assert [run.looked(500), run.looked(500)] == [1, 2]
    run.services.taken += 1
    run.services.end(WORSE)
    run.looked(1_000)
    assert run.scenes.done
    assert run.looked(1_000) == 2
    assert [words[:2] for words in run.services.commands] == [(SCENES[0], "retrain"), (SCENES[1], "evolve")]
    assert "it took over; normalised entropy 0.9600, the model before 0.9700" in run.lines[0]
    assert run.lines[1].endswith("refused, it is worse than the live one")
    figures = run.monitor.state.figures
    assert (figures["models_promoted"], figures["models_refused"]) == (1, 1)


def test_a_process_without_a_verdict_or_without_an_end_ends_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the logs."""
    run, now_s = Run(tmp_path), [1_000.0]
    monkeypatch.setattr("thalweg.demo.retrain_scenes.time.monotonic", lambda: now_s[0])
    run.looked(300)
    now_s[0] += SCENE_S + 1
    with pytest.raises(StackError, match=f"isn't done after .* see {tmp_path}"):
        run.looked(400)
    now_s[0] -= 2
    run.services.end(None)
    with pytest.raises(StackError, match="ended without a verdict"):
        run.looked(400)


def test_rates_are_multiplied_and_nothing_else(tmp_path: Path) -> None:
    """The rest of the spec is as it was."""
    old, new = load_spec(STORE), load_spec(with_rates(STORE, SLIP, tmp_path / "spec.toml"))
    assert old.deep.embedding_rate is not None
    rates = {"learning_rate": old.deep.learning_rate * SLIP, "embedding_rate": old.deep.embedding_rate * SLIP}
    assert new == msgspec.structs.replace(old, deep=msgspec.structs.replace(old.deep, **rates))
    without = tmp_path / "without.toml"
    without.write_text(STORE.read_text().replace("learning_rate ", "# "))
    with pytest.raises(StackError, match="has no line"):
        with_rates(without, SLIP, tmp_path / "other.toml")
