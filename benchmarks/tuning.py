"""The same tuning for everyone: random trials in ranges set beforehand, judged on a part that comes first.

`python -m benchmarks.tuning [--world movielens|store] [KIND ...]` tunes these kinds (by default all: wide, deep,
wide_deep, vw, and river on MovieLens), runs some trials in a pass, and writes the best of each kind to `tuned.json`
(movielens), which the benchmark `quality` reads, or `tuned_store.json`. Columns and statistics are the same for
everyone: those of the world's spec. The same seed draws the same trials.

As many trials as were drawn follow near the best one: optima are at an edge of some ranges.

On MovieLens the criterion is the AUC at page time, seed 0, over the first 30,000 pages.

In the store trials learn 30,000 pages that `popular` and `wide_deep`, at the spec's rates of that time, serve in a
closed loop of a seed that no experiment reports. The criterion is what the experiment reports: the installs to be
expected of what a trial would have shown, on every tenth page, by the truth; the AUC on what others chose to
show prefers those who agree with them. The rates that the spec has are a trial, too (the peer has its defaults). The
best three play another seed, and the best of both wins: some rates that are good on one make the deep part diverge on
another. `tuned_store.json` has what came of it after longer runs and other trials, said in decisions 30 and 31.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np

from producers.movielens import fetch_movielens, read_movielens
from producers.store.parameters import preset
from producers.store.storefront import PAGE_ITEMS
from producers.store.world import StoreWorld
from stream.runtime.settings import Settings
from stream.spec.spec import Spec
from stream.spec.spec_file import load_spec
from stream.spec.values import PartName
from thalweg.backtest.backtest import Backtest
from thalweg.backtest.entrants import Entrant, ExampleLog, ModelEntrant
from thalweg.backtest.peers import PeerRates, River, VowpalWabbit
from thalweg.experiment.arm_rates import HIDDEN_UNITS, spec_with
from thalweg.experiment.assignment import Assignment
from thalweg.experiment.closed_loop import ClosedLoop

TRIES: Final = 12
NEAR: Final = 12  # further trials, near the best of the first
TUNED_ON: Final = 30_000  # pages: of one item in MovieLens, of ten in the store
AT_ONCE: Final = {"movielens": 4, "store": 13}  # trials in a pass
VW_AT_ONCE: Final = 4  # it takes 1 GB each
FINALISTS: Final = 3
STORE_SEEDS: Final = (777, 778)  # of all trials, of the finalists
FILE: Final = Path(__file__).parent / "tuned.json"
FILES: Final = {"movielens": FILE, "store": FILE.with_name("tuned_store.json")}
SPECS: Final = {name: Path(f"specs/{name}.toml") for name in FILES}
NEAR_FACTOR: Final = 3.0
DRAWN_AGAIN: Final = 1 / 3
LOG_UNIFORM: Final = ("alpha", "beta", "learning_rate", "embedding_rate", "river")
L1: Final = {"movielens": (0.0, 0.1, 0.5), "store": (0.0, 0.5, 2.0, 4.0)}
RATES: Final = {"movielens": (0.01, 0.05), "store": (0.01, 0.1)}  # of AdaGrad
OURS: Final[dict[str, list[PartName]]] = {"wide": ["wide"], "deep": ["deep"], "wide_deep": ["wide", "deep"]}
KINDS: Final = (*OURS, "vw", "river")
Draw = dict[str, float]
Judge = Callable[[str, Sequence[Draw], bool], list[float]]  # what trials of a kind are worth, again on another seed


def draws(kind: str, tries: int = TRIES, world: str = "movielens") -> list[Draw]:
    """Random settings: rates log-uniformly, the rest from a few values."""
    random = np.random.default_rng(KINDS.index(kind))
    return [_draw(kind, world, random) for _ in range(tries)]


def draws_near(best: Draw, kind: str, tries: int, world: str) -> list[Draw]:
    """Settings near these: rates within NEAR_FACTOR, and of the rest each third is drawn again."""
    random = np.random.default_rng(len(KINDS) + KINDS.index(kind))
    found: list[Draw] = []
    for _ in range(tries):
        draw = dict(best)
        for name, value in _draw(kind, world, random).items():
            if name in LOG_UNIFORM and name in draw:
                draw[name] *= NEAR_FACTOR ** random.uniform(-1, 1)
            elif random.random() < DRAWN_AGAIN:
                draw[name] = value
        found.append(draw)
    return found


def rates_of(spec: Spec, kind: str) -> Draw:
    """The rates that the spec has, as a draw; the peer's defaults."""
    wide, deep = spec.wide, spec.deep
    if kind == "vw":
        return {name: value for name, value in asdict(PeerRates()).items() if name != "river"}
    draw: Draw = {}
    if kind != "deep":
        draw |= {"alpha": wide.alpha, "l1": wide.l1, "l2": wide.l2}
        draw |= {" x ".join(one.of): one.alpha / wide.alpha for one in spec.crosses() if one.alpha}
    if kind != "wide":
        draw |= {"learning_rate": deep.learning_rate, "embedding_dim": deep.embedding_dim}
        layers = [number for number, units in HIDDEN_UNITS.items() if units == deep.hidden_units]
        if deep.embedding_rate is not None and layers:
            draw |= {"embedding_rate": deep.embedding_rate, "layers": layers[0]}
    return draw


def _draw(kind: str, world: str, random: np.random.Generator) -> Draw:
    def rate(low: float, high: float) -> float:
        return float(np.exp(random.uniform(np.log(low), np.log(high))))

    def one_of(*values: float) -> float:
        return float(random.choice(values))

    if kind == "vw":
        return {
            "alpha": rate(0.01, 0.2),
            "beta": one_of(0.1, 1, 10),
            "l1": one_of(*L1[world]),
            "l2": one_of(0, 1, 5),
        }
    if kind == "river":
        return {"river": rate(0.002, 0.2)}
    draw: Draw = {}
    if kind != "deep":
        draw |= {"alpha": rate(0.02, 0.2), "l1": one_of(*L1[world]), "l2": one_of(0, 1, 5)}
        if world == "store":
            draw |= {"item.id": one_of(1, 2, 4)}
            draw |= {
                "user.history x item.id": one_of(0.5, 1, 2, 4),
                "user.history x item.category": one_of(0.06, 0.25, 1),
            }
        else:
            draw |= {"history": one_of(0.1, 0.2, 0.5, 1)}  # of alpha: the history's cross has up to 50 keys
    if kind != "wide":
        draw["learning_rate"] = rate(*RATES[world])
        draw |= {"embedding_dim": one_of(8, 16, 32), "embedding_rate": rate(0.003, 0.03)}
        draw["layers"] = one_of(*HIDDEN_UNITS)
    return draw


def entrant(kind: str, spec: Spec, draw: Draw, seed: int = 0) -> Entrant:
    """An entrant with these settings."""
    if kind == "vw":
        return VowpalWabbit(spec, PeerRates(**draw))
    if kind == "river":
        return River(spec, PeerRates(**draw))
    return ModelEntrant(spec_with(spec, draw), OURS[kind], seed)


def movielens_aucs(spec: Spec) -> Judge:
    """Judges trials by their AUC on MovieLens."""
    source = list(read_movielens(fetch_movielens(Settings.load(with_stack=False).data, print)))

    def judge(kind: str, tries: Sequence[Draw], _: bool) -> list[float]:
        scores = Backtest(spec, [entrant(kind, spec, draw) for draw in tries], ExampleLog()).run(source, TUNED_ON)
        return [scores.auc(i) for i in range(len(tries))]

    return judge


def store_installs(spec: Spec) -> Judge:
    """Judges trials by the installs to be expected of what they would have shown, per 1,000."""
    arms = ("popular", "wide_deep")
    assign = Assignment("tuning", dict.fromkeys(arms, 1.0)).arm_of

    def judge(kind: str, tries: Sequence[Draw], again: bool) -> list[float]:
        loop = ClosedLoop(spec, StoreWorld(preset("usual"), STORE_SEEDS[again]), arms, assign)
        names = [f"trial-{i}" for i in range(len(tries))]
        for name, draw in zip(names, tries, strict=True):
            if kind == "vw":
                loop.add_peer(name, PeerRates(**draw))
            else:
                loop.add_model(name, spec_with(spec, draw), OURS[kind])
        ranked = loop.run(TUNED_ON).ranked
        return [1_000 * float(ranked[name].mean()) / PAGE_ITEMS for name in names]

    return judge


WORLDS: Final[dict[str, Callable[[Spec], Judge]]] = {"movielens": movielens_aucs, "store": store_installs}


def _values(kind: str, tries: Sequence[Draw], judge: Judge, at_once: int, *, again: bool = False) -> list[float]:
    """Of these trials, printed best first."""
    values: list[float] = []
    for first in range(0, len(tries), at_once):
        values += judge(kind, tries[first : first + at_once], again)
    for value, draw in sorted(zip(values, tries, strict=True), key=lambda pair: -pair[0]):
        print(f"{kind:10} {value:.4f}  {'  '.join(f'{name} {rate:.4g}' for name, rate in draw.items())}", flush=True)
    return values


def main() -> int:
    """Tune everyone, or the named kinds; print each trial; write the best."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning", description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], metavar="KIND")
    parser.add_argument("--world", choices=WORLDS, default="movielens")
    given = parser.parse_args()
    kinds = given.kinds or [kind for kind in KINDS if kind != "river" or given.world == "movielens"]
    if given.world == "store" and "river" in kinds:
        parser.error("river isn't an arm of the store")
    spec, file = load_spec(SPECS[given.world]), FILES[given.world]
    judge = WORLDS[given.world](spec)
    best: dict[str, Draw] = {}
    for kind in kinds:
        at_once = VW_AT_ONCE if kind == "vw" else AT_ONCE[given.world]
        tries = draws(kind, world=given.world)
        if given.world == "store":
            tries = [rates_of(spec, kind), *tries]
        values = _values(kind, tries, judge, at_once)
        near = draws_near(tries[int(np.argmax(values))], kind, NEAR, given.world)
        tries, values = tries + near, values + _values(kind, near, judge, at_once)
        if given.world == "store":
            finalists = np.argsort(values)[: -FINALISTS - 1 : -1].tolist()
            tries = [tries[i] for i in finalists]
            again = _values(kind, tries, judge, at_once, again=True)
            values = [values[i] + value for i, value in zip(finalists, again, strict=True)]
        best[kind] = tries[int(np.argmax(values))]
    others = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(others | best, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
