"""Requests of a world, one after the other, open loop: a request's latency counts from its due time."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from benchmarks.serving import World
from ranker.ranking.rank import Ranked, rank_with
from ranker.ranking.score import Scorer
from ranker.ranking.version_watcher import VersionWatcher

CANDIDATES, BEST, NOW_MS = 200, 10, 2_100_000

Requests = npt.NDArray[np.float64]


@dataclass
class Load:
    """Requests of a world, ranked by the version that a watcher serves."""

    world: World
    watcher: VersionWatcher
    scorer: Scorer
    errors: int = 0
    kept: list[tuple[int, Ranked]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._asked = [self.world.request(CANDIDATES) for _ in range(50)]

    def rank(self, n: int, *, keep: bool = False) -> None:
        """One request."""
        served = self.watcher.served
        assert served is not None
        try:
            page = self.world.page(self._asked[n % len(self._asked)])
            ranked = rank_with(served.version, page, NOW_MS, BEST, self.scorer)
        except Exception:  # noqa: BLE001  # counted, whatever it is
            self.errors += 1
            return
        if keep:
            self.kept.append((served.version.number, ranked))

    def capacity_s(self, count: int = 300) -> float:
        """Requests a second, one after the other."""
        for n in range(60):
            self.rank(n)
        begun = time.perf_counter()
        for n in range(count):
            self.rank(n)
        return count / (time.perf_counter() - begun)

    def at(self, per_s: float, until: Callable[[], bool]) -> Requests:
        """Due time and latency (s) of each request, until it's over. [n, 2]."""
        found, begun, n = [], time.perf_counter(), 0
        while not until():
            due = begun + n / per_s
            if (left := due - time.perf_counter()) > 0:
                time.sleep(left)
            self.rank(n, keep=n % 20 == 0)
            found.append((due, time.perf_counter() - due))
            n += 1
        return np.array(found)
