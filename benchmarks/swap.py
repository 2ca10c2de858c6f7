"""Swapping under load: latency of requests while the model changes every 200 ms, and the cost of a swap.

Requests arrive open loop, at half of one ranker's capacity: a request's latency counts from its due time. Versions
arrive from another process through a Redis of their own, built in advance; a builder process loads them and the
watcher's thread swaps them in, as in a service. The only peer is the steady run.
"""

import gc
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.feed import ITEMS, SPEC, USERS, Course, feeding
from benchmarks.load import NOW_MS, Load, Requests
from benchmarks.serving import Publisher, World
from benchmarks.snapshot import own_redis
from ranker.builder.builder_client import BuilderClient, start_builder
from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.jit_warmup import compile_kernels
from ranker.ranking.score import SWITCH_S, Scorer
from ranker.ranking.version_watcher import VersionWatcher
from ranker.versions.model import score_features
from ranker.versions.version_loader import VersionLoader
from stream.runtime.settings import Settings
from stream.snapshots.redis_store import RedisStore
from stream.spec.spec_file import load_spec

THREADS = 2
EVERY_S = 0.2
DENSE_EACH = 5  # every fifth version brings new dense layers
WIDE_KEYS, ROWS = 5_000_000, 1_000_000
DELTA_KEYS, DELTA_ROWS = 10_000, 5_000
FULL_EACH = 60  # versions between bases, in the run of swaps back to back: a manifest names few small deltas
DIFFERENCE_MAX = 1e-5
AFTER_S = 0.1  # a request belongs to a swap when it was due so soon after it


@dataclass(frozen=True)
class Service:
    """A model in a Redis of its own: its publisher, and its watcher with a builder process."""

    world: World
    publisher: Publisher
    store: RedisStore
    watcher: VersionWatcher


@contextmanager
def serving(share: float, *, quick: bool) -> Iterator[Service]:
    """A base of this share of the full size, published and live."""
    spec, size = load_spec(SPEC), share * (0.1 if quick else 1.0)
    world = World(spec, ITEMS, USERS)
    with (
        tempfile.TemporaryDirectory(prefix="thalweg-swap-") as folder,
        own_redis(Path(folder)) as settings,
        closing(RedisStore(settings, spec.name)) as store,
        closing(BuilderClient(lambda: start_builder(settings, spec.name))) as builder,
    ):
        publisher = Publisher(world, store, wide_keys=int(WIDE_KEYS * size), rows=int(ROWS * size))
        publisher.base()
        watcher = VersionWatcher(store, spec.name, EntityCache(), lambda: NOW_MS, loader=builder)
        watcher.step()
        yield Service(world, publisher, store, watcher)


def builds_ms(service: Service, count: int) -> tuple[float, float]:
    """Median time to build a delta's version, and from the store's notice of a delta to its being live."""
    publisher, store, watcher = service.publisher, service.store, service.watcher
    loader = VersionLoader(store, store.model)
    version = loader.load(publisher.number)
    builds, lives = [], []
    for _ in range(count):
        publisher.delta(DELTA_KEYS, DELTA_KEYS, DELTA_ROWS)
        number = publisher.publish().version
        begun = time.perf_counter()
        watcher.step()
        lives.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        version = loader.load(number, version)
        builds.append(time.perf_counter() - begun)
    return float(np.median(builds)) * 1e3, float(np.median(lives)) * 1e3


def merges_ms(service: Service, count: int) -> tuple[float, float]:
    """Median time to build the first version after a merge of deltas: from the previous one, and from the base."""
    publisher, store = service.publisher, service.store
    loader = VersionLoader(store, store.model)
    base = loader.load(1)
    followed, behind = [], []
    version = loader.load(publisher.number, base)
    for _ in range(count):
        publisher.delta(DELTA_KEYS, DELTA_KEYS, DELTA_ROWS)
        version = loader.load(publisher.publish().version, version)
        publisher.merge()
        number = publisher.publish().version
        begun = time.perf_counter()
        version = loader.load(number, version)
        followed.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        VersionLoader(store, store.model).load(number, base)
        behind.append(time.perf_counter() - begun)
    return float(np.median(followed)) * 1e3, float(np.median(behind)) * 1e3


def under_load(settings: Settings, scorer: Scorer, *, quick: bool) -> dict[str, float]:
    """Latencies of all requests, steady and while swapping, and of parts of the latter; the store is idle, then fed."""
    size, swaps = (0.1, 30) if quick else (1.0, 300)
    course = Course(int(WIDE_KEYS * size), int(ROWS * size), swaps, EVERY_S, DENSE_EACH, FULL_EACH)
    stop, spec = threading.Event(), load_spec(SPEC)
    with (
        feeding(settings, course) as feed,
        closing(RedisStore(settings, spec.name)) as store,
        closing(BuilderClient(lambda: start_builder(settings, spec.name))) as builder,
    ):
        watcher = VersionWatcher(store, spec.name, EntityCache(), lambda: NOW_MS, loader=builder)
        load = Load(World(spec, ITEMS, USERS), watcher, scorer)
        load.watcher.step()
        gc.collect()
        gc.freeze()
        per_s = load.capacity_s() / 2
        following = threading.Thread(target=load.watcher.run, args=(stop,))
        following.start()
        idle = time.perf_counter() + swaps * EVERY_S / 2
        steady = load.at(per_s, lambda: time.perf_counter() > idle)
        feed.start(time.perf_counter() + EVERY_S)
        found = load.at(per_s, feed.over)
        stop.set()
        following.join()
        moments = feed.moments()
        assert load.watcher.served is not None
        assert load.watcher.served.version.number > swaps - 2, "versions came faster than they were served"
    return {
        "offered_per_s": per_s,
        "p99_steady_ms": float(np.percentile(steady[:, 1], 99)) * 1e3,
        **swapping_ms(found, moments),
        "steady_p50_ms": float(np.percentile(steady[:, 1], 50)) * 1e3,
        "swapping_p50_ms": float(np.percentile(found[:, 1], 50)) * 1e3,
        "steady_max_ms": float(steady[:, 1].max()) * 1e3,
        "swapping_max_ms": float(found[:, 1].max()) * 1e3,
        "load_errors": load.errors,
    }


def swapping_ms(found: Requests, moments: list[tuple[float, bool]]) -> dict[str, float]:
    """p99 of all requests while versions are swapped, then of parts of them.

    `found`: due time and latency (s), [n, 2]; `moments`: when each version came, and whether its dense layers are new.
    """
    when = np.array([moment for moment, _ in moments])
    before = np.searchsorted(when, found[:, 0]) - 1
    dense = np.array([dense for _, dense in moments])[np.maximum(before, 0)] & (before >= 0)
    soon = dense & (found[:, 0] - when[np.maximum(before, 0)] <= AFTER_S)
    all_ = np.ones(len(found), np.bool_)
    parts = {"swapping": all_, "without_dense": ~dense, "behind_dense": dense, "dense_swap": soon}
    return {f"p99_{name}_ms": float(np.percentile(found[part, 1], 99)) * 1e3 for name, part in parts.items()}


def back_to_back(service: Service, scorer: Scorer, swaps: int) -> dict[str, float]:
    """Swaps back to back, under requests; then each recorded reply is recomputed from its manifest."""
    publisher, store, load = service.publisher, service.store, Load(service.world, service.watcher, scorer)
    done = threading.Event()
    checked = mixed = swapped = 0

    def ranking() -> None:
        n = 0
        while not done.is_set():
            load.rank(n, keep=n % 4 == 0)
            n += 1

    asking = threading.Thread(target=ranking)
    asking.start()
    loader, previous = VersionLoader(store, store.model), None
    for n in range(swaps):
        publisher.delta(500, 500, 100, dense=n % DENSE_EACH == 0)
        if n % FULL_EACH == FULL_EACH - 1:
            publisher.merge()
        publisher.publish()
        swapped += load.watcher.step()
        if n % FULL_EACH == FULL_EACH - 1 or n == swaps - 1:  # make again what was kept, while its versions are there
            kept, load.kept = load.kept, []
            for number in sorted({number for number, _ in kept}):
                previous = loader.load(number, previous)
                for ranked in (ranked for of, ranked in kept if of == number):
                    again = score_features(previous, ranked.features, len(ranked.order))
                    checked += 1
                    mixed += bool(np.abs(again - ranked.scores).max() > DIFFERENCE_MAX)
            store.retain(2)
    done.set()
    asking.join()
    return {"errors": load.errors, "replies_checked": checked, "mixed": mixed, "swaps": swapped}


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    figures: dict[str, float] = {}
    count = 8 if quick else 40
    scorer = Scorer(THREADS)
    sys.setswitchinterval(SWITCH_S)
    compile_kernels(scorer)
    with serving(0.1, quick=quick) as service:
        figures["build_small_ms"], _ = builds_ms(service, count)
    with serving(1.0, quick=quick) as service:
        figures["build_large_ms"], figures["live_ms"] = builds_ms(service, count)
        figures["merge_followed_ms"], figures["merge_behind_ms"] = merges_ms(service, 3 if quick else 7)
    with tempfile.TemporaryDirectory(prefix="thalweg-swap-") as folder, own_redis(Path(folder)) as settings:
        figures |= under_load(settings, scorer, quick=quick)
    with serving(0.02, quick=quick) as service:
        figures |= back_to_back(service, scorer, 200 if quick else 2_000)
    figures["errors"] += figures.pop("load_errors")
    scorer.close()
    return _table(figures), figures


def _table(figures: dict[str, float]) -> Table:
    table = Table(title="swapping versions under load, specs/movielens.toml, 200 candidates, 2 threads")
    table.add_column("what")
    table.add_column("figure", justify="right")
    for name, says in SAYS.items():
        value = figures[name]
        table.add_row(says, f"{value:,.0f}" if name in WHOLE else f"{value:,.2f}")
    return table


WHOLE = ("errors", "replies_checked", "mixed", "swaps", "offered_per_s")
SAYS = {
    "offered_per_s": "requests/s, open loop (half of capacity)",
    "steady_p50_ms": "p50, no swaps, ms",
    "p99_steady_ms": "p99, no swaps, ms",
    "swapping_p50_ms": "p50, a swap every 200 ms, ms",
    "p99_swapping_ms": "p99 of all requests, a swap every 200 ms, ms",
    "p99_without_dense_ms": "p99, of those behind versions without new dense layers, ms",
    "p99_behind_dense_ms": "p99, of those behind versions with new dense layers, ms",
    "p99_dense_swap_ms": "p99, within 100 ms after new dense layers, ms",
    "steady_max_ms": "longest, no swaps, ms",
    "swapping_max_ms": "longest, a swap every 200 ms, ms",
    "build_small_ms": f"building a delta of {DELTA_KEYS:,} keys, {DELTA_ROWS:,} rows, on a tenth of the model, ms",
    "build_large_ms": f"the same on {WIDE_KEYS:,} keys, {ROWS:,} rows, ms",
    "live_ms": "the same, from its notice to being live, ms",
    "merge_followed_ms": "building the first version after a merge of all deltas, having followed, ms",
    "merge_behind_ms": "the same, having the base alone, ms",
    "swaps": "swaps back to back",
    "errors": "errors",
    "replies_checked": "replies made again from their manifest",
    "mixed": "of these, not their version's",
}
