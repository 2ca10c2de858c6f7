"""What held-out examples find, what they let pass, and what holding them out costs.

verdicts   made-up courses of held-out pages of ten at 5, 1, 0.1 % positives: models with planted faults must be
           `worse`, good ones never, a world that turns, triples its rate, or has bots among them; 300 trials each,
           by the positives in the window. A course of 20 windows of good models, judged whenever it's due, counts
           as one trial
learning   the learner's step from bytes to weights, with a hundredth held out and with nothing, interleaved
anchor     the longest pause while a model's scoring state is copied, by keys
MovieLens  AUC of the shipped spec at page time, with shares held out; peers learn all
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from rich.console import Group, RenderableType
from rich.progress import track
from rich.table import Table

from benchmarks.held_out_course import Course
from benchmarks.learn_world import labelled_pages, records_of, world_spec
from learner.deep.deep_model import DeepModel
from learner.retraining.schedule import RetrainSchedule
from learner.training.frozen_model import ModelCopy
from learner.training.held_out_judge import HeldOutJudge
from learner.training.model import Model
from learner.wide.ftrl import Ftrl
from producers.movielens import fetch_movielens, read_movielens
from stream.log.protocol import Record
from stream.runtime.settings import Settings
from stream.spec.spec import Spec
from stream.spec.spec_file import load_spec
from stream.tables.dtypes import F64
from thalweg.backtest.backtest import Backtest, exact_auc
from thalweg.backtest.entrants import ExampleLog, ModelEntrant

RATES: Final = (0.05, 0.01, 0.001)
POSITIVES: Final = (100, 200, 400)
TRIALS: Final = 300
WINDOWS: Final = 20
PAGES: Final = 30_000
PACKS: Final = (1, 16, 64)
REPEATS: Final = 5
SHARES: Final = (0.0, 0.01, 0.05)
Faults = dict[str, Callable[[Course, F64], F64]]


def _bots(course: Course, live: F64, harm: float) -> F64:
    """A tenth of users click everything; the model has learned it, and predicts `harm` more for the others."""
    bots = course.users % 10 == 0
    course.labels[bots] = True
    found: F64 = np.where(bots[:, None], live + 4.0, live + harm)
    return found


def _turned(course: Course, live: F64, learned: float) -> F64:
    """Tastes turn: the anchor has them the wrong way round, the model has learned this share of the new ones."""
    course.anchor = 2 * course.anchor.mean() - course.anchor
    found: F64 = (1 - learned) * course.anchor + learned * live
    return found


def _risen(course: Course, live: F64) -> F64:
    """Three times as many positives; the model predicts twice as many."""
    odds = np.exp(course.truth + np.log(3.0))
    course.labels = course.random.random(odds.shape) < odds / (1 + odds)
    found: F64 = live + np.log(2.0)
    return found


FAULTS: Final[Faults] = {
    "inverted ranking": lambda course, live: 2 * live.mean() - live,
    "constant": lambda course, live: np.full_like(live, np.log(course.rate / (1 - course.rate))),
    "2 times the rate": lambda course, live: live + np.log(2),
    "0.5 times the rate": lambda course, live: live - np.log(2),
    "learning rate 100 times": lambda course, live: live + course.random.normal(0, 3, live.shape),
    "a column is dropped": lambda course, live: live - 0.7 * course.column,
    "a tenth of users click everything": lambda course, live: _bots(course, live, 1.0),
    "labels were flipped for a minute": lambda course, live: live + 3.0,
    "NaN in a hundredth": lambda course, live: np.where(course.random.random(live.shape) < 0.01, np.nan, live),
}
GOOD: Final[Faults] = {
    "as good": lambda course, live: live,
    "tastes turned, a tenth learned": lambda course, live: _turned(course, live, 0.1),
    "the rate tripled, half of it learned": _risen,
    "bots, and no harm to others": lambda course, live: _bots(course, live, 0.0),
}


def worse(rate: float, positives: int, fault: Callable[[Course, F64], F64], seed: int) -> bool:
    """Whether a model with this fault is found to be worse."""
    course = Course(rate, positives, seed)
    judge = HeldOutJudge(usual_rate=rate)
    judge.record(course.pairs(fault(course, 0.6 * course.anchor + 0.4 * course.model())))
    return judge.verdict().outcome == "worse"


def worse_ever(rate: float, seed: int) -> bool:
    """Whether a good model is ever found worse, on a course of WINDOWS windows that is judged whenever it's due."""
    course, judge = Course(rate, 100 * WINDOWS, seed), HeldOutJudge(usual_rate=rate)
    pairs = course.pairs(0.6 * course.anchor + 0.4 * course.model())
    size = max(40, int(4 / rate) // 10 * 10)
    for first in range(0, len(pairs.labels), size):
        judge.record(type(pairs)._make(column[first : first + size] for column in pairs))
        found = judge.due_verdict()
        if found and found.outcome == "worse":
            return True
        if found and found.outcome != "waiting":
            judge.restart()
    return False


def verdicts(trials: int) -> tuple[Table, dict[str, float]]:
    """Shares of trials that are found worse."""
    heads = [f"{100 * rate:g} %, {positives}" for rate in RATES for positives in POSITIVES]
    table = Table("", *heads, title=f"found worse, of {trials} trials; by positives in the window")
    figures: dict[str, float] = {}
    for kind, faults in (("missed", FAULTS), ("refused", GOOD)):
        for name, fault in track(faults.items(), f"{kind} …", transient=True):
            cells = []
            for rate in RATES:
                for positives in POSITIVES:
                    share = statistics.mean(worse(rate, positives, fault, seed) for seed in range(trials))
                    figures[f"{kind}_{name}_{rate}_{positives}"] = 1 - share if kind == "missed" else share
                    cells.append(f"{100 * share:.1f} %")
            table.add_row(name, *cells)
    cells = []
    for rate in RATES:
        count = trials if rate > 0.001 else max(1, trials // 10)
        share = statistics.mean(worse_ever(rate, 1_000 + seed) for seed in range(count))
        figures[f"refused_course_{rate}"] = share
        cells += ["", "", f"{100 * share:.1f} %"]
    table.add_row(f"as good, {WINDOWS} windows", *cells)
    last = [
        value for name, value in figures.items() if name.startswith("missed") and name.endswith(f"_{POSITIVES[-1]}")
    ]
    good = [value for name, value in figures.items() if name.startswith("refused")]
    return table, {"holdout_missed_max": max(last), "holdout_false_refusals": max(good)} | figures


def _seconds(spec: Spec, raw: list[Record]) -> float:
    model, begun = Model(spec), time.process_time()
    for first in range(0, len(raw), 64):
        for chunk in model.record_encoder.records(raw[first : first + 64]):
            for a, b in model.steps(chunk):
                model.learn_records(chunk, a, b)
    return time.process_time() - begun


def learning(pages: int, repeats: int) -> tuple[Table, dict[str, float]]:
    """Examples per second of CPU time, with and without."""
    table = Table(
        "pages a record", "nothing held out", "a hundredth", "ratio", title="learning, examples/s of CPU time"
    )
    spec, figures = world_spec("shop"), dict[str, float]()
    made = list(labelled_pages(spec, pages, 10))
    for pack in PACKS:
        raw = [Record("", 0, n, 1, b"0", value) for n, value in enumerate(records_of(made, pack))]
        specs = {0.0: spec.without_holdout(), 0.01: spec}
        for one in specs.values():
            _seconds(one, raw[: len(raw) // 10])
        runs: dict[float, list[float]] = {share: [] for share in specs}
        for _ in range(repeats):
            for share, one in specs.items():
                runs[share].append(10 * pages / _seconds(one, raw))
        ratio = statistics.median(b / a for a, b in zip(*runs.values(), strict=True))
        figures[f"holdout_throughput_pack{pack}"] = ratio
        table.add_row(str(pack), *(f"{statistics.median(of):,.0f}" for of in runs.values()), f"{ratio:.3f}")
    return table, figures


def copying(keys: int, rows: int, spec: Spec) -> tuple[float, float, int]:
    """Longest pause and sum of pauses, ms, of copying so many wide keys and embedding rows; and its bytes."""
    random = np.random.default_rng(0)
    model = Model(spec)
    wide, deep = Ftrl.of(spec, model.encoder.alphas), DeepModel(spec.deep, 1, 0)
    ids = random.integers(1, 2**63, keys, np.uint64) & ~np.uint64(255) | np.uint64(1)
    columns = np.zeros((keys, wide.table.slots.shape[1] - 1), np.uint64)
    columns.view(np.float32)[:] = random.normal(size=(keys, 2 * columns.shape[1]))
    wide.table.put(np.column_stack([ids, columns & ~np.uint64(1 << 63)]))
    for first in range(0, rows, 100_000):
        deep.vocabulary.count(random.integers(1, 2**63, min(100_000, rows - first), np.uint64))
    copy, pauses, frozen = ModelCopy(wide, deep, 0), list[float](), None
    while frozen is None:
        begun = time.perf_counter()
        frozen = copy.step()
        pauses.append(1_000 * (time.perf_counter() - begun))
    assert frozen.deep
    tables = (frozen.wide, frozen.deep.vectors)
    return max(pauses), sum(pauses), sum(one.keys.nbytes + one.values.nbytes for one in tables)


def anchors(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """Pauses by size."""
    table = Table("wide keys, rows", "longest pause", "all", "bytes", title="copying an anchor")
    spec, figures = world_spec("shop"), dict[str, float]()
    spec = msgspec.structs.replace(spec, deep=msgspec.structs.replace(spec.deep, min_count=1))
    copying(10_000, 1_000, spec)
    for keys, rows in [(1_000_000, 100_000)] if quick else [(1_000_000, 100_000), (10_000_000, 1_000_000)]:
        longest, total, size = copying(keys, rows, spec)
        figures |= {f"anchor_pause_ms_{keys}": longest, f"anchor_total_ms_{keys}": total}
        table.add_row(f"{keys:,}, {rows:,}", f"{longest:.1f} ms", f"{total:.0f} ms", f"{size / 2**20:.0f} MiB")
    return table, figures


class _HoldingEntrant(ModelEntrant):
    """The learner's model as it is in service: a share is held out."""

    def __init__(self, spec: Spec, share: float) -> None:
        super().__init__(spec, spec.parts, 0)
        gate = msgspec.structs.replace(spec.publish.gate, holdout=share)
        own = msgspec.structs.replace(spec, publish=msgspec.structs.replace(spec.publish, gate=gate))
        self.learning = RetrainSchedule(Model(own, 0, learns_statistics=False))


def movielens(pages: int | None) -> tuple[Table, dict[str, float]]:
    """AUC by share."""
    spec = load_spec(Path("specs/movielens.toml"))
    source = read_movielens(fetch_movielens(Settings.load(with_stack=False).data, print))
    scores = Backtest(spec, [_HoldingEntrant(spec, share) for share in SHARES], ExampleLog()).run(source, pages)
    table = Table("held out", "auc at page time", title=f"MovieLens, {scores.pages:,} pages")
    figures = {}
    for share, predictions in zip(SHARES, scores.predictions, strict=True):
        figures[f"movielens_auc_{share}"] = auc = exact_auc(predictions, scores.labels)
        table.add_row(f"{100 * share:g} %", f"{auc:.4f}")
    figures["holdout_cost_auc"] = figures[f"movielens_auc_{SHARES[0]}"] - figures[f"movielens_auc_{SHARES[1]}"]
    return table, figures


def run(*, quick: bool) -> tuple[RenderableType, dict[str, float]]:
    """All four tables."""
    found = [
        verdicts(10 if quick else TRIALS),
        learning(PAGES // 10 if quick else PAGES, 1 if quick else REPEATS),
        anchors(quick=quick),
        movielens(10_000 if quick else None),
    ]
    return Group(*(table for table, _ in found)), {k: v for _, figures in found for k, v in figures.items()}
