"""Ranking 200 candidates, from the decoded request to the sorted top 10, by the paper's batches and threads.

Ours: page, statistics, wide keys, deep inputs, tower, sort. Peers, in the same run and of the same sizes, get their
inputs ready-made as tensors and are the network alone: `torch_full` all of it, `torch_split` with the first layer
split as ours (the items' part is precomputed, the user's is computed once). Both on their best thread count.
"""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

from benchmarks.serving import Asked, Publisher, World
from ranker.kernels.page import Run, score_deep, user_part
from ranker.kernels.request import UserContext
from ranker.ranking.rank import rank_with
from ranker.ranking.score import Scorer
from ranker.versions.model import BATCH_ITEMS, Version
from ranker.versions.version_loader import load_version
from stream.snapshots.memory_store import MemoryStore
from stream.spec.spec import Spec
from stream.spec.spec_file import load_spec, parse_spec
from stream.tables.dtypes import U64

CANDIDATES, BEST = 200, 10
NOW_MS = 2_100_000
CUTS = ((1, 200, 31.0), (2, 100, 17.0), (4, 50, 14.0))  # threads, items of a batch, the paper's ms (Cheng et al., §5)


def paper_spec() -> Spec:
    """About 1,200 inputs: 36 categories of 32 dimensions and 24 numbers; 1024-512-256 (Cheng et al., figure 4)."""
    user, item = [f"u{i}" for i in range(16)], [f"i{i}" for i in range(17)]
    numbers = [f"n{i}" for i in range(8)]
    deep = [f"user.{n}" for n in ("id", "history", *user, *numbers)] + [f"item.{n}" for n in ("id", *item, *numbers)]
    statistics = """
    user_rate = { kind = "rate", by = ["user.id"] }
    item_rate = { kind = "rate", by = ["item.id"] }
    user_seen = { kind = "count", by = ["user.id"] }
    item_seen = { kind = "count", by = ["item.id"] }
    user_last = { kind = "since", by = ["user.id"] }
    taste = { kind = "residual", by = ["user.id", "item.genres"] }
    group_taste = { kind = "residual", by = ["user.u0", "item.id"] }
    alike = { kind = "affinity", of = "item.id", to = "user.history" }
    """
    lines = [
        'name = "paper"',
        "[user]", 'id = "category"', 'history = { of = "item.id", last = 50 }',
        *(f'{n} = "category"' for n in user), *(f'{n} = "number"' for n in numbers),
        "[item]", 'id = "category"', 'genres = "categories"',
        *(f'{n} = "category"' for n in item), *(f'{n} = "number"' for n in numbers),
        "[statistics]", statistics,
        "[wide]", 'features = ["user.id"]', 'crosses = [["user.history", "item.id"], ["user.id", "item.genres"]]',
        "[deep]", f"features = {[*deep, 'statistics.*']}", "hidden_units = [1024, 512, 256]",
    ]  # fmt: skip
    return parse_spec("\n".join(lines))


class Served:
    """A spec's model, loaded, and requests for it."""

    def __init__(self, spec: Spec, *, quick: bool) -> None:
        self.world = World(spec, items=4_000, users=150)
        store = MemoryStore(spec.name)
        keys, rows = (100_000, 20_000) if quick else (1_000_000, 100_000)
        publisher = Publisher(self.world, store, wide_keys=keys, rows=rows)
        publisher.base()
        publisher.delta(10_000, 5_000, 5_000)
        publisher.publish()
        self.version = load_version(store, spec.name, 2)
        self.layers = publisher.layers
        self.asked = [self.world.request(CANDIDATES) for _ in range(50)]

    def rank(self, asked: Asked, scorer: Scorer, version: Version) -> None:
        """One request, whole."""
        ranked = rank_with(version, self.world.page(asked), NOW_MS, BEST, scorer)
        assert len(ranked.order) == BEST


@dataclass(frozen=True)
class Network(Version):
    """A version that scores by its deep part alone, on statistics as they are; `user` is of any page."""

    user: UserContext

    def begin(self, words: U64, time_ms: int | None = None) -> Run:
        """The user's part of the first layer."""
        part = user_part(words, self.plan.layout.size_array, self._user_layer)
        return Run(words, self.user, part, np.zeros(int(words[1]), np.float32))

    def score(self, run: Run, first: int, last: int) -> None:
        """The pairs' part and the layers behind it."""
        is_complete = score_deep(
            run, first, last, self._model(self.pairs.live), self._live.arrays, self._scratch(last - first)
        )
        assert is_complete


def times_ms(work: Callable[[int], object], count: int) -> tuple[float, float]:
    """p50 and p99 of calls, after some to warm up."""
    for n in range(max(60, count // 20)):
        work(n)
    gc.collect()
    taken = np.empty(count)
    for n in range(count):
        begun = time.perf_counter()
        work(n)
        taken[n] = time.perf_counter() - begun
    return float(np.percentile(taken, 50)) * 1e3, float(np.percentile(taken, 99)) * 1e3


def ours_ms(served: Served, threads: int, batch: int, count: int, *, net: bool = False) -> tuple[float, float]:
    """p50 and p99 of our rankings, or of the network alone."""
    scorer, version, asked = Scorer(threads, batch), served.version, served.asked
    if net:
        pages = [served.world.page(a) for a in asked]
        user = version.begin(pages[0], NOW_MS).user
        parts = (version.wide, version.statistics, version.pairs, version.tower, version.shown, None)
        alone = Network(version.manifest, version.plan, *parts, user)
        for page in pages:
            version.fill(page, NOW_MS)
        found = times_ms(lambda n: scorer.score(alone, pages[n % len(pages)]), count)
    else:
        found = times_ms(lambda n: served.rank(asked[n % len(asked)], scorer, version), count)
    scorer.close()
    return found


def torch_ms(served: Served, count: int) -> dict[str, tuple[float, float]]:
    """p50 and p99 of the peers, each on its best thread count."""
    plan = served.version.plan
    inputs, width = served.layers[0][0].shape
    user, item, pair = (len(plan.rows_of(g)) for g in (plan.user, plan.item, plan.pair))
    tensors = [(torch.from_numpy(w.copy()), torch.from_numpy(b.copy())) for w, b in served.layers]
    x, x_user, x_pair = torch.rand(CANDIDATES, inputs), torch.rand(1, user), torch.rand(CANDIDATES, pair)
    parts, rows = torch.rand(4_000, width), torch.randint(0, 4_000, (CANDIDATES,))
    w_user, w_pair = torch.rand(user, width) * 0.01, torch.rand(pair, width) * 0.01
    assert user + item + pair == inputs

    def rest(a: torch.Tensor) -> torch.Tensor:
        for weight, bias in tensors[1:-1]:
            a = torch.addmm(bias, a, weight).relu_()
        return torch.addmm(tensors[-1][1], a, tensors[-1][0])

    def full(_: int) -> None:
        rest(torch.addmm(tensors[0][1], x, tensors[0][0]).relu_())

    def split(_: int) -> None:
        first = torch.addmm(parts[rows], x_pair, w_pair)
        rest(first.add_(torch.addmm(tensors[0][1], x_user, w_user)).relu_())

    found = {}
    for name, work in (("torch_full", full), ("torch_split", split)):
        runs = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                runs.append(times_ms(work, count))
        found[name] = min(runs)
    return found


def cut(batch: int) -> str:
    """The candidates in batches, as in the paper."""
    return f"{CANDIDATES // batch}x{batch}"


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    threadpool_limits(1)
    count = 200 if quick else 2_000
    figures: dict[str, float] = {}
    table = Table(title=f"ranking {CANDIDATES} candidates, decoded request → sorted top {BEST}, ms")
    for column in ("inputs, tower", "what", "batches", "threads", "p50", "p99", "the paper's"):
        words = column in ("inputs, tower", "what")
        table.add_column(column, justify="left" if words else "right", no_wrap=words)
    specs = {"paper": paper_spec(), "default": load_spec(Path("specs/movielens.toml"))}
    for name, spec in specs.items():
        served = Served(spec, quick=quick)
        gc.freeze()
        inputs, tower = len(served.layers[0][0]), "-".join(map(str, spec.deep.hidden_units))
        title = f"{inputs}: {tower}"
        for threads, batch, paper in CUTS:
            p50, p99 = ours_ms(served, threads, batch, count)
            table.add_row(title, "whole ranking", cut(batch), str(threads), f"{p50:.2f}", f"{p99:.2f}", f"{paper:.0f}")
            if threads == 1:
                figures[f"{name}_items_s_core"] = CANDIDATES / p50 * 1e3
            elif threads == 2:
                figures |= {f"{name}_p50_ms": p50, f"{name}_p99_ms": p99}
        net, net_p99 = ours_ms(served, 2, BATCH_ITEMS, count, net=True)
        table.add_row(title, "network alone", cut(BATCH_ITEMS), "2", f"{net:.2f}", f"{net_p99:.2f}", "")
        for peer, (p50, p99) in torch_ms(served, count // 3).items():
            table.add_row(title, peer, "1x200", "best", f"{p50:.2f}", f"{p99:.2f}", "")
            figures[f"{peer}_p50_ms" if name == "paper" else f"{name}_{peer}_p50_ms"] = p50
        figures[f"{name}_net_p50_ms"] = net
    figures["items_s_core"] = figures.pop("paper_items_s_core")
    return table, figures
