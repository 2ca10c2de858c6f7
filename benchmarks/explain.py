"""Explanations: do columns' contributions say what the deep part does, and how long does one take?

A model learns MovieLens as a learner does, and is published and loaded as a ranker does. Fidelity is over 1,000 pages
of the last tenth: the rank correlation (Spearman), over the columns of an item, of their contributions with how far
the deep part's logit falls when the column is removed; the mean over items. A column is removed in two ways: the page
itself is built without it and scored by the serving kernels; or it has the value of another page, the mean over 50.
Contributions are by ablation and by integrated gradients (32 steps), against a page without the column, and against
usual values. Times are of whole explanations, page ranked included, in one thread.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

from benchmarks.rank import paper_spec, times_ms
from benchmarks.serving import Publisher, World
from learner.publishing.version_builder import VersionBuilder
from learner.retraining.schedule import RetrainSchedule
from learner.training.model import Model
from producers.movielens import read_movielens
from producers.source import WorldEvent
from ranker.explain.deep_part import DeepPart
from ranker.explain.explainer import Explainer
from ranker.explain.wide_part import wide_part
from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.rank import Ranker
from ranker.ranking.score import Scorer
from ranker.ranking.version_watcher import VersionWatcher
from ranker.versions.model import Version
from stream.events.types import Item, RankRequest, User
from stream.features.page_kernels import ItemColumns, UnknownItems, UserColumns, build, open_page, user_columns
from stream.features.serve_as import as_served
from stream.history.profiles import UserProfile
from stream.snapshots.memory_store import MemoryStore
from stream.spec.spec import Spec
from stream.spec.spec_file import load_spec
from stream.tables.dtypes import F32, F64, U32, U64
from thalweg.backtest.backtest import Backtest
from thalweg.backtest.entrants import ExampleLog, ModelEntrant, ShownPage, Step

PAGES, QUICK_PAGES = 100_000, 10_000
LAST: Final = 0.1  # share of the pages that explained ones are drawn from
EXPLAINED: Final = 1_000
OTHERS: Final = 50  # pages whose values replace a column's
HISTORY: Final = 50  # items
STEPS: Final = 32  # of integrated gradients
CREATED_MS: Final = 900_000_000_000
NOW_MS: Final = CREATED_MS + 1_000
SEED: Final = 7


class Recorder(ModelEntrant):
    """A model with statistics of its own, which are served; it retains the pages that it's shown."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, spec.parts, SEED)
        self.learning = RetrainSchedule(Model(spec.without_holdout(), SEED))
        self.pages: list[U64] = []

    def play(self, steps: Sequence[Step]) -> list[F32]:
        """Predict and learn."""
        self.pages += [step.words for step in steps if isinstance(step, ShownPage)]
        return super().play(steps)


@dataclass(frozen=True)
class Learned:
    """A model of MovieLens, as a ranker serves it; its last pages; its users with what they have."""

    watcher: VersionWatcher
    cache: EntityCache
    pages: list[U64]
    users: list[tuple[str, UserProfile]]


def learned(pages: int, on_progress: Callable[[int], None]) -> Learned:
    """The model after this many pages."""
    spec = load_spec(Path("specs/movielens.toml"))
    entrant, users, cache = Recorder(spec), dict[str, User](), EntityCache()

    def events() -> Iterator[WorldEvent]:
        for event in read_movielens(Path(".data/movielens")):
            if isinstance(event, Item):
                cache.put(event.item, event)
            elif isinstance(event, User):
                users[event.user] = event
            yield event

    course = Backtest(spec, [entrant], ExampleLog())
    course.on_progress = lambda one: on_progress(one.pages)
    course.run(events(), pages)
    store = MemoryStore(spec.name)
    token = store.take_token()
    built = VersionBuilder(entrant.model).build(1, 0, token, course.log.newest + 1, CREATED_MS, {}, deep=True)
    store.put_blobs(built.blobs)
    store.publish(built.manifest)
    newest = course.maker.histories.newest
    profiles = [(name, UserProfile(newest(name, HISTORY), one.attributes)) for name, one in users.items()]
    return Learned(served(store, spec.name, cache), cache, entrant.pages[-int(pages * LAST) :], profiles)


def served(store: MemoryStore, model: str, cache: EntityCache) -> VersionWatcher:
    """A watcher that serves the store's version."""
    watcher = VersionWatcher(store, model, cache, lambda: NOW_MS)
    is_served = watcher.step()
    assert is_served, watcher.rejection
    return watcher


def without(version: Version, words: U64, name: str) -> U64:
    """A page of one item as it would have been built without this column."""
    layout, page = version.plan.layout, words.copy()
    sizes, (_, w32, f32, at) = layout.size_array, open_page(page, layout.size_array)
    if name in layout.user_numbers:
        f32[at.user_numbers + layout.user_numbers.index(name)] = np.nan
    elif name in layout.item_numbers:
        f32[at.item_numbers + layout.item_numbers.index(name)] = np.nan
    elif name.startswith("statistics."):
        f32[at.statistics + layout.statistics.index(name.removeprefix("statistics."))] = np.nan
    else:
        user = user_columns(page, sizes)
        offsets = w32[at.item_offsets : at.item_offsets + at.sizes.item_lists + 1]
        items = page[at.item_ids : at.user_numbers // 2], offsets
        if name in layout.user_lists:
            user = UserColumns(*emptied(user.ids, user.offsets, layout.user_lists.index(name)), user.numbers)
        else:
            items = emptied(*items, layout.item_lists.index(name))
        numbers = f32[at.item_numbers : at.statistics].reshape(1, -1)
        rows, none = np.zeros(1, np.int64), UnknownItems(np.zeros(0, np.uint64), 0)
        rebuilt: U64 = build(user, ItemColumns(*items, numbers), rows, none, page[0], sizes)
        _, _, floats, to = open_page(rebuilt, sizes)
        floats[to.base_rate] = f32[at.base_rate]
        floats[to.statistics : to.statistics + at.sizes.statistics] = f32[at.statistics :][: at.sizes.statistics]
        return rebuilt
    return page


def emptied(ids: U64, offsets: U32, which: int) -> tuple[U64, U32]:
    """Lists, one of them without its ids."""
    low, high = int(offsets[which]), int(offsets[which + 1])
    moved = offsets.copy()
    moved[which + 1 :] -= np.uint32(high - low)
    return np.concatenate([ids[:low], ids[high:]]), moved


def deep_logit(version: Version, words: U64) -> float:
    """The deep part's logit of a page's one item, by the serving kernels."""
    wide = wide_part(version, words, 0)
    return float(version.logits(words)[0]) - wide.bias - wide.total


def integrated(deep: DeepPart, x: F32, baseline: F32) -> F64:
    """Integrated gradients (Sundararajan et al. 2017) of each column, float64 [n, C]."""
    layers = [(torch.from_numpy(w.copy()), torch.from_numpy(b.copy())) for w, b in deep.layers]
    total = np.zeros(x.shape)
    for step in range(STEPS):
        a = at = torch.tensor(baseline + (x - baseline) * (step + 0.5) / STEPS, dtype=torch.float32, requires_grad=True)
        for i, (weight, bias) in enumerate(layers):
            a = torch.addmm(bias, torch.relu(a) if i else a, weight)
        total += torch.autograd.grad(a.sum(), at)[0].numpy()
    total *= (x - baseline) / STEPS
    return np.stack([total[:, index].sum(axis=1) for index in deep.inputs_of], axis=1)


def swapped(deep: DeepPart, x: F32, others: F32) -> F64:
    """By how much the logit falls, on average, when a column has another page's value. float64 [n, C]."""
    total = np.zeros((len(x), len(deep.names)))
    for other in others:
        total += deep.losses(x, other)[1][0]
    return total / len(others)


def fidelity(contributions: F64, falls: F64) -> float:
    """The mean over items of Spearman's correlation over columns."""
    return float(np.mean([spearmanr(one, other).statistic for one, other in zip(contributions, falls, strict=True)]))


def fidelities(shown: Sequence[U64], version: Version, count: int) -> dict[str, tuple[float, float]]:
    """By method: fidelity to the removed column, and to another page's value."""
    assert version.tower is not None, "the spec has a deep part"
    deep, random, layout = DeepPart(version.plan, version.tower), np.random.default_rng(SEED), version.plan.layout
    drawn = random.choice(len(shown), count + OTHERS, replace=False)
    pages = [as_served(layout, shown[i].copy()) for i in drawn.tolist()]  # kernels are compiled for writable arrays
    x = np.concatenate([deep.inputs(words, np.zeros(1, np.int64)) for words in pages])
    explained, x, others = pages[:count], x[:count], x[count:]
    removed = np.array(
        [
            [deep_logit(version, words) - deep_logit(version, without(version, words, name)) for name in deep.names]
            for words in explained
        ]
    )
    falls = removed, swapped(deep, x, others)
    methods: dict[str, Callable[[F32], F64]] = {
        "ablation": lambda baseline: deep.losses(x, baseline)[1][0],
        "integrated gradients": partial(integrated, deep, x),
    }
    baselines: Mapping[str, F32] = {"missing": deep.missing, "usual": deep.usual}
    found = {}
    for method, of in methods.items():
        for against, baseline in baselines.items():
            contributions = of(baseline)
            found[f"{method}, {against}"] = fidelity(contributions, falls[0]), fidelity(contributions, falls[1])
    return found


def explain_ms(
    explainer: Explainer, asked: Sequence[tuple[RankRequest, UserProfile, str]], count: int
) -> tuple[float, float]:
    """p99 of explanations, by the clock and of the thread's CPU time, ms."""
    cpu_s = np.empty(count)

    def work(n: int) -> None:
        begun_s = time.thread_time()
        request, profile, item = asked[n % len(asked)]
        explainer.explain(request, profile, "m", item)
        cpu_s[n] = time.thread_time() - begun_s

    return times_ms(work, count)[1], float(np.percentile(cpu_s, 99)) * 1e3


def served_ms(
    watcher: VersionWatcher, cache: EntityCache, users: Sequence[tuple[str, UserProfile]], count: int
) -> dict[str, tuple[float, float]]:
    """p99 of the explanation of the first item, of one behind the page, and of the whole page, in ms."""
    ranker = Ranker(cache, watcher, Scorer(1), lambda: NOW_MS)
    explainer = Explainer(ranker, watcher, cache.items.get, lambda: NOW_MS)
    requests = [(RankRequest("r", user, 10), profile) for user, profile in users]
    pages = [explainer.explain(request, profile, "m") for request, profile in requests]
    behind = next(iter(cache.items))
    kinds = {
        "": [(*one, page.items[0].item) for one, page in zip(requests, pages, strict=True)],
        "_behind": [(*one, behind) for one in requests],
        "_page": [(*one, "") for one in requests],
    }
    gc.freeze()
    return {kind: explain_ms(explainer, asked, count) for kind, asked in kinds.items()}


def paper_served(*, quick: bool) -> tuple[VersionWatcher, EntityCache, list[tuple[str, UserProfile]]]:
    """A random model of the paper's size, as a ranker serves it, and its users."""
    spec = paper_spec()
    world, store, cache = World(spec, items=4_000, users=150), MemoryStore(spec.name), EntityCache()
    publisher = Publisher(world, store, wide_keys=100_000 if quick else 1_000_000, rows=20_000 if quick else 100_000)
    publisher.base()
    publisher.publish()
    for item in world.described:
        cache.put(item.item, item)
    return (
        served(store, spec.name, cache),
        cache,
        [(f"u{n}", UserProfile(world.items(HISTORY), world.attributes_of[n])) for n in range(50)],
    )


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    threadpool_limits(1)
    torch.set_num_threads(1)
    count, pages = (200, QUICK_PAGES) if quick else (2_000, PAGES)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("learn MovieLens", total=pages)
        model = learned(pages, lambda done: progress.update(task, completed=done))
        assert model.watcher.served is not None
        progress.update(task, description="fidelity", total=None)
        found = fidelities(model.pages, model.watcher.served.version, EXPLAINED // 10 if quick else EXPLAINED)
        progress.update(task, description="times")
        times = {
            "": served_ms(model.watcher, model.cache, model.users[:200], count),
            "_paper": served_ms(*paper_served(quick=quick), count // 4),
        }
    figures = {
        "explain_fidelity": found["ablation, usual"][1],
        "explain_fidelity_missing": found["ablation, missing"][0],
    }
    table = Table("what", title="explanations: fidelity on MovieLens (Spearman over columns), p99 in ms")
    for column in ("column removed from the page", "another page's value"):
        table.add_column(column, justify="right")
    for name, (removed, other) in found.items():
        table.add_row(name, f"{removed:.3f}", f"{other:.3f}")
        key = name.replace(", ", "_").replace(" ", "_")
        figures |= {f"{key}_removed": removed, f"{key}_swapped": other}
    table.add_section()
    table.add_row("", "MovieLens, 128-64", "1,200 inputs, 1024-512-256", style="bold")
    for kind, what in (("", "one item"), ("_behind", "one item behind the page"), ("_page", "a page of 10")):
        table.add_row(f"p99 of {what}; of the CPU", *("{:.1f}; {:.1f}".format(*of[kind]) for of in times.values()))
        figures |= {f"explain{size}{kind}_p99_ms": of[kind][0] for size, of in times.items()}
        figures |= {f"explain{size}{kind}_cpu_p99_ms": of[kind][1] for size, of in times.items()}
    return table, figures
