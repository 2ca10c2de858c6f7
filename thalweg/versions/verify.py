"""Verifies that rankers would accept the versions in a store. Each payload is read once, whoever names it."""

from collections.abc import Iterator

from ranker.kernels.layered_table import check_distinct
from ranker.kernels.plan import Plan
from ranker.versions.snapshot_validation import dense_layers, embedding_change, statistic_change, wide_change
from stream.runtime.errors import BadSnapshot, SpecError
from stream.snapshots.item_names import ITEMS_PART, unpack_names
from stream.snapshots.manifest import Manifest, named_blobs
from stream.snapshots.payload import Payload
from stream.snapshots.store import SnapshotStore, fetch
from stream.spec.spec_file import decode_spec

VerifiedKey = tuple[str, ...]  # of a payload: its spec, its part, its digests; of a manifest: its version


class Verifier:
    """Verifies versions, oldest first. Versions that a live store collects meanwhile are counted, not faults."""

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store
        self._valid: set[VerifiedKey] = set()
        self._faults: dict[VerifiedKey, tuple[str, list[int]]] = {}  # message, and the versions that name it
        self._blobs: set[str] = set()
        self.collected = 0  # versions that were collected before they were read

    @property
    def payloads(self) -> int:
        """How many payloads were read, valid or not."""
        return len(self._valid) + sum(len(key) > 1 for key in self._faults)

    @property
    def blobs(self) -> int:
        """How many different blobs are named."""
        return len(self._blobs)

    def faults(self) -> Iterator[str]:
        """A line for each manifest and each payload that is wrong."""
        for message, versions in self._faults.values():
            more = f" ({len(versions)} versions name it, up to {versions[-1]})" if len(versions) > 1 else ""
            yield f"{message}{more}"

    def verify(self, number: int) -> None:
        """Verify a version; payloads of earlier ones aren't read again. Raises StoreUnavailable."""
        try:
            manifest = self._store.manifest(number)
        except BadSnapshot as bad:
            self._add_fault((str(number),), number, str(bad))
            return
        try:
            plan = _plan(manifest)
        except BadSnapshot as bad:
            self._add_fault((str(number),), number, f"version {number}: {bad}")
            return
        for part, version in manifest.parts.items():
            for digests in version.payloads():
                key = (manifest.fingerprint, part, *digests)
                if key in self._faults:
                    self._faults[key][1].append(number)
                elif key not in self._valid:
                    try:
                        validate_payload(part, fetch(self._store, digests), plan)
                    except BadSnapshot as bad:
                        if not self._add_fault(key, number, f"version {number}, {part}: {bad}"):
                            return
                    else:
                        self._valid.add(key)
        self._blobs.update(named_blobs(manifest))

    def _add_fault(self, key: VerifiedKey, number: int, message: str) -> bool:
        """Add a fault, unless the version was collected meanwhile; returns whether it's still there."""
        is_retained = number in self._store.versions()
        if is_retained:
            self._faults[key] = message, [number]
        else:
            self.collected += 1
        return is_retained


def _plan(manifest: Manifest) -> Plan:
    """The spec in the manifest, compiled. Raises BadSnapshot, also when a part is missing."""
    try:
        spec = decode_spec(manifest.spec)
        if spec.fingerprint() != manifest.fingerprint:
            raise BadSnapshot(f"it says it's of spec {manifest.fingerprint}, but carries {spec.fingerprint()}")
        plan = Plan(spec)
    except SpecError as bad:
        raise BadSnapshot(f"its spec can't be read: {bad}") from None
    if missing := {"wide", "statistics", *spec.parts} - manifest.parts.keys():
        raise BadSnapshot(f"it lacks {', '.join(sorted(missing))}, which its spec asks for")
    return plan


def validate_payload(part: str, payload: Payload, plan: Plan) -> None:
    """Validate a payload as rankers do; parts that no ranker reads are accepted. Raises BadSnapshot."""
    if part == "wide":
        check_distinct(wide_change(payload))
    elif part == "statistics":
        check_distinct(statistic_change(payload, plan))
    elif part == ITEMS_PART:
        unpack_names(payload)
    elif part in plan.spec.parts:
        check_distinct(embedding_change(payload, plan.spec.deep.embedding_dim))
        dense_layers(payload, plan)
