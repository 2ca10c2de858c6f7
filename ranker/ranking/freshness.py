"""Freshness: from an install's ingest to the first reply that has learned it; the deep part's own beside it.

Whoever replies only notes a version's first reply; what it has learned, up to a thousand installs, is observed
elsewhere.

A version's wide weights and statistics have learned all its examples; its deep part, those up to the version that its
manifest names.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from ranker import metrics

PENDING_MAX: Final = 50_000  # beyond it every second one is dropped, which leaves a fair sample
VERSIONS_MAX: Final = 1_000  # swapped in since the last reply

Learned = tuple[int, list[int]]  # a version, and the ingest times (ms) of installs first learned in it


class PendingInstalls:
    """Ingest times of installs that no reply has learned yet. Versions rise."""

    def __init__(self) -> None:
        self._installs: deque[tuple[int, int]] = deque()  # version, ingest time in ms

    def add(self, learned: Sequence[Learned]) -> None:
        """Add the installs of these versions."""
        self._installs.extend((version, ingest) for version, ingests in learned for ingest in ingests)
        if len(self._installs) > PENDING_MAX:
            self._installs = deque(list(self._installs)[::2])

    def pop_learned(self, version: int) -> list[int]:
        """Remove those that this version has learned; returns their ingest times."""
        found: list[int] = []
        while self._installs and self._installs[0][0] <= version:
            found.append(self._installs.popleft()[1])
        return found


class FreshnessTracker:
    """Measures, for each install, the first reply that has learned it. Any thread replies; one calls the others."""

    def __init__(self) -> None:
        self._replied = 0  # the newest version so far
        self._first_replies: deque[tuple[int, int]] = deque()  # version, when (ms)
        self._pending, self._pending_deep = PendingInstalls(), PendingInstalls()
        self._deep_versions: deque[tuple[int, int]] = deque(maxlen=VERSIONS_MAX)  # version, that of its deep part

    def swapped_in(self, version: int, deep_version: int, learned: Sequence[Learned], now_ms: int) -> None:
        """`version` is live from now on, with what was `learned`. `deep_version` is 0 where the manifest has none."""
        for _, ingests in learned:
            for ingest in ingests:
                metrics.SERVABLE.observe(max(0, now_ms - ingest) / 1e3)
        self._pending.add(learned)
        if deep_version:
            self._pending_deep.add(learned)
            self._deep_versions.append((version, deep_version))

    def replied(self, version: int, now_ms: int) -> None:
        """A reply by `version` is sent now."""
        if version > self._replied:  # two threads may both find it so: the second reply finds nothing pending
            self._replied = version
            self._first_replies.append((version, now_ms))

    def observe(self) -> None:
        """Observe what the first replies of versions have learned."""
        while self._first_replies:
            version, now_ms = self._first_replies.popleft()
            for ingest in self._pending.pop_learned(version):
                metrics.FRESHNESS.observe(max(0, now_ms - ingest) / 1e3)
            for ingest in self._pending_deep.pop_learned(self._deep_version_of(version)):
                metrics.FRESHNESS_DEEP.observe(max(0, now_ms - ingest) / 1e3)

    def _deep_version_of(self, version: int) -> int:
        """That of the newest version not above `version`; older entries are dropped."""
        found = 0
        while self._deep_versions and self._deep_versions[0][0] <= version:
            found = self._deep_versions.popleft()[1]
        return found
