"""What a changed spec costs: evolving a model against learning the new spec from scratch, on MovieLens-100k.

The old model has learned 90,000 examples without a column and a cross that the new spec has. It is evolved: carried
over, then trained on a window of pages that were logged without the column, which is read from what is known of users
and items, as `thalweg evolve` does. Scratch has learned the new spec from the first example on, from pages that had the
column. Then all learn the same next 10,000 examples, each predicted before it is learned.

* `time_ratio`: time until the evolved model's AUC on the next 10,000 is within .001 of scratch's, over scratch's time
  for 90,000. The shortest of WINDOWS that does it counts. It includes restoring, carrying over, translating, encoding.
* `evolve_gap`: of a model with one column added (no cross) after 85,000 examples, without any window: scratch's AUC
  less its own, on the 10,000 after the next 5,000.
* `retrain_slowdown`: examples a second that are learned while another process retrains at low priority, over those
  without, on two cores.

Means over SEEDS of the tower's first weights. The column and cross of the first change have few keys; those of `genres`
are what every user has to teach again.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from rich.table import Table

from learner.checkpoints.checkpoint import Checkpoint, restore, take
from learner.retraining.carry_over import carry_over
from learner.retraining.retrain_process import NICENESS
from learner.retraining.translated_window import WindowTranslation
from learner.retraining.window import encoded_window, train_on_window
from learner.training.model import Model
from producers.features import FeatureBuilder
from producers.movielens import fetch_movielens, read_movielens
from producers.source import WorldEvent
from stream.events.codec import encode_record
from stream.events.topics import EXAMPLES
from stream.events.types import Item, User, Value
from stream.features.page_translation import Attributes
from stream.log.protocol import Record
from stream.runtime.settings import Settings
from stream.spec.spec import Spec
from stream.spec.spec_file import parse_spec
from stream.tables.dtypes import F32
from thalweg.backtest.backtest import exact_auc

SEEDS: Final = 5
ROUNDS: Final = 7  # with and without a retrain, in turn
LEARNED, JUDGED, AFTER = 90_000, 10_000, 5_000  # examples
QUICK: Final = 5  # share of the above is 1 / QUICK
WINDOWS: Final = (0, 1_000, 2_000, 5_000, 10_000, 20_000)
WITHIN: Final = 0.001  # of AUC
CHUNK: Final = 128  # records
SPEC: Final = Path("specs/movielens.toml")
AGE: Final = {  # what the old spec lacks
    'age        = { type = "number", bands = [18, 25, 35, 45, 50, 56] }   # gives user.age_band too\n': "",
    '"user.age", ': "",
    '  ["item.id", "user.age_band"],\n': "",
}
GENRES: Final = {'"item.genres", ': "", '  { of = ["user.id", "item.genres"], alpha = 0.15 },\n': ""}
COLUMN: Final = {'"item.genres", ': ""}


class World(NamedTuple):
    """The log under one spec. `ends`: examples up to each record, i64[R]."""

    spec: Spec
    records: list[Record]
    ends: "np.ndarray[tuple[int], np.dtype[np.int64]]"

    def record_at(self, examples: int) -> int:
        """The first record after so many examples."""
        return int(np.searchsorted(self.ends, examples, side="right"))


def spec_without(changes: Mapping[str, str]) -> Spec:
    """MovieLens' spec without some of its lines."""
    text = SPEC.read_text()
    for there, other in changes.items():
        assert there in text, there
        text = text.replace(there, other)
    return parse_spec(text)


@cache
def events() -> tuple[list[WorldEvent], Attributes]:
    """All events, and what is known of users and items at the end."""
    found = list(read_movielens(fetch_movielens(Settings.load(with_stack=False).data, print)))
    items = {one.item: one for one in found if isinstance(one, Item)}
    users: dict[str, dict[str, Value]] = {one.user: one.attributes for one in found if isinstance(one, User)}
    return found, Attributes(lambda user: users.get(user, {}), items.get)


def world_of(spec: Spec, examples: int) -> World:
    """The records of at least so many examples, with the features of this spec."""
    maker, records, ends, count = FeatureBuilder(spec, 1), list[Record](), list[int](), 0
    for event in events()[0]:
        emitted = maker.process(event).examples
        if emitted:
            count += sum(len(one.ids) for one in emitted)
            records.append(Record(EXAMPLES.name, 0, len(records), 0, None, encode_record(emitted)))
            ends.append(count)
        if count >= examples:
            break
    return World(spec, records, np.array(ends, np.int64))


def learn(model: Model, records: Sequence[Record]) -> None:
    """As the learner does."""
    for first in range(0, len(records), CHUNK):
        for chunk in model.record_encoder.records(records[first : first + CHUNK]):
            for a, b in model.steps(chunk):
                model.learn_records(chunk, a, b)


def auc_of(model: Model, records: Sequence[Record]) -> float:
    """AUC of these records' examples, each predicted before it is learned."""
    predictions, labels = list[F32](), list[F32]()

    def hear(_ids: object, p: F32, y: F32, *_: object) -> None:
        predictions.append(p.copy())
        labels.append(y.copy())

    model.on_predicted = hear
    learn(model, records)
    model.on_predicted = None
    return exact_auc(np.concatenate(predictions), np.concatenate(labels))


def timed(work: Callable[[], Model]) -> tuple[Model, float]:
    """What it returns, and its seconds."""
    begun = time.perf_counter()
    return work(), time.perf_counter() - begun


def evolved(checkpoint: Checkpoint, old: World, new: Spec, window: int, until: int, seed: int) -> Model:
    """As `RetrainJob` begins: a model of the new spec, by the old one's checkpoint and the log before a record."""
    live = restore(old.spec, checkpoint, seed)
    records = old.records[old.record_at(int(old.ends[until - 1]) - window) if window else until : until]
    model = carry_over(live, new, seed)
    if window:
        translation = WindowTranslation(new, [old.spec], events()[1])
        train_on_window(model, encoded_window(model, translation.translate(records, live, model)))
    return model


class Found(NamedTuple):
    """Of one seed."""

    scratch: float
    scratch_s: float
    old: float
    warm: dict[int, float]  # by window
    warm_s: dict[int, float]


def compare(old: World, new: World, learned: int, judged: int, windows: Sequence[int], seed: int) -> Found:
    """Scratch, the old spec, and the evolved model by window; AUC of the next `judged`."""
    cut, end = new.record_at(learned), new.record_at(learned + judged)
    assert (old.ends == new.ends).all(), "both specs' logs have the same records"

    def from_scratch() -> Model:
        model = Model(new.spec, seed)
        learn(model, new.records[:cut])
        return model

    scratch, scratch_s = timed(from_scratch)
    before = Model(old.spec, seed)
    learn(before, old.records[:cut])
    checkpoint = take(before, cut, 0, 0)
    warm, warm_s = dict[int, float](), dict[int, float]()
    for window in windows:
        model, warm_s[window] = timed(lambda w=window: evolved(checkpoint, old, new.spec, w, cut, seed))  # type: ignore[misc]
        warm[window] = auc_of(model, new.records[cut:end])
    rest = new.records[cut:end], old.records[cut:end]
    return Found(auc_of(scratch, rest[0]), scratch_s, auc_of(before, rest[1]), warm, warm_s)


def gap(old: World, new: World, learned: int, after: int, judged: int, seed: int) -> float:
    """Scratch's AUC less the evolved model's, after `after` more examples, with one column added."""
    cut, then, end = (new.record_at(n) for n in (learned, learned + after, learned + after + judged))
    scratch, before = Model(new.spec, seed), Model(old.spec, seed)
    learn(scratch, new.records[:then])
    learn(before, old.records[:cut])
    model = carry_over(before, new.spec, seed)
    learn(model, new.records[cut:then])
    return auc_of(scratch, new.records[then:end]) - auc_of(model, new.records[then:end])


def slowdown(world: World, learned: int) -> float:
    """Examples a second while a niced process trains on and on, over those while it is stopped; median of ROUNDS."""
    cut = world.record_at(learned)
    model = Model(world.spec)
    learn(model, world.records[:cut])
    checkpoint = take(model, cut, 0, 0)

    def rate() -> float:
        again = restore(world.spec, checkpoint)
        begun = time.perf_counter()
        learn(again, world.records[cut:])
        return (int(world.ends[-1]) - learned) / (time.perf_counter() - begun)

    command = [sys.executable, "-c", f"from benchmarks.warm_start import train_forever; train_forever({learned})"]
    ratios: list[float] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(ROUNDS):
            process.send_signal(signal.SIGSTOP)
            alone = rate()
            process.send_signal(signal.SIGCONT)
            ratios.append(rate() / alone)
        process.kill()
    return float(np.median(ratios))


def train_forever(learned: int) -> None:
    """A retrain without an end, at a retrain's priority."""
    os.nice(NICENESS)
    world = world_of(spec_without({}), learned // 4)
    model = Model(world.spec)
    learn(model, world.records)
    print("trains", flush=True)
    while True:
        train_on_window(model, encoded_window(model, world.records))


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    part = QUICK if quick else 1
    seeds = 1 if quick else SEEDS
    learned, judged, after = LEARNED // part, JUDGED // part, AFTER // part
    new = world_of(spec_without({}), learned + judged)
    rows: dict[str, list[Found]] = {}
    for name, changes in (("age", AGE), ("genres", GENRES)):
        old = world_of(spec_without(changes), learned + judged)
        compare(old, new, learned // 4, judged // 4, WINDOWS[:2], 0)  # everything is compiled
        windows = [window // part for window in WINDOWS]
        rows[name] = [compare(old, new, learned, judged, windows, seed) for seed in range(seeds)]
        print(f"{name}: {seeds} seeds", file=sys.stderr, flush=True)
    old = world_of(spec_without(COLUMN), learned + judged)
    gaps = [gap(old, new, learned - after, after, judged, seed) for seed in range(seeds)]
    figures = {"evolve_gap": float(np.mean(gaps)), "retrain_slowdown": slowdown(new, learned)}
    table = Table(
        "",
        "AUC",
        "after window of",
        "time, s",
        "of scratch's",
        title=f"MovieLens, {learned:,} examples, then {judged:,}",
    )
    for name, found in rows.items():
        prefix = "" if name == "age" else f"{name}_"
        figures |= {f"{prefix}{key}": value for key, value in _add_rows(table, name, found).items()}
    table.caption = (
        f"one column added, {after:,} examples later: {figures['evolve_gap']:+.4f} below scratch; "
        f"throughput beside a retrain: {figures['retrain_slowdown']:.2f} of that without"
    )
    return table, figures


def _add_rows(table: Table, name: str, found: Sequence[Found]) -> dict[str, float]:
    """The rows of one change; `time_ratio` and `window` are of the first window within WITHIN, if there is one."""
    scratch, scratch_s = np.mean([of.scratch for of in found]), np.mean([of.scratch_s for of in found])
    old = np.mean([of.old for of in found])
    table.add_row(f"{name}: from scratch", f"{scratch:.4f}", "", f"{scratch_s:.2f}", "1")
    table.add_row(f"{name}: the old spec", f"{old:.4f}", "", "", "")
    figures = {"auc_scratch": float(scratch), "auc_old_spec": float(old)}
    for window in found[0].warm:
        auc, seconds = np.mean([of.warm[window] for of in found]), np.mean([of.warm_s[window] for of in found])
        table.add_row(f"{name}: evolved", f"{auc:.4f}", f"{window:,}", f"{seconds:.2f}", f"{seconds / scratch_s:.3f}")
        if auc >= scratch - WITHIN and "time_ratio" not in figures:
            figures |= {"time_ratio": float(seconds / scratch_s), "window": float(window)}
        figures["auc_evolved"] = float(auc)  # after the longest window
    return figures
