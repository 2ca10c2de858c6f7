"""Are the versions that a store keeps what rankers would take? Each content is read once, whoever names it."""

from collections.abc import Iterator

from ranker.kernels.layered_table import check_once
from ranker.kernels.plan import Plan
from ranker.versions.snapshot_validation import dense_of, statistic_change, vectors_of, wide_change
from stream.runtime.errors import BadSnapshot, SpecError
from stream.snapshots.contents import Content
from stream.snapshots.manifest import Manifest, named_blobs
from stream.snapshots.shown_items import PART as ITEMS
from stream.snapshots.shown_items import unpack_names
from stream.snapshots.store import SnapshotStore, fetch
from stream.spec.spec_file import decode_spec

Name = tuple[str, ...]  # a content: its spec, its part, its digests


class Verifier:
    """Looks at versions, oldest first. Those that a live store drops before they're read are counted, not blamed."""

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store
        self._plans: dict[str, Plan] = {}  # by fingerprint
        self._sound: set[Name] = set()
        self._faults: dict[Name, tuple[str, list[int]]] = {}  # where and why, and which versions name it
        self._blobs: set[str] = set()
        self.collected = 0  # versions that went before they were read

    @property
    def contents(self) -> int:
        """How many were read, sound or not."""
        return len(self._sound) + sum(len(name) > 1 for name in self._faults)

    @property
    def blobs(self) -> int:
        """How many different ones are named."""
        return len(self._blobs)

    def faults(self) -> Iterator[str]:
        """A line for each manifest and each content that is wrong."""
        for where, versions in self._faults.values():
            more = f" ({len(versions)} versions name it, up to {versions[-1]})" if len(versions) > 1 else ""
            yield f"{where}{more}"

    def look(self, number: int) -> None:
        """Read a version as far as it's new. Raises StoreUnavailable."""
        try:
            manifest = self._store.manifest(number)
        except BadSnapshot as bad:
            self._blame((str(number),), number, str(bad))
            return
        try:
            plan = self._plan(manifest)
        except BadSnapshot as bad:
            self._blame((str(number),), number, f"version {number}: {bad}")
            return
        for part, version in manifest.parts.items():
            for digests in version.contents():
                name = (manifest.fingerprint, part, *digests)
                if name in self._faults:
                    self._faults[name][1].append(number)
                elif name not in self._sound:
                    try:
                        check(part, fetch(self._store, digests), plan)
                    except BadSnapshot as bad:
                        if not self._blame(name, number, f"version {number}, {part}: {bad}"):
                            return
                    else:
                        self._sound.add(name)
        self._blobs.update(named_blobs(manifest))

    def _blame(self, name: Name, number: int, where: str) -> bool:
        """What is wrong with a version that is still kept is wrong; is it kept?"""
        kept = number in self._store.versions()
        if kept:
            self._faults[name] = where, [number]
        else:
            self.collected += 1
        return kept

    def _plan(self, manifest: Manifest) -> Plan:
        """The spec that it carries, compiled; all its parts are there."""
        plan = self._plans.get(manifest.fingerprint)
        try:
            spec = decode_spec(manifest.spec)
            if spec.fingerprint() != manifest.fingerprint:
                raise BadSnapshot(f"it says it's of spec {manifest.fingerprint}, but carries {spec.fingerprint()}")
            plan = plan or Plan(spec)
        except SpecError as bad:
            raise BadSnapshot(f"its spec can't be read: {bad}") from None
        if missing := {"wide", "statistics", *plan.spec.parts} - manifest.parts.keys():
            raise BadSnapshot(f"it lacks {', '.join(sorted(missing))}, which its spec asks for")
        self._plans[manifest.fingerprint] = plan
        return plan


def check(part: str, content: Content, plan: Plan) -> None:
    """A content as rankers check it. Raises BadSnapshot. What no ranker reads only has to be a content."""
    if part == "wide":
        check_once(wide_change(content))
    elif part == "statistics":
        check_once(statistic_change(content, plan))
    elif part == ITEMS:
        unpack_names(content)
    elif part in plan.spec.parts:
        check_once(vectors_of(content, plan.spec.deep.embedding_dim))
        dense_of(content, plan)
