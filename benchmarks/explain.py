"""Explanations: do columns' contributions say what the deep part does, and how long does one take?

Models learn MovieLens and a simulated app store as a learner does, and are published and loaded as a ranker does.
Fidelity (`benchmarks/explain_fidelity.py`) is over 1,000 pages of the last tenth. Times are of whole explanations, page
ranked included, in one thread: by the clock, and of the thread's CPU. `beside`: requests are ranked, one each 10 ms,
while another thread explains pages without a pause, beside what the same requests take without it.
"""

import gc
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

from benchmarks.explain_fidelity import EXPLAINED, Fidelity, fidelities
from benchmarks.explain_worlds import HISTORY, NOW_MS, movielens, served, store
from benchmarks.rank import paper_spec, times_ms
from benchmarks.serving import Publisher, World
from ranker.explain.explainer import Explainer
from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.rank import Ranker
from ranker.ranking.score import SWITCH_S, Scorer
from ranker.ranking.version_watcher import VersionWatcher
from stream.events.types import RankRequest
from stream.history.profiles import UserProfile
from stream.snapshots.memory_store import MemoryStore

PAGES, STORE_PAGES = 100_000, 20_000
QUICK_PAGES, QUICK_STORE_PAGES = 10_000, 2_000
EVERY_S: Final = 0.01  # between requests beside which pages are explained
SHOWN_METHOD: Final = "ablation, unknown"  # what `thalweg explain` prints


def explain_ms(
    explainer: Explainer, asked: Sequence[tuple[RankRequest, UserProfile, str]], count: int
) -> tuple[float, float]:
    """p99 of explanations, by the clock and of the thread's CPU time, ms."""
    cpu_s = np.empty(count)

    def work(n: int) -> None:
        begun_s = time.thread_time()
        request, profile, item = asked[n % len(asked)]
        explainer.explain(request, profile, "m", item)
        cpu_s[n % count] = time.thread_time() - begun_s

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


def beside_ms(
    watcher: VersionWatcher, cache: EntityCache, users: Sequence[tuple[str, UserProfile]], count: int
) -> tuple[float, float]:
    """p99 of ranking a request, in ms: alone, and while another thread explains pages of ten without a pause.

    The two take turns, a tenth of the requests each, so that what else the machine does burdens both.
    """
    ranker = Ranker(cache, watcher, Scorer(1), lambda: NOW_MS)
    explainer = Explainer(ranker, watcher, cache.items.get, lambda: NOW_MS)
    requests = [(RankRequest("r", user, 10), profile) for user, profile in users]
    goes_on, ended = threading.Event(), threading.Event()

    def explain() -> None:
        n = 0
        while not ended.is_set():
            goes_on.wait()
            n += 1
            explainer.explain(*requests[n % len(requests)], "m")

    thread = threading.Thread(target=explain)
    thread.start()
    times: dict[bool, list[float]] = {False: [], True: []}
    for n in range(2 * count):
        if n % (count // 10) == 0:
            (goes_on.clear if goes_on.is_set() else goes_on.set)()
        time.sleep(EVERY_S)
        request, profile = requests[n % len(requests)]
        begun_s = time.perf_counter()
        ranker.answer(request, lambda profile=profile: profile, time.monotonic())  # type: ignore[misc]
        times[goes_on.is_set()].append(time.perf_counter() - begun_s)
    ended.set()
    goes_on.set()
    thread.join()
    alone, beside = (float(np.percentile(times[explains], 99)) * 1e3 for explains in (False, True))
    return alone, beside


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    threadpool_limits(1)
    torch.set_num_threads(1)
    sys.setswitchinterval(SWITCH_S)
    count, explained = (200, EXPLAINED // 10) if quick else (2_000, EXPLAINED)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        learned = {}
        for name, learn, pages, quick_pages in (
            ("MovieLens", movielens, PAGES, QUICK_PAGES),
            ("store", store, STORE_PAGES, QUICK_STORE_PAGES),
        ):
            total = quick_pages if quick else pages
            progress.update(task, description=f"learn {name}", total=total, completed=0)
            learned[name] = learn(total, lambda done: progress.update(task, completed=done))
        progress.update(task, description="fidelity", total=None)
        found = {}
        for name, one in learned.items():
            assert one.watcher.served is not None
            found[name] = fidelities(one.pages, one.watcher.served.version, explained)
        progress.update(task, description="times")
        model = learned["MovieLens"]
        ranked = model.watcher, model.cache, model.users[:200]
        times = {"": served_ms(*ranked, count), "_paper": served_ms(*paper_served(quick=quick), count // 4)}
        beside = beside_ms(*ranked, count // 2)
    return _table(found, times, beside), _figures(found, times, beside)


Found = dict[str, dict[str, Fidelity]]
Times = dict[str, dict[str, tuple[float, float]]]


def _table(found: Found, times: Times, beside: tuple[float, float]) -> Table:
    table = Table("", *found, title="explanations: fidelity (one column removed; several; another page's value), ms")
    methods = next(iter(found.values()))
    for method in methods:
        table.add_row(method, *("  ".join(f"{one:.3f}" for one in of[method]) for of in found.values()))
    table.add_section()
    table.add_row("", "MovieLens, 128-64", "1,200 inputs, 1024-512-256", style="bold")
    for kind, what in (("", "one item"), ("_behind", "one item behind the page"), ("_page", "a page of 10")):
        table.add_row(f"p99 of {what}; of the CPU", *("{:.1f}; {:.1f}".format(*of[kind]) for of in times.values()))
    table.add_row("p99 of ranking; while pages are explained", "{:.1f}; {:.1f}".format(*beside))
    return table


def _figures(found: Found, times: Times, beside: tuple[float, float]) -> dict[str, float]:
    """`explain_fidelity`: of what is printed, to one column removed; the lower of the worlds."""
    shown = [of[SHOWN_METHOD] for of in found.values()]
    figures = {
        "explain_fidelity": min(one.removed for one in shown),
        "explain_fidelity_together": min(one.together for one in shown),
    }
    for world, methods in found.items():
        for method, of in methods.items():
            key = f"{world} {method}".lower().replace(",", "").replace(" ", "_")
            figures |= {f"{key}_{name}": value for name, value in of._asdict().items()}
    for kind in ("", "_behind", "_page"):
        figures |= {f"explain{size}{kind}_p99_ms": of[kind][0] for size, of in times.items()}
        figures |= {f"explain{size}{kind}_cpu_p99_ms": of[kind][1] for size, of in times.items()}
    return figures | {"rank_p99_ms": beside[0], "rank_while_explaining_p99_ms": beside[1]}
