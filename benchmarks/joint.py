"""Examples per second of joint learning, by micro-batch; peer: the same deep part in plain torch, autograd and Adagrad.

Ours does more than the peer: decoded pages in, encoding, wide part, statistics, metrics, memory of ids. The peer
gets its inputs ready-made as tensors and learns the deep part only.
"""

import statistics
import time
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import torch
from rich.table import Table

from learner.model import Model
from stream.events import INSTALLED, WINDOW_CLOSED, Examples, Impression, Item, Value, example_id
from stream.features import Catalogue, Layout, build_page
from stream.spec import Spec
from stream.spec_file import load_spec
from stream.statistics import Statistics, StatisticsProgram

REPEATS = 5


def pages(spec: Spec, count: int) -> list[Examples]:
    """MovieLens-like: 900 users, 1,700 items of 1 to 4 of 18 genres, histories of 25, a page an example."""
    random = np.random.default_rng(7)
    layout = Layout(spec)
    catalogue = Catalogue(layout)
    for i in range(1_700):
        genres = [f"g{g}" for g in random.choice(18, random.integers(1, 5), replace=False)]
        catalogue.put(Item(str(i), {"genres": genres, "year": float(1920 + i % 80)}))
    statistics_ = Statistics(StatisticsProgram(spec, layout))
    made = []
    for n in range(count):
        user, item = int(random.integers(900)), str(int(random.integers(1_700)))
        attributes: dict[str, Value] = {
            "age": float(15 + user % 50),
            "gender": "MF"[user % 2],
            "occupation": f"o{user % 20}",
        }
        history = [str(int(i)) for i in random.integers(0, 1_700, 25)]
        words = build_page(layout, layout.user(str(user), attributes, history, {}), catalogue, catalogue.rows([item]))
        statistics_.fill(words, 1_000_000 + n)
        label = int(random.random() < 0.5)
        reason = INSTALLED if label else WINDOW_CLOSED
        page = Impression(f"r{n}", 1_000_000 + n, str(user), [item], features=words.tobytes())
        made.append(Examples(page, [example_id(f"r{n}", 0, reason, "")], [0], [label], [1.0], [reason], [n]))
    return made


def ours_ex_s(spec: Spec, made: list[Examples], batch: int) -> float:
    """The whole learner on records of `batch` pages."""
    model = Model(msgspec.structs.replace(spec, deep=msgspec.structs.replace(spec.deep, micro_batch=batch)))
    records = [made[i : i + batch] for i in range(0, len(made), batch)]
    warm = len(records) // 5
    for offset, record in enumerate(records[:warm]):
        model.learn(record, offset)
    begun = time.perf_counter()
    for offset, record in enumerate(records[warm:], warm):
        model.learn(record, offset)
    return (len(records) - warm) * batch / (time.perf_counter() - begun)


def torch_ex_s(spec: Spec, count: int, batch: int) -> float:
    """EmbeddingBags, a ReLU tower and Adagrad as torch has them, on ready-made tensors."""
    deep, random = spec.deep, np.random.default_rng(1)
    lists, numbers = 4, 2 * (len(spec.statistics) + 2)
    bags = torch.nn.EmbeddingBag(2_000, deep.embedding_dim, mode="sum", sparse=True)
    widths = [lists * deep.embedding_dim + numbers, *deep.hidden_units]
    hidden = [layer for i, o in pairwise(widths) for layer in (torch.nn.Linear(i, o), torch.nn.ReLU())]
    tower = torch.nn.Sequential(*hidden, torch.nn.Linear(widths[-1], 1))
    optimiser = torch.optim.Adagrad([*bags.parameters(), *tower.parameters()], lr=deep.learning_rate)
    ids = torch.tensor(random.integers(0, 2_000, (batch, lists * 7)).ravel())
    offsets = torch.arange(0, batch * lists * 7, 7)
    x, labels = torch.rand(batch, numbers), torch.rand(batch, 1).round()
    steps = max(20, count // batch)
    begun = 0.0
    for step in range(steps + steps // 5):
        if step == steps // 5:
            begun = time.perf_counter()
        optimiser.zero_grad()
        logits = tower(torch.cat([bags(ids, offsets).view(batch, -1), x], 1))
        torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return steps * batch / (time.perf_counter() - begun)


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    torch.set_num_threads(1)
    spec = load_spec(Path("specs/movielens.toml"))
    count = 4_000 if quick else 40_000
    made = pages(spec, count)
    figures: dict[str, float] = {}
    table = Table(title="joint learning, one core, specs/movielens.toml, examples/s (median of repeats)")
    for column in ("micro-batch", "ours, whole path", "torch autograd, deep part only", "ratio (min to max)"):
        table.add_column(column, justify="right")
    for batch in (8, 64):
        runs = [
            (ours_ex_s(spec, made, batch), torch_ex_s(spec, count // 4, batch)) for _ in range(1 if quick else REPEATS)
        ]
        ratios = [ours / theirs for ours, theirs in runs]
        ours, theirs = (statistics.median(column) for column in zip(*runs, strict=True))
        figures |= {f"joint_ex_s_{batch}": ours, f"torch_eager_ex_s_{batch}": theirs}
        ratio = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        table.add_row(str(batch), f"{ours:,.0f}", f"{theirs:,.0f}", ratio)
    return table, figures
