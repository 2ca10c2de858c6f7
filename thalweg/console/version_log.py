"""The timeline of versions: published, refused with the reason, pinned; from the store and the learner's metrics."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from stream.runtime.errors import BadSnapshot, SnapshotError
from stream.snapshots.manifest import Manifest
from stream.snapshots.store import SnapshotStore
from thalweg.console.rooms import RoomReading

SEEDED: Final = 12  # versions read at the start
REFUSED: Final = "thalweg_learner_refused_versions_total"
ROLL_BACKS: Final = "thalweg_learner_roll_backs_total"
NAMES: Final = (REFUSED, ROLL_BACKS)
EVIDENCE_BYTES_MAX: Final = 256 * 1024
REASON_CHARS_MAX: Final = 400
FIGURES: Final = {"auc": "auc_arrival", "log_loss": "log_loss"}


class _Evidence(msgspec.Struct):
    """As much of a refused version's evidence as people read."""

    reason: str = ""


class VersionLog:
    """Follows head, decision, and what the gate refuses. For one thread.

    `quarantine`: the folder of the learner's evidence, if it's here; `now_ms` is the wall clock.
    """

    def __init__(self, store: SnapshotStore, quarantine: Path | None, now_ms: Callable[[], int]) -> None:
        self._store, self._quarantine, self._now_ms = store, quarantine, now_ms
        self._head = 0
        self._decision: tuple[int, int] | None = None
        self._counts: dict[str, float] | None = None  # of refusals by cause, at the last update

    def update(self, readings: Sequence[RoomReading]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Head and pinned version, and new entries, oldest first."""
        entries = self._refusals(readings)
        try:
            head, decision = self._store.head(), self._store.decision()
            entries = self._published(head.version if head else 0) + entries
            entries += self._decided(decision.version, decision.number)
        except SnapshotError as bad:
            return {"error": str(bad)[:REASON_CHARS_MAX]}, entries
        return {"head": self._head, "pinned": decision.version}, entries

    def _published(self, head: int) -> list[dict[str, Any]]:
        if head == self._head:
            return []
        wanted = [head] if self._head else [one for one in self._store.versions() if one <= head][-SEEDED:]
        entries = []
        for version in filter(None, wanted):
            try:
                entries.append(published(self._store.manifest(version)))
            except BadSnapshot:  # it was collected meanwhile, or is damaged, which its rankers say
                continue
        self._head = head
        return entries

    def _decided(self, version: int, number: int) -> list[dict[str, Any]]:
        before, self._decision = self._decision, (version, number)
        if before == self._decision or (before is None and not version):
            return []
        time_ms = number // 1000 or self._now_ms()  # the store's clock in µs; a wiped one has none
        return [{"kind": "pinned" if version else "unpinned", "version": version, "time_ms": time_ms}]

    def _refusals(self, readings: Sequence[RoomReading]) -> list[dict[str, Any]]:
        counts: dict[str, float] = {}
        for one in (one for reading in readings for one in reading.samples):
            if one.name == REFUSED and one.labels.get("cause"):
                counts[one.labels["cause"]] = counts.get(one.labels["cause"], 0.0) + one.value
            elif one.name == ROLL_BACKS:
                counts["rolled_back"] = counts.get("rolled_back", 0.0) + one.value
        if not any(one.room == "learner" and one.samples for one in readings):
            return []  # it didn't answer
        before, self._counts = self._counts, counts
        return [] if before is None else self._increases(before, counts)

    def _increases(self, before: Mapping[str, float], counts: Mapping[str, float]) -> list[dict[str, Any]]:
        more = {cause: int(count - before.get(cause, 0.0)) for cause, count in counts.items()}
        return [
            {
                "kind": "rolled_back" if cause == "rolled_back" else "refused",
                "cause": cause,
                "count": count,
                "reason": self._reason(cause),
                "time_ms": self._now_ms(),
            }
            for cause, count in more.items()
            if count > 0
        ]

    def _reason(self, cause: str) -> str:
        """The reason in the newest evidence of this cause; empty without one."""
        found = sorted(self._quarantine.glob(f"*-{cause}.json")) if self._quarantine else []
        try:
            if not found or found[-1].stat().st_size > EVIDENCE_BYTES_MAX:
                return ""
            return msgspec.json.decode(found[-1].read_bytes(), type=_Evidence).reason[:REASON_CHARS_MAX]
        except (OSError, msgspec.DecodeError):
            return ""


def published(manifest: Manifest) -> dict[str, Any]:
    """The entry of a version."""
    figures = {name: round(manifest.metrics.get(metric, 0.0), 4) for name, metric in FIGURES.items()}
    return {
        "kind": "published",
        "version": manifest.version,
        "time_ms": manifest.created_ms,
        "examples": manifest.examples,
        "installs": len(manifest.ingest_ms),
        **figures,
    }
