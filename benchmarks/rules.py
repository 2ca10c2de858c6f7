"""What rules cost: from the decoded request to the reply, 100 given candidates, one thread, the store's spec.

Each case is the same ranker under other rules; requests take turns between the cases, so that they share the machine's
moods. The peer is the case without rules.
"""

import gc
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from rich.table import Table

from benchmarks.serving import Publisher, World
from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.rank import Ranker
from ranker.ranking.score import Scorer
from ranker.ranking.version_watcher import VersionWatcher
from stream.events.types import RankRequest
from stream.history.profiles import UserProfile
from stream.snapshots.memory_store import MemoryStore
from stream.spec.rules import AnyRule, Boost, Cap, Diversity, Forbid, Installed, Pin, Require
from stream.spec.spec import Spec
from stream.spec.spec_file import load_spec

CANDIDATES, BEST, ITEMS, USERS = 100, 10, 2_000, 150
NOW_MS: Final = 2_100_000
FILTERS: Final[Mapping[str, AnyRule]] = {
    "age": Require(of="item.age_rating", at_most="user.age"),
    "tags": Forbid(of="item.tags", values=["g1"]),
}
CASES: Final[Mapping[str, Mapping[str, AnyRule]]] = {
    "none": {},
    "filters": FILTERS,
    "installed_all": {"owned": Installed(of="all")},
    "boost": {"more": Boost(of="item.tags", values=["g2"], factor=2)},
    "cap": {"varied": Cap(of="item.category", count=3)},
    "cap_within": {"varied": Cap(of="item.tags", count=2, within=5)},
    "pin": {"hero": Pin(item="i0", position=3)},
    "diversity": {"mixed": Diversity(by=["item.category", "item.tags"], strength=0.5)},
    "all": {
        **FILTERS,
        "varied": Cap(of="item.category", count=3),
        "hero": Pin(item="i0", position=3),
        "mixed": Diversity(by=["item.category", "item.tags"], strength=0.5),
    },
}


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table, and p50 and p99 of each case in ms."""
    spec = load_spec(Path(__file__).parents[1] / "specs" / "store.toml")
    world = World(spec, ITEMS, USERS)
    cases = {name: _ranker(world, msgspec.structs.replace(spec, rules=dict(rules))) for name, rules in CASES.items()}
    requests = [_request(world, n) for n in range(50)]
    count = 300 if quick else 3_000
    taken = {name: np.empty(count) for name in cases}
    for ranker in cases.values():
        for request in requests:
            _answer(ranker, request)
    gc.collect()
    for n in range(count):
        for name, ranker in cases.items():
            taken[name][n] = _answer(ranker, requests[n % len(requests)])
    return _reported(taken)


def _ranker(world: World, spec: Spec) -> Ranker:
    store, cache = MemoryStore(spec.name), EntityCache()
    for item in world.described:
        cache.put(item.item, item)
    ruled = World(spec, ITEMS, USERS)
    publisher = Publisher(ruled, store, wide_keys=20_000, rows=5_000, pages=50)
    publisher.base()
    publisher.publish()
    watcher = VersionWatcher(store, spec.name, cache, lambda: NOW_MS)
    is_live = watcher.step()
    assert is_live, watcher.rejection
    return Ranker(cache, watcher, Scorer(1), lambda: NOW_MS)


def _request(world: World, n: int) -> RankRequest:
    asked = world.request(CANDIDATES)
    return RankRequest(
        f"r{n}", asked.user, BEST, NOW_MS, candidates=list(asked.candidates), history=list(asked.history),
        attributes=asked.attributes | {"age": 60.0},  # so that enough is left of items rated 10 to 80
    )  # fmt: skip


def _answer(ranker: Ranker, request: RankRequest) -> float:
    """Milliseconds."""
    begun_s = time.perf_counter()
    reply = ranker.answer(request, lambda: UserProfile([], {}), begun_s)
    taken_ms = (time.perf_counter() - begun_s) * 1e3
    assert len(reply.items) == BEST
    return taken_ms


def _reported(taken: Mapping[str, np.ndarray]) -> tuple[Table, dict[str, float]]:
    table = Table("rules", "p50 ms", "p99 ms", "p50 beside none", title=f"{CANDIDATES} candidates, {BEST} shown")
    figures: dict[str, float] = {}
    none_ms = float(np.median(taken["none"]))
    for name, ms in taken.items():
        p50_ms, p99_ms = (float(np.percentile(ms, q)) for q in (50, 99))
        figures |= {f"{name}_p50_ms": round(p50_ms, 4), f"{name}_p99_ms": round(p99_ms, 4)}
        table.add_row(name, f"{p50_ms:.3f}", f"{p99_ms:.3f}", f"{p50_ms - none_ms:+.3f}")
    return table, figures
