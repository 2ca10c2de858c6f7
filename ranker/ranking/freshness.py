"""Freshness: from an install's ingest to the first reply that has learned it; the deep part's own beside it.

A version's wide weights and statistics have learned all its examples; its deep part, those up to the version that its
manifest names.
"""

import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

from ranker import metrics

INSTALLS_MAX: Final = 50_000  # that wait; over it every second one goes, which leaves a fair sample
VERSIONS_MAX: Final = 1_000  # that were swapped in since the last reply

Learned = tuple[int, list[int]]  # a version, and the ingest times of installs first learned in it


class Waiting:
    """Ingest times of installs, until a version that has learned them is reached. Versions rise."""

    def __init__(self) -> None:
        self._installs: deque[tuple[int, int]] = deque()  # version, ingest time

    def add(self, learned: Sequence[Learned]) -> None:
        """These wait, too."""
        self._installs.extend((version, ingest) for version, ingests in learned for ingest in ingests)
        if len(self._installs) > INSTALLS_MAX:
            self._installs = deque(list(self._installs)[::2])

    def take(self, version: int) -> list[int]:
        """Those that this version has learned; they wait no longer."""
        found: list[int] = []
        while self._installs and self._installs[0][0] <= version:
            found.append(self._installs.popleft()[1])
        return found


class Freshness:
    """Measures, for each install, the first reply that has learned it. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting, self._waiting_deep = Waiting(), Waiting()
        self._deep_versions: deque[tuple[int, int]] = deque(maxlen=VERSIONS_MAX)  # and that of its deep part

    def servable(self, version: int, deep_version: int, learned: Sequence[Learned], now_ms: int) -> None:
        """`version` was swapped in now, and with it all that was `learned`. `deep_version`: 0 where nobody says."""
        for _, ingests in learned:
            for ingest in ingests:
                metrics.SERVABLE.observe(max(0, now_ms - ingest) / 1e3)
        with self._lock:
            self._waiting.add(learned)
            if deep_version:
                self._waiting_deep.add(learned)
                self._deep_versions.append((version, deep_version))

    def replied(self, version: int, now_ms: int) -> None:
        """A reply by `version` goes out now: with it all that it has learned."""
        with self._lock:
            served = self._waiting.take(version)
            deep = self._waiting_deep.take(self._deep_version_of(version))
        for ingest in served:
            metrics.FRESHNESS.observe(max(0, now_ms - ingest) / 1e3)
        for ingest in deep:
            metrics.FRESHNESS_DEEP.observe(max(0, now_ms - ingest) / 1e3)

    def _deep_version_of(self, version: int) -> int:
        """Of the newest that isn't newer than `version`; older ones are forgotten."""
        found = 0
        while self._deep_versions and self._deep_versions[0][0] <= version:
            found = self._deep_versions.popleft()[1]
        return found
