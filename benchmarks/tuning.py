"""The same tuning for everyone: TRIES random trials in ranges set beforehand, judged on the first 30,000 pages only.

`python -m benchmarks.tuning [KIND ...]` tunes these kinds (by default wide, deep, wide_deep, vw, river), runs a few
trials in a pass, and writes the best of each kind to `tuned.json`, which the benchmark `quality` reads. Columns and
statistics are the same for everyone: those of `specs/movielens.toml`. The criterion is the AUC at page time over those
pages, seed 0. The same seed draws the same trials.
"""

import json
import sys
from pathlib import Path
from typing import Final

import numpy as np
from msgspec import structs

from producers.movielens import fetch_movielens, read_movielens
from stream.runtime.settings import Settings
from stream.spec.spec import Cross, PartName, Spec
from stream.spec.spec_file import load_spec
from thalweg.backtest.backtest import Backtest
from thalweg.backtest.entrants import Entrant, ExampleLog, ModelEntrant
from thalweg.backtest.peers import PeerRates, River, VowpalWabbit

TRIES: Final = 12
TUNED_ON: Final = 30_000  # pages
AT_ONCE: Final = 4  # Vowpal Wabbit takes 1 GB each
FILE: Final = Path(__file__).parent / "tuned.json"
OURS: Final[dict[str, list[PartName]]] = {"wide": ["wide"], "deep": ["deep"], "wide_deep": ["wide", "deep"]}
KINDS: Final = (*OURS, "vw", "river")
Draw = dict[str, float]


def draws(kind: str, tries: int = TRIES) -> list[Draw]:
    """Random settings: rates log-uniformly, the rest from a few values."""
    random = np.random.default_rng(KINDS.index(kind))

    def rate(low: float, high: float) -> float:
        return float(np.exp(random.uniform(np.log(low), np.log(high))))

    def one_of(*values: float) -> float:
        return float(random.choice(values))

    found: list[Draw] = []
    for _ in range(tries):
        if kind == "vw":
            draw = {
                "alpha": rate(0.01, 0.2),
                "beta": one_of(0.1, 1, 10),
                "l1": one_of(0, 0.1, 0.5),
                "l2": one_of(0, 1, 5),
            }
        elif kind == "river":
            draw = {"rate": rate(0.002, 0.2)}
        else:
            draw = {}
            if kind != "deep":
                draw |= {"alpha": rate(0.02, 0.2), "l1": one_of(0, 0.1, 0.5), "l2": one_of(0, 1, 5)}
                draw |= {"history": one_of(0.1, 0.2, 0.5, 1)}  # of alpha: the history's cross has up to 50 keys
            if kind != "wide":
                draw |= {"learning_rate": rate(0.01, 0.05), "warm_every": one_of(5_000, 50_000)}
        found.append(draw)
    return found


def spec_with(spec: Spec, draw: Draw) -> Spec:
    """The spec with these settings; every cross at `alpha`, but the history's."""
    wide, deep = spec.wide, spec.deep
    if "alpha" in draw:
        alpha = draw["alpha"]
        crosses: list[list[str] | Cross] = [
            Cross(of=one.of, alpha=alpha * (draw["history"] if "user.history" in one.of else 1.0))
            for one in spec.crosses()[len(wide.features) :]
        ]
        wide = structs.replace(wide, alpha=alpha, l1=draw["l1"], l2=draw["l2"], crosses=crosses)
    if "learning_rate" in draw:
        warm = structs.replace(deep.warm_start, every=int(draw["warm_every"]))
        deep = structs.replace(deep, learning_rate=draw["learning_rate"], warm_start=warm)
    return structs.replace(spec, wide=wide, deep=deep)


def entrant(kind: str, spec: Spec, draw: Draw, log: ExampleLog, seed: int = 0) -> Entrant:
    """An entrant with these settings."""
    if kind == "vw":
        return VowpalWabbit(spec, PeerRates(**draw))
    if kind == "river":
        return River(spec, PeerRates(river=draw["rate"]))
    return ModelEntrant(spec_with(spec, draw), OURS[kind], seed, log)


def main() -> int:
    """Tune everyone, or the named kinds; print each trial; write the best."""
    kinds = sys.argv[1:] or KINDS
    if unknown := set(kinds) - set(KINDS):
        print(f"there is no {', '.join(sorted(unknown))}: name some of {' '.join(KINDS)}, or none for all")
        return 1
    spec = load_spec(Path("specs/movielens.toml"))
    folder = fetch_movielens(Settings.load(with_stack=False).data, print)
    best: dict[str, Draw] = json.loads(FILE.read_text())
    for kind in kinds:
        tries = draws(kind)
        aucs: list[float] = []
        for first in range(0, len(tries), AT_ONCE):
            log, some = ExampleLog(), tries[first : first + AT_ONCE]
            scores = Backtest(spec, [entrant(kind, spec, draw, log) for draw in some], log).run(
                read_movielens(folder), TUNED_ON
            )
            aucs += [scores.auc(i) for i in range(len(some))]
        for auc, draw in sorted(zip(aucs, tries, strict=True), key=lambda pair: -pair[0]):
            print(
                f"{kind:10} {auc:.4f}  {'  '.join(f'{name} {value:.4g}' for name, value in draw.items())}", flush=True
            )
        best[kind] = tries[int(np.argmax(aucs))]
    FILE.write_text(json.dumps(best, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
