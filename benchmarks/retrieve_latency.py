"""How long the candidates of one request take, by the size of the catalogue: the ranker's own path, all sources.

Items lie in clusters: vectors around the cluster's, lists within it. Installs follow Zipf's law. Each request is of
another user, whose items are of three clusters. Only the rows are made up: columns, catalogue, pools, vectors and
`retrieve` are the ranker's.
"""

import gc
import time
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Final, NamedTuple

import numpy as np
from rich.console import Group
from rich.progress import track
from rich.table import Table
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

from ranker.kernels.layered_table import Change, LayeredTable, based_on
from ranker.kernels.retrieval import changes_between, user_vector, vectors_at
from ranker.ranking.entity_cache import EntityCache
from ranker.retrieval.candidates import Candidates, retrieve
from ranker.retrieval.item_columns import ids_of
from ranker.retrieval.pools import Query, SweptItems
from ranker.retrieval.sweep import EXTRA
from ranker.retrieval.vector_indexer import EXACT_MAX, VectorIndexer
from ranker.retrieval.vector_search import VectorSearch
from ranker.versions.learned_items import learned_items
from stream.events.types import Item
from stream.features.page_features import Layout
from stream.spec.retrieval import Retrieval
from stream.spec.spec_file import load_spec
from thalweg.backtest.local_retrieval import pools_of

SPEC: Final = Path(__file__).parents[1] / "specs" / "store.toml"
PER_CLUSTER: Final = 200  # items
CATEGORIES: Final = 200
HISTORY: Final = 40  # items of a user
REPEATS: Final = 5
VERSIONS, MOVED = 10, 1_000  # after the index was made, and the items that change from one to the next
WARM: Final = 100  # requests that aren't counted
ALL: Final = Retrieval(together=40, neighbours=20, same=5, trending=10, new=5, popular=10, same_by=["item.category"])
CENTRE, SPREAD, USER = 3.0, 2.0, 2.0  # norms: of a cluster's vector, of an item's distance to it, of a user's vector


class Taken(NamedTuple):
    """Wall time and CPU time of requests, ms [n]."""

    wall: list[float]
    cpu: list[float]


class LatencyWorld:
    """A catalogue of n items, and a version's rows of them."""

    def __init__(self, n: int, seed: int = 11) -> None:
        self.random, self.n = np.random.default_rng(seed), n
        self.cache, self.layout = EntityCache(), Layout(load_spec(SPEC))
        self.cluster = self.random.integers(0, max(1, n // PER_CLUSTER), n)
        self._members = np.argsort(self.cluster, kind="stable")
        self._starts = np.searchsorted(self.cluster[self._members], np.arange(self.cluster.max() + 2))
        self.installs = np.minimum(self.random.zipf(1.6, n), 100_000).astype(np.float64)
        self.names = [f"i{i}" for i in range(n)]
        for i, name in enumerate(self.names):
            self.cache.put(name, Item(name, {"category": f"c{self.cluster[i] % CATEGORIES}"}))
        self.catalogue = self.cache.catalogue(self.layout)
        self.ids = ids_of(self.names)
        self.indexer, self.table = VectorIndexer(), self._table()
        self.learned = learned_items(ALL, self.table, None).view
        self.nearest = VectorSearch(self.learned.vectors)
        self.pools = pools_of(self._swept(), self.cache.columns, self.catalogue, ALL.count + EXTRA)

    def _table(self) -> LayeredTable:
        length, dim, n, random = ALL.list_length, ALL.vector_dim, self.n, self.random
        change = Change(self.ids, np.zeros((n, 0), np.uint64), np.zeros((n, 3 * length + 2 * dim + 2), np.float32))
        table = based_on(("base",), change)
        rows, vectors = table.vectors, random.standard_normal((n, dim), np.float32) * np.float32(SPREAD / dim**0.5)
        centres = random.standard_normal((self.cluster.max() + 1, dim), np.float32)
        centres *= CENTRE / np.linalg.norm(centres, axis=1)[:, None]
        vectors += centres[self.cluster]
        for first, stop in pairwise(self._starts):
            members = self._members[first:stop]
            rows[members, : 2 * min(length, len(members))] = self.ids[members[:length]].view(np.float32)
        rows[:, 2 * length : 3 * length] = random.random(length, np.float32)
        rows[:, 3 * length : 3 * length + dim] = vectors
        rows[:, 3 * length + dim : -2] = vectors
        rows[:, -2] = self.installs
        rows[:, -1] = np.log1p(self.installs)
        return table

    def _swept(self) -> SweptItems:
        items = self.cache.columns.slice(0, self.n)
        lately = self.random.poisson(self.installs * 0.01).astype(np.float64)
        return SweptItems(items.popularity, self.installs, lately, 0.01, 10 * self.installs, items.added, ALL)

    def history(self) -> list[str]:
        """The items of a new user."""
        starts, counts = self._starts[:-1], np.diff(self._starts)
        clusters = self.random.choice(self.random.integers(0, len(counts), 3), HISTORY)
        members = self._members[starts[clusters] + self.random.integers(0, np.maximum(1, counts[clusters]))]
        return [self.names[i] for i in dict.fromkeys(members.tolist())]

    def query(self, number: int) -> Query:
        """The request of a new user."""
        return Query(str(number), self.history(), ALL, self.pools, self.cache.columns, self.catalogue, self.learned,
                     self.nearest)  # fmt: skip

    def make_index(self) -> float:
        """Wait until the first index is made and searched; returns the CPU time that it took, s."""
        begun_s = time.process_time()
        self.indexer.search_of(self.learned)
        while not self.indexer.has_newer:
            time.sleep(0.05)
        self.nearest = self.indexer.search_of(self.learned)
        return time.process_time() - begun_s

    def publish(self, changed: int) -> None:
        """The next version, in which these many items have moved a little."""
        items = self.random.choice(self.n, changed, replace=False)
        rows = self.table.vectors[items]
        rows[:, -2 - ALL.vector_dim : -1] += self.random.standard_normal((changed, ALL.vector_dim + 1), np.float32) / 20
        change = Change(self.ids[items], np.zeros((changed, 0), np.uint64), rows)
        self.table = self.table.with_change((str(self.table.count),), change)
        self.learned = learned_items(ALL, self.table, None).view
        self.nearest = self.indexer.search_of(self.learned)

    def candidates(self, query: Query) -> Candidates:
        """What the ranker retrieves for a request."""
        return retrieve(query, set(query.history), self.cache.is_deleted)


def taken_by(world: LatencyWorld, requests: int) -> Taken:
    """What requests take, each of another user."""
    taken = Taken([], [])
    for number in range(requests + WARM):
        query = world.query(number)
        wall_s, cpu_s = time.perf_counter(), time.thread_time()
        world.candidates(query)
        if number >= WARM:
            taken.wall.append(1e3 * (time.perf_counter() - wall_s))
            taken.cpu.append(1e3 * (time.thread_time() - cpu_s))
    return taken


def latency(world: LatencyWorld, requests: int) -> dict[str, float]:
    """p50 and p99 of wall and CPU time, ms: medians over REPEATS, and the least p99 of wall time."""
    repeats = [taken_by(world, requests) for _ in range(REPEATS)]
    found = {
        f"p{share}{clock}_ms": [float(np.percentile(getattr(taken, of), share)) for taken in repeats]
        for clock, of in (("", "wall"), ("_cpu", "cpu"))
        for share in (50, 99)
    }
    return {name: median(values) for name, values in found.items()} | {"p99_least_ms": min(found["p99_ms"])}


def recall(world: LatencyWorld, requests: int) -> float:
    """The share of what exact search finds that the world's search finds, too: of as many as `neighbours` asks for."""
    exact = VectorSearch(world.learned.vectors)
    shares: list[float] = []
    for number in range(requests):
        query = world.query(number)
        user = user_vector(world.learned.rows, query.last_ids)
        found = [search.nearest(user, query.depth) for search in (exact, world.nearest)]
        shares.append(len(np.intersect1d(found[0], found[1])) / len(found[0]))
    return fmean(shares)


def index_figures(world: LatencyWorld, requests: int) -> dict[str, float]:
    """What an index takes: made and brought up to date (CPU s), a version of it (ms), its size, and what it misses."""
    figures = {"index_build_s": world.make_index()}
    assert world.nearest.index is not None, "it was made"
    made = world.nearest.index.index
    figures["index_mb"] = made.lists.ntotal * (4 * made.lists.d + 8) / 1e6
    versions = []
    for _ in range(VERSIONS):
        begun_s = time.process_time()
        world.publish(MOVED)
        versions.append(1e3 * (time.process_time() - begun_s))
    figures["index_version_ms"] = median(versions)
    changed, lost = changes_between(made.rows, world.learned.rows, True)
    begun_s = time.process_time()
    made.updated(world.learned.rows, vectors_at(world.learned.rows, changed), lost)
    return figures | {
        "index_update_s": time.process_time() - begun_s,
        "index_updated": len(changed),
        "neighbour_recall": recall(world, requests),
    }


def run(*, quick: bool) -> tuple[Group, dict[str, float]]:
    """The tables and the figures. With an index, requests are measured when VERSIONS versions have come after it."""
    sizes, requests = {"10k": 10_000} | ({"100k": 100_000} if quick else {"1m": 1_000_000}), 200 if quick else 2_000
    figures: dict[str, float] = {}
    table = Table(title="candidates of one request, all sources: ms of wall time (CPU time)")
    for column in ("items", "p50", "p99", "least p99 of the repeats"):
        table.add_column(column, justify="right")
    for size, items in track(sizes.items(), "latency"):
        with threadpool_limits(1):  # as in a ranker
            world = LatencyWorld(items)
            if world.n > EXACT_MAX:
                figures |= index_figures(world, requests // 10)
            gc.collect()
            gc.freeze()
            found = latency(world, requests)
            gc.unfreeze()
        figures |= {f"{name}_{size}": figure for name, figure in found.items()}
        both = (f"{found[f'{p}_ms']:.2f} ({found[f'{p}_cpu_ms']:.2f})" for p in ("p50", "p99"))
        table.add_row(f"{items:,}", *both, f"{found['p99_least_ms']:.2f}")
    return Group(table, _index_table(figures, items)), figures


def _index_table(figures: dict[str, float], items: int) -> Table:
    table = Table("", "", title=f"the index of {items:,} items' vectors", show_header=False)
    table.add_row("recall against exact search", f"{figures['neighbour_recall']:.4f}")
    table.add_row("made, CPU s", f"{figures['index_build_s']:.1f}")
    table.add_row(f"a version with {MOVED:,} moved items, CPU ms", f"{figures['index_version_ms']:.0f}")
    table.add_row(f"updated by {figures['index_updated']:,.0f} items, CPU s", f"{figures['index_update_s']:.2f}")
    table.add_row("size, MB", f"{figures['index_mb']:.0f}")
    return table
