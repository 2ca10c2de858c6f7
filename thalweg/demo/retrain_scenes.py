"""Two retrains while a store's demo plays, each judged by the learner's own test: one is to take over, one is not.

The first trains a new model from the live one. The second gives it learning rates that are a hundred times as high,
as a slip in a spec would: `thalweg evolve` drops it, and says why.
"""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from stream.runtime.errors import StackError
from stream.spec.spec_file import load_spec
from thalweg.demo.monitor import DemoMonitor
from thalweg.demo.services import DemoServices

SLIP: Final = 100.0  # by which the second one's learning rates are too high
BEGIN_SHARE: Final = 0.3  # of the pages: by then there is a model to retrain
RATE: Final = re.compile(r"^(\s*(?:learning_rate|embedding_rate)\s*=\s*)([0-9.e+-]+)", re.MULTILINE)
RETRAINS: Final = "thalweg_learner_retrains_total"
SCENES: Final = ("scene-retrain", "scene-evolve")  # processes, which end while the demo goes on
SCENE_S: Final = 120.0  # one that takes longer is stuck


class Verdict(msgspec.Struct):
    """What the commands write to `--json` (`learner/retraining/judgement.py`)."""

    promoted: bool
    reason: str
    examples: int
    live: float
    new: float
    low: float
    high: float


class Scene(NamedTuple):
    """A command and its spec; `name`: of its process; `what` it tries."""

    name: str
    command: str
    spec: Path
    what: str


class RetrainScenes:
    """Runs them one after the other, from a share of the pages on. `report`: prints a line."""

    def __init__(self, services: DemoServices, spec: Path, monitor: DemoMonitor, report: Callable[[str], None]) -> None:
        self._services, self._monitor, self._report = services, monitor, report
        too_fast = with_rates(spec, SLIP, services.local / "too-fast.toml")
        self._figures = monitor.state.figures
        self._figures |= {"models_promoted": 0, "models_refused": 0}
        self._logs = services.local / "logs"
        self._waiting = [
            Scene(SCENES[0], "retrain", spec, "a new model of the same spec"),
            Scene(SCENES[1], "evolve", too_fast, f"a spec with learning rates {SLIP:g} times as high"),
        ]
        self._running: Scene | None = None
        self._taken = self._begun_s = 0.0  # verdicts that the learner had taken when the running one began, and when

    @property
    def done(self) -> bool:
        """Whether both have ended, and the learner has taken their verdicts."""
        return not self._waiting and self._running is None

    def look(self) -> None:
        """Begin the next one, or see what became of it. Raises StackError when it has no verdict, or is stuck."""
        if self._running and time.monotonic() > self._begun_s + SCENE_S:
            raise StackError(f"`thalweg {self._running.command}` isn't done after {SCENE_S:g} s; see {self._logs}")
        if self._running is None:
            if self._waiting and self._monitor.state.pages >= BEGIN_SHARE * self._monitor.state.pages_total:
                self._begin(self._waiting.pop(0))
        elif not self._services.is_running(self._running.name):
            verdict = self._verdict(self._running)
            if self._verdicts_taken() > self._taken:
                self._report(f"{self._running.what}: {words_of(verdict)}")
                name = "models_promoted" if verdict.promoted else "models_refused"
                self._figures[name] = 1 + (self._figures[name] or 0)
                self._running = None

    def _begin(self, scene: Scene) -> None:
        self._running, self._taken, self._begun_s = scene, self._verdicts_taken(), time.monotonic()
        words = ["--spec", str(scene.spec), "--json", str(self._file(scene))]
        self._services.start(scene.name, scene.command, *words)

    def _file(self, scene: Scene) -> Path:
        return self._services.local / f"{scene.name}.json"

    def _verdict(self, scene: Scene) -> Verdict:
        with suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(self._file(scene).read_bytes(), type=Verdict)
        raise StackError(f"`thalweg {scene.command}` ended without a verdict; see {self._logs}")

    def _verdicts_taken(self) -> float:
        return self._services.metrics("learner").get(RETRAINS, 0.0)


def words_of(verdict: Verdict) -> str:
    """A verdict as a line."""
    if not verdict.promoted:
        return f"refused, {verdict.reason}"
    return (
        f"it took over; normalised entropy {verdict.new:.4f}, the model before {verdict.live:.4f}, on the same "
        f"{verdict.examples:,} examples (difference {verdict.low:+.4f} to {verdict.high:+.4f})"
    )


def with_rates(spec: Path, factor: float, path: Path) -> Path:
    """Write a copy of a spec whose deep part's learning rates are multiplied. Raises StackError when it names none."""
    text = RATE.sub(lambda found: f"{found[1]}{float(found[2]) * factor:g}", spec.read_text())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if load_spec(path).deep.learning_rate != load_spec(spec).deep.learning_rate * factor:
        raise StackError(f"{spec} has no line `learning_rate = …` in [deep], which the demo's second retrain needs")
    return path
