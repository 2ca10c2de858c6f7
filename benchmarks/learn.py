"""The learner from real Kafka to weights, examples per second, against torch with autograd and Vowpal Wabbit.

Two worlds: `shop`, ten category columns with the default tower and micro-batches of 8, and MovieLens' spec; pages of
10 items or 1, a label in a hundred positive, 1, 16 or 64 pages a record. Every example is new. Ours is the service's
own learner from its own reader: fetching, decoding, encoding, predicting, learning, statistics, metrics, memory of ids.
It isn't pinned; the broker has one core. Publishing and checkpoints are left out, and warm starts, too, which peers
don't have. The first fifth isn't timed. Repeats are interleaved; medians.

    torch        both parts with autograd from the same bytes (`learn_peers.py`), 16 pages a record, pinned to one core;
                 its better of sparse and dense gradients
    vw           `--ftrl` with the wide part's keys as names, rates equal; its second pass, in CPU time, as `wide` does;
                 it makes no features, joins nothing and has no deep part
    backtest     one core: entities, features, join, statistics, predicting, learning; all seconds count. `vw in it`:
                 the same backtest with Vowpal Wabbit instead of our model, from lines of text with the same features
    trickle      50 records of one page a second: from sending to learned
"""

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from rich.table import Table

from benchmarks.joiner_world import cores, kafka
from benchmarks.learn_backtest import backtest_ex_s, ours, source, wabbit
from benchmarks.learn_kafka import filled, learn_from_kafka, trickle_ms
from benchmarks.learn_peers import MicroBatches, torch_ex_s
from benchmarks.learn_world import labelled_pages, records_of, world_spec
from benchmarks.shop import names_of
from benchmarks.wide import Wabbit, encoded
from learner.jit_warmup import compile_kernels
from learner.training.model import Model
from stream.runtime.settings import Settings
from stream.spec.spec import Spec

REPEATS = 3
PAGES = {10: {1: 30_000, 16: 60_000, 64: 60_000}, 1: {1: 40_000, 16: 150_000, 64: 150_000}}  # by items, pages a record
TORCH_RECORDS = 100  # of 16 pages
WABBIT_PAGES = 20_000
BACKTEST_PAGES = 10_000
TRICKLE_S, TRICKLE_RECORDS_S = 11, 50
Runs = dict[str, list[float]]  # examples per second by figure, a repeat each

ROWS = {
    "full_ex_s_pack1": ("shop, pages of 10, 1 a record", ">= 60,000"),
    "full_ex_s_pack16": ("… 16 a record", ">= 120,000"),
    "full_ex_s_pack64": ("… 64 a record", ">= 130,000"),
    "single_ex_s_pack1": ("shop, pages of 1, 1 a record", ""),
    "single_ex_s_pack16": ("… 16 a record", ">= 40,000"),
    "single_ex_s_pack64": ("… 64 a record", ""),
    "movielens_full_ex_s_pack1": ("MovieLens, pages of 10, 1 a record", ""),
    "movielens_full_ex_s_pack16": ("… 16 a record", ""),
    "movielens_full_ex_s_pack64": ("… 64 a record", ""),
    "movielens_single_ex_s_pack1": ("MovieLens, pages of 1, 1 a record", ""),
    "movielens_single_ex_s_pack16": ("… 16 a record", ""),
    "movielens_single_ex_s_pack64": ("… 64 a record", ""),
    "wide_only_ex_s_pack16": ("shop, pages of 10, wide only, 16 a record", ">= 250,000"),
    "torch_sparse_ex_s": ("torch, sparse gradients", ""),
    "torch_dense_ex_s": ("torch, dense gradients", ""),
    "vw_text_ex_s": ("vw from text, wide only", ""),
    "vw_cache_ex_s": ("vw from its cache, wide only", ""),
    "backtest_ex_s": ("backtest, one event a record", ">= 40,000"),
    "backtest_ex_s_pack16": ("backtest, 16 events a record", ""),
    "backtest_vw_ex_s": ("backtest, vw in it", ""),
}
RATIOS = {
    "full_over_torch": ("shop, pages of 10, 16 a record / torch", "full_ex_s_pack16", "torch_ex_s", ">= 3"),
    "backtest_over_vw_text": ("backtest / vw from text", "backtest_ex_s", "vw_text_ex_s", ">= 1.3"),
    "backtest_over_backtest_vw": ("backtest / backtest, vw in it", "backtest_ex_s", "backtest_vw_ex_s", ""),
}


class World(NamedTuple):
    """Filled topics, and what learns from them."""

    figure: str
    settings: Settings
    spec: Spec


def without(spec: Spec, part: str) -> Spec:
    """The spec without one of its parts."""
    return msgspec.structs.replace(spec, parts=[name for name in spec.parts if name != part])


@contextmanager
def one_core() -> Iterator[None]:
    """This thread, and what it starts, on a core that isn't the broker's."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores()[0])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def worlds_of(house: Settings, name: str, items: int, part: int) -> list[World]:
    """One spec's topics with pages of this size, by pages a record."""
    spec, counts = world_spec(name), {pack: count // part for pack, count in PAGES[items].items()}
    pages = list(labelled_pages(spec, max(counts.values()), items))
    prefix = ("movielens_" if name == "movielens" else "") + ("full" if items == 10 else "single")
    return [
        World(f"{prefix}_ex_s_pack{pack}", filled(house, pages[:count], pack), spec) for pack, count in counts.items()
    ]


def peers_of(spec: Spec, folder: Path, part: int) -> dict[str, Callable[[], float]]:
    """Peers on the first of the same pages: examples per second."""
    pages = list(labelled_pages(spec, WABBIT_PAGES // part, 10))
    records = records_of(pages, 16)
    batches = MicroBatches(spec, records[: max(10, TORCH_RECORDS // part)])
    wide = encoded(Model(spec), records)
    names = [name for keys, _ in wide for name in names_of(keys)]
    vw = Wabbit(folder, names, [float(label) for _, labels in wide for label in labels], spec.wide.l1)
    return {
        "torch_sparse_ex_s": partial(torch_ex_s, batches, sparse=True),
        "torch_dense_ex_s": partial(torch_ex_s, batches, sparse=False),
        "vw_text_ex_s": lambda: len(names) / vw.text_s(),
        "vw_cache_ex_s": lambda: len(names) / vw.cache_s(),
    }


def backtests_of(spec: Spec, pages: int) -> dict[str, Callable[[], float]]:
    """Whole backtests: examples per second."""
    events = list(source(spec, pages))

    def mine(pack: int) -> float:
        return backtest_ex_s(spec, ours(spec), events, pack)

    def theirs() -> float:
        entrant = wabbit(spec)
        try:
            return backtest_ex_s(spec, entrant, events, 1)
        finally:
            entrant.close()

    return {"backtest_ex_s": partial(mine, 1), "backtest_ex_s_pack16": partial(mine, 16), "backtest_vw_ex_s": theirs}


def measured(worlds: list[World], pinned: dict[str, Callable[[], float]], repeats: int) -> Runs:
    """Everything in turn, `repeats` times."""
    found: Runs = {name: [] for name in (*(world.figure for world in worlds), *pinned)}
    for _ in range(repeats):
        for world in worlds:
            found[world.figure].append(learn_from_kafka(world.settings, world.spec))
        for name, measure in pinned.items():
            with one_core():
                found[name].append(measure())
    sparse, dense = found["torch_sparse_ex_s"], found["torch_dense_ex_s"]
    found["torch_ex_s"] = max(sparse, dense, key=statistics.median)
    return found


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    torch.set_num_threads(1)
    part, repeats = (10, 1) if quick else (1, REPEATS)
    shop = world_spec("shop")
    with kafka() as house, tempfile.TemporaryDirectory() as folder:
        mine, others = cores()
        os.sched_setaffinity(0, mine | others)
        worlds = [
            world for name in ("shop", "movielens") for items in PAGES for world in worlds_of(house, name, items, part)
        ]
        same = next(world for world in worlds if world.figure == "full_ex_s_pack16")
        worlds.append(World("wide_only_ex_s_pack16", same.settings, without(shop, "deep")))
        for spec in (shop, world_spec("movielens"), worlds[-1].spec):
            compile_kernels(spec)
        for call in backtests_of(shop, 100).values():
            call()  # its kernels, too
        pinned = peers_of(shop, Path(folder), part) | backtests_of(shop, BACKTEST_PAGES // part)
        runs = measured(worlds, pinned, repeats)
        seconds = 4 if quick else TRICKLE_S
        pages = list(labelled_pages(shop, seconds * TRICKLE_RECORDS_S, 10))
        waits = trickle_ms(house, shop, pages, TRICKLE_RECORDS_S)
    figures = {name: statistics.median(rates) for name, rates in runs.items()}
    figures |= {name: statistics.median(ratios_of(runs, a, b)) for name, (_, a, b, _) in RATIOS.items()}
    figures |= {"eager_learn_p50_ms": statistics.median(waits), "eager_learn_p99_ms": waits[99 * len(waits) // 100]}
    return _shown(runs, figures), figures


def ratios_of(runs: Runs, ours: str, theirs: str) -> list[float]:
    """One figure over another, a repeat each."""
    return [a / b for a, b in zip(runs[ours], runs[theirs], strict=True)]


def _shown(runs: Runs, figures: dict[str, float]) -> Table:
    table = Table(title="the learner, from real Kafka to weights: examples/s, medians")
    for column in ("", "measured", "min to max", "goal"):
        table.add_column(column, justify="right" if column else "left")
    for name, (label, goal) in ROWS.items():
        rates = runs[name]
        table.add_row(label, f"{figures[name]:,.0f}", f"{min(rates):,.0f} to {max(rates):,.0f}", goal)
    for name, (label, a, b, goal) in RATIOS.items():
        ratios = ratios_of(runs, a, b)
        table.add_row(label, f"{figures[name]:.2f} times", f"{min(ratios):.2f} to {max(ratios):.2f}", goal)
    table.caption = (
        f"a record of one page is learned {figures['eager_learn_p50_ms']:.1f} ms after it was sent (p50), "
        f"{figures['eager_learn_p99_ms']:.1f} ms (p99), at {TRICKLE_RECORDS_S} a second"
    )
    return table
