"""Alarms of drift: how many a perfect model raises under a daily wave, and how soon one is raised after a turn.

A made-up stream: pages of ten items, each with an effect on the log-odds (normal, deviation .8) beside those of a label
rate that doubles in the evening and halves at night. The model predicts the true probability; it is perfect, and no
alarm is right. Then effects turn into their opposite, half of them do, or none has a meaning any more, while the model
predicts as before: the alarm is due, and its delay is counted in positives and examples.

Peer: River's ADWIN over records' mean log losses, which called warm starts in earlier builds.
"""

import statistics
from collections.abc import Iterator
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from river.drift import ADWIN

from learner.training.drift import DriftDetector
from learner.training.negative_sampling import Multiplicities
from stream.spec.parts import Drift
from stream.tables.dtypes import F32, F64

RATES: Final = (0.05, 0.01, 0.001)
POSITIVES_A_DAY: Final = 1_000
BUSY: Final = 20_000  # positives a day at the first rate
DAYS, QUICK_DAYS = 30, 3
EFFECT: Final = 0.8
HOURS_DIFFER: Final = 0.2  # by how much effects are stronger in the evening and weaker at night
PAGE: Final = 10
DAY_MS: Final = 86_400_000
CHUNK: Final = 100_000
TURNS: Final = {"turned": -1.0, "half of them turned": 0.0, "without a meaning": 0.0}
TRIALS, QUICK_TRIALS = 20, 2
SEEDS: Final = 3


def stream(rate: float, days: float, per_day: int, seed: int, turn: str = "", first: int = 0,
           hours: float = 0.0) -> Iterator[
    tuple[F32, F32, F64]
]:  # fmt: skip
    """Predictions and labels of a perfect model, or of one after the world's turn, in chunks."""
    draw, n, end = np.random.default_rng((seed, round(1 / rate), bool(turn))), first, first + round(days * per_day)
    while n < end:
        count = min(CHUNK, end - n)
        day = (n + np.arange(count)) / per_day
        wave = np.log(rate) + np.log(2.0) * np.sin(2 * np.pi * day)
        effects = draw.normal(0.0, EFFECT, count) * (1 + hours * np.sin(2 * np.pi * day + 1))
        true = effects
        if turn == "half of them turned":
            true = effects * np.where(draw.random(count) < 0.5, -1.0, 1.0)
        elif turn:
            true = effects * TURNS[turn]
        predicted = 1 / (1 + np.exp(-(wave + effects)))
        labels = draw.random(count) < 1 / (1 + np.exp(-(wave + true)))
        yield predicted.astype(np.float32), labels.astype(np.float32), day * DAY_MS
        n += count


class Ours:
    """The learner's detector."""

    def __init__(self) -> None:
        self._detector = DriftDetector(Drift(action="forget"))
        self.alarms = 0

    def add(self, predictions: F32, labels: F32, times_ms: F64) -> int:
        """Returns how many examples were added when an alarm was raised first; 0: none was."""
        found = 0
        for first in range(0, len(labels), 500):
            few = slice(first, first + 500)
            n = len(labels[few])
            counts = Multiplicities(np.ones(n, np.float32), np.zeros(n, np.float32), np.ones(n, np.bool_))
            self._detector.add(predictions[few], labels[few], times_ms[few], counts, np.zeros((n, 0), np.bool_))
            if self._detector.alarms:
                self.alarms += len(self._detector.alarms)
                self._detector.alarms.clear()
                found = found or first + n
            if self._detector.is_due():
                self._detector.take_due()
        return found


class Adwin:
    """River's ADWIN over pages' mean log losses."""

    def __init__(self) -> None:
        self._adwin = ADWIN(delta=0.002, clock=32)  # type: ignore[no-untyped-call]  # River's has no types
        self.alarms = 0

    def add(self, predictions: F32, labels: F32, times_ms: F64) -> int:
        """As `Ours`."""
        p = np.where(labels > 0.5, predictions, 1 - predictions).astype(np.float64)
        found, losses = 0, -np.log(p)[: len(p) // PAGE * PAGE].reshape(-1, PAGE).mean(axis=1)
        for page, loss in enumerate(losses.tolist(), 1):
            before = self._adwin.estimation
            self._adwin.update(loss)  # type: ignore[no-untyped-call]
            if self._adwin.drift_detected and self._adwin.estimation > before:
                self.alarms += 1
                found = found or page * PAGE
        return found


def false_alarms(rate: float, per_day: int, days: int, seed: int, hours: float = 0.0) -> tuple[int, int]:
    """Of both detectors, on a perfect model."""
    ours, adwin = Ours(), Adwin()
    for chunk in stream(rate, days, per_day, seed, hours=hours):
        ours.add(*chunk)
        adwin.add(*chunk)
    return ours.alarms, adwin.alarms


def delay(rate: float, turn: str, seed: int) -> tuple[float, float]:
    """Positives and examples from the turn to the alarm; infinite when there's none within ten days."""
    ours, per_day = Ours(), round(POSITIVES_A_DAY / rate)
    before = 3.0 + seed / TRIALS
    for chunk in stream(rate, before, per_day, seed):
        ours.add(*chunk)
    positives = examples = 0.0
    for predictions, labels, times_ms in stream(rate, 10, per_day, seed, turn, round(before * per_day)):
        if found := ours.add(predictions, labels, times_ms):
            return positives + float(labels[:found].sum()), examples + found
        positives, examples = positives + float(labels.sum()), examples + len(labels)
    return float("inf"), float("inf")


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    days, trials, seeds = (QUICK_DAYS, QUICK_TRIALS, 1) if quick else (DAYS, TRIALS, SEEDS)
    heads = ["rate", "positives a day", "effects by hour ±", "false alarms", "ADWIN's", *(f"found: {t}" for t in TURNS)]
    table = Table(*heads, title=f"alarms of a perfect model in {days} days, and delays in positives, in examples")
    figures: dict[str, float] = {}
    todo = [(rate, POSITIVES_A_DAY, 0.0) for rate in RATES] + [(RATES[0], BUSY, 0.0), (RATES[0], BUSY, HOURS_DIFFER)]
    for rate, positives, hours in todo:
        name, per_day, shown = f"{100 * rate:g}%", round(positives / rate), Console(stderr=True)
        found = [
            false_alarms(rate, per_day, days, seed, hours)
            for seed in track(range(seeds), f"false alarms, {name}, {positives:,} a day", console=shown)
        ]
        ours, adwin = (statistics.mean(alarms) for alarms in zip(*found, strict=True))
        cells = []
        if positives == POSITIVES_A_DAY:
            for turn in TURNS:
                todo_of = track(range(trials), f"{turn}, {name}", console=shown)
                counted, examples = (
                    statistics.median(column)
                    for column in zip(*(delay(rate, turn, seed) for seed in todo_of), strict=True)
                )
                cells.append(f"{counted:,.0f}, {examples:,.0f}")
                figures[f"delay_positives_{turn.split()[0]}_{name}"] = counted
                figures[f"delay_examples_{turn.split()[0]}_{name}"] = examples
        of = name if positives == POSITIVES_A_DAY else "hours" if hours else "busy"
        figures |= {f"false_alarms_{of}": ours, f"false_alarms_adwin_{of}": adwin}
        table.add_row(name, f"{positives:,}", f"{hours:.0%}", f"{ours:.1f}", f"{adwin:.1f}", *cells)
    return table, figures
