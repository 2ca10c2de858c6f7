"""Examples per second of joint learning, by micro-batch and tower; peer: the same network in plain torch.

*Joint step*: from encoded inputs, wide and deep part, predict and learn. The peer is compared with it; it gets
ready-made tensors and learns the deep part only. *Whole path*: from decoded pages, with encoding, statistics, metrics
and the memory of ids. One core; repeats are interleaved; medians.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from rich.table import Table

from learner.deep.deep_model import DeepModel
from learner.deep.dense_layer import EPSILON
from learner.deep.joint_step import Inputs, Targets, learn_micro_batches
from learner.training.example_batch import batch_of
from learner.training.model import Model
from learner.wide.ftrl import Ftrl, FtrlRates
from stream.events.codec import example_id
from stream.events.types import INSTALLED, WINDOW_CLOSED, Examples, Impression, Item, Value
from stream.features.encoder import DeepInput, WideKeys
from stream.features.page_features import Catalogue, Layout, build_page
from stream.features.quantiles import quantise
from stream.features.statistics import Statistics, StatisticsProgram
from stream.spec.spec import Spec
from stream.spec.spec_file import load_spec
from stream.tables.dtypes import F32

REPEATS = 5
WARM = 0.2  # of the work is done before the clock starts
ROWS = (10_000, 1_000_000)


class Record(NamedTuple):
    """One micro-batch, encoded."""

    keys: WideKeys
    known: DeepInput
    targets: Targets


def spec_of(name: str, batch: int) -> Spec:
    """A spec with this micro-batch and no warm starts within the run."""
    spec = load_spec(Path(f"specs/{name}.toml"))
    return msgspec.structs.replace(spec, deep=msgspec.structs.replace(spec.deep, micro_batch=batch))


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


def encoded(spec: Spec, made: list[Examples], batch: int) -> list[Record]:
    """Micro-batches as the joint step takes them."""
    model = Model(spec)
    records = []
    for i in range(0, len(made) - batch + 1, batch):
        flat = batch_of([made[i : i + batch]], model.layout, batch).examples
        targets = Targets(flat.ids, flat.labels, flat.weights, flat.time_ms, flat.page_keys)
        records.append(Record(model.encoder.wide_keys(flat.pages), model.encoder.deep_input(flat.pages), targets))
    return records


def paced(work: Iterator[Callable[[], object]], count: int, batch: int) -> float:
    """Examples per second of `count` calls, the first fifth of which isn't timed."""
    warm = int(count * WARM)
    begun = 0.0
    for n, call in enumerate(work):
        if n == warm:
            begun = time.perf_counter()
        call()
    return (count - warm) * batch / (time.perf_counter() - begun)


def step(wide: Ftrl, deep: DeepModel, record: Record) -> None:
    """One joint step, as the model takes it."""
    keys, known, targets = record
    predictions, logits = np.empty((2, len(targets.labels)), np.float32)
    given = Inputs(keys.keys, keys.offsets, known.ids, known.offsets, known.numbers)
    cuts = np.array([0, len(targets.labels)])
    state = wide.prepare(keys.keys, 1)
    earlier = np.zeros(len(predictions), np.float32)
    learn_micro_batches(state, deep.prepare(known.ids), given, targets, cuts, earlier, predictions, logits)


def joint_ex_s(spec: Spec, records: list[Record], batch: int) -> float:
    """The joint step, from encoded inputs."""
    model = Model(spec)
    assert model.deep
    deep = model.deep
    return paced((partial(step, model.wide, deep, record) for record in records), len(records), batch)


def path_ex_s(spec: Spec, made: list[Examples], batch: int) -> float:
    """The whole learner on records of `batch` pages."""
    model = Model(spec)
    records = [made[i : i + batch] for i in range(0, len(made) - batch + 1, batch)]
    return paced((partial(model.learn, record, n) for n, record in enumerate(records)), len(records), batch)


def torch_ex_s(spec: Spec, records: list[Record], batch: int) -> float:
    """EmbeddingBag with sparse gradients, a ReLU tower and Adagrad as torch has them, on ready-made tensors."""
    deep = Model(spec).deep
    assert deep
    rows: dict[int, int] = {}
    inputs = [_tensors(deep, record, rows) for record in records]
    bags = torch.nn.EmbeddingBag(len(rows), deep.spec.embedding_dim, mode="sum", sparse=True)
    widths = deep.tower.widths
    hidden = [layer for i, o in pairwise(widths) for layer in (torch.nn.Linear(i, o), torch.nn.ReLU())]
    tower = torch.nn.Sequential(*hidden, torch.nn.Linear(widths[-1], 1))
    parameters = [*bags.parameters(), *tower.parameters()]
    optimiser = torch.optim.Adagrad(parameters, lr=deep.spec.learning_rate, eps=float(EPSILON))

    def learn(ids: torch.Tensor, at: torch.Tensor, shares: torch.Tensor, x: torch.Tensor, labels: torch.Tensor) -> None:
        optimiser.zero_grad()
        pooled = bags(ids, at, per_sample_weights=shares).view(len(labels), -1)
        logits = tower(torch.cat([pooled, x], 1))[:, 0]
        torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return paced((partial(learn, *given) for given in inputs), len(inputs), batch)


def _tensors(deep: DeepModel, record: Record, rows: dict[int, int]) -> tuple[torch.Tensor, ...]:
    """Rows, offsets and 1/√n of the lists, numbers, labels."""
    _, known, targets = record
    ids = torch.tensor([rows.setdefault(i, len(rows)) for i in known.ids.tolist()])
    lengths = np.diff(known.offsets)
    shares: F32 = np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths).astype(np.float32)
    x = torch.from_numpy(quantise(known.numbers, deep.boundaries))
    return (
        ids,
        torch.from_numpy(known.offsets[:-1].copy()),
        torch.from_numpy(shares),
        x,
        torch.from_numpy(targets.labels),
    )


def vocabulary_ratio(spec: Spec, steps: int, repeats: int) -> float:
    """Cost of a joint step with 1 M embedding rows over that with 10 k; ids are drawn uniformly from all: the worst."""
    random, batch, lists, ids_each = np.random.default_rng(3), spec.deep.micro_batch, 4, 7
    worlds = []
    for rows in ROWS:
        model = Model(spec)
        assert model.deep
        for _ in range(spec.deep.min_count):
            model.deep.vocabulary.count(np.arange(1, rows + 1, dtype=np.uint64))
        wide, numbers = Ftrl(FtrlRates(np.ones(1, np.float32), 1.0, 0.0, 0.0)), model.deep.numbers
        offsets = np.arange(0, batch * lists * ids_each + 1, ids_each)
        records = []
        for _ in range(steps):
            known = DeepInput(
                random.integers(1, rows + 1, offsets[-1]).astype(np.uint64),
                offsets,
                random.normal(size=(batch, numbers)).astype(np.float32),
            )
            keys = WideKeys(np.full(batch, 1 << 8 | 1, np.uint64), np.arange(batch + 1))
            labels = random.integers(0, 2, batch).astype(np.float32)
            targets = Targets(
                np.arange(batch, dtype=np.uint64), labels, np.ones(batch, np.float32), np.full(batch, 1e6),
                np.arange(1, batch + 1, dtype=np.uint64),
            )  # fmt: skip
            records.append(Record(keys, known, targets))
        worlds.append((wide, model.deep, records))
    ratios = []
    for _ in range(repeats):
        small, large = (
            paced((partial(step, wide, deep, record) for record in records), steps, batch)
            for wide, deep, records in worlds
        )
        ratios.append(small / large)
    return statistics.median(ratios)


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    torch.set_num_threads(1)
    count, repeats = (4_000, 1) if quick else (24_000, REPEATS)
    figures: dict[str, float] = {}
    table = Table(title="joint learning, one core, examples/s (medians); ratio: joint step over torch")
    for column in (
        "tower",
        "micro-batch",
        "joint step",
        "whole path",
        "torch autograd, deep only",
        "ratio (min to max)",
    ):
        table.add_column(column, justify="right")
    for name, prefix, share in (("movielens", "", 1), ("paper", "paper_", 6)):
        for batch in (8, 64):
            spec = spec_of(name, batch)
            made = pages(spec, count // share)
            records = encoded(spec, made, batch)
            runs = [
                (joint_ex_s(spec, records, batch), path_ex_s(spec, made, batch), torch_ex_s(spec, records, batch))
                for _ in range(repeats)
            ]
            joint, path, peer = (statistics.median(column) for column in zip(*runs, strict=True))
            keys = (f"{prefix}joint_ex_s_{batch}", f"{prefix}path_ex_s_{batch}", f"{prefix}torch_eager_ex_s_{batch}")
            figures |= dict(zip(keys, (joint, path, peer), strict=True))
            ratios = [ours / theirs for ours, _, theirs in runs]
            ratio = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
            tower = "-".join(map(str, spec.deep.hidden_units))
            table.add_row(tower, str(batch), f"{joint:,.0f}", f"{path:,.0f}", f"{peer:,.0f}", ratio)
    cost = vocabulary_ratio(spec_of("movielens", 8), 500, 4 * repeats)
    figures["vocab_ratio_1m_over_10k"] = cost
    table.caption = f"a step with 1,000,000 embedding rows costs {cost:.2f} times one with 10,000, ids drawn uniformly"
    return table, figures
