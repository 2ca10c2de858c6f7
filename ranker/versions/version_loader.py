"""From manifests to versions: contents fetched once, laid over what the live version already has, then tried out.

A version whose manifest begins with the same contents as the previous one's costs what is new; so does one whose
merged delta holds what the previous one has already; another with the same base costs its deltas. Nothing is served
before `try_out`: shapes fit the spec, all is finite, the golden rows score as its publisher says, and its own
statistics rank them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

import numpy as np
from msgspec import UNSET

from ranker.kernels.crossing import read_rows
from ranker.kernels.item_activation_cache import ItemParts
from ranker.kernels.layered_table import Layers, Name, Stack
from ranker.kernels.net import net_of
from ranker.kernels.pair_cache import pairs_of
from ranker.kernels.plan import Plan
from ranker.versions.model import BATCH_ITEMS, Tower, Version, embeddings_of, score_features
from ranker.versions.snapshot_validation import dense_of, statistic_change, vectors_of, wide_change
from stream.features.page_features import F32, Catalogue, build_page, statistics_of, words_of
from stream.runtime.errors import BadEvent, BadSnapshot, SnapshotError, SpecError
from stream.snapshots.item_names import ITEMS_PART, unpack_names
from stream.snapshots.manifest import Manifest
from stream.snapshots.payload import Payload
from stream.snapshots.store import VersionReader, fetch
from stream.spec.spec_file import decode_spec
from stream.tables.delta_table import Take, lines
from stream.tables.hash_table import U64

GOLDEN_DIFFERENCE_MAX: Final = 1e-4
STATISTIC_DIFFERENCE_MAX: Final = 1e-3  # relative


class Loads(Protocol):
    """Loads versions, each from the one before: this process, or one of its own (`builder_client.py`)."""

    def load(self, number: int, previous: Version | None = None) -> Version:
        """Version `number`, tried out. Raises BadSnapshot when it must not be served, StoreUnavailable."""
        ...


def load_version(store: VersionReader, model: str, number: int) -> Version:
    """One version of a model, from nothing. Raises BadSnapshot, StoreUnavailable."""
    return Loader(store, model).load(number)


class Loader:
    """Loads versions of one model, each from the one before, into arrays that `take` gives. One thread only."""

    def __init__(self, store: VersionReader, model: str, take: Take = lines) -> None:
        self._store = store
        self._model = model
        self._take = take
        self._forget()

    def _forget(self) -> None:
        self._deltas: dict[Name, Payload] = {}  # of the newest manifest: the next ones name most of them again
        self._stacks = {part: Stack(self._take) for part in ("wide", "statistics", "deep")}

    def load(self, number: int, previous: Version | None = None) -> Version:
        """Version `number`, tried out. Raises BadSnapshot when it must not be served, StoreUnavailable."""
        try:
            return self._load(number, previous)
        except SnapshotError:
            raise
        except Exception:
            self._forget()  # nothing half built stays
            raise

    def _load(self, number: int, previous: Version | None) -> Version:
        manifest = self._store.manifest(number)
        if (manifest.model, manifest.version) != (self._model, number):
            raise BadSnapshot(f"manifest {number} of {self._model} says it is {manifest.version} of {manifest.model}")
        version = self._build(manifest, previous)
        try_out(version)
        return version

    def _build(self, manifest: Manifest, previous: Version | None) -> Version:
        plan = plan_of(manifest, previous)
        if previous is not None and previous.plan is not plan:
            previous = None  # rows of another spec may have other widths
        if previous is not None:
            previous = self._renamed(previous, manifest)
        parts = {"wide", "statistics"} | ({"deep"} if "deep" in plan.spec.parts else set())
        if missing := parts - set(manifest.parts):
            raise BadSnapshot(f"version {manifest.version} lacks {', '.join(sorted(missing))}, which its spec asks for")
        named = {part: tuple(map(tuple, manifest.parts[part].payloads())) for part in parts}
        small = {tuple(d) for part in parts for d in manifest.parts[part].deltas}
        known = list(self._deltas.items())  # at once: who makes a base aside writes there, too
        self._deltas = {name: content for name, content in known if name in small}

        fetched = dict(self._deltas)

        def read(name: Name) -> Payload:
            if name not in fetched:
                fetched[name] = fetch(self._store, name)
                if name in small:
                    self._deltas[name] = fetched[name]
            return fetched[name]

        wide = self._stacks["wide"].lay(
            named["wide"], previous.wide if previous else None, lambda name: wide_change(read(name))
        )
        statistics = self._stacks["statistics"].lay(
            named["statistics"],
            previous.statistics if previous else None,
            lambda name: statistic_change(read(name), plan),
        )
        tower = None
        if "deep" in parts:
            tower = self._tower(named["deep"], previous.tower if previous else None, read, plan)
        return version_of(manifest, plan, wide, statistics, tower, previous, self._shown(manifest, previous))

    def _shown(self, manifest: Manifest, previous: Version | None) -> tuple[str, ...]:
        """Names of items that were shown; the same object while they're the same. Earlier builds bring none."""
        part, before = (
            one.parts.get(ITEMS_PART) if one else None for one in (manifest, previous and previous.manifest)
        )
        if previous is not None and before is not None and part is not None and part.base == before.base:
            return previous.shown
        return unpack_names(fetch(self._store, part.base)) if part else ()

    def _renamed(self, live: Version, manifest: Manifest) -> Version:
        """The live version, its contents called what the next manifest calls them where it holds them otherwise."""
        kept = {part: held_already(live.manifest, manifest, part) for part in manifest.parts}
        if not any(kept.values()) or not self._follows(live.manifest, manifest):
            return live

        def renamed(part: str, layers: Layers) -> Layers:
            return replace(layers, names=kept[part]) if kept.get(part) else layers

        tower = replace(live.tower, rows=renamed("deep", live.tower.rows)) if live.tower else None
        return replace(
            live, wide=renamed("wide", live.wide), statistics=renamed("statistics", live.statistics), tower=tower
        )

    def _follows(self, live: Manifest, manifest: Manifest) -> bool:
        """Is `manifest` of those that one publisher cut after the live one? When the store has forgotten: no."""
        try:
            while manifest.parent > live.version and manifest.token == live.token:
                manifest = self._store.manifest(manifest.parent)
            return (manifest.parent, manifest.token) == (live.version, live.token) and (
                self._store.manifest(live.version) == live
            )
        except BadSnapshot:
            return False

    def _tower(
        self, names: tuple[Name, ...], previous: Tower | None, read: Callable[[Name], Payload], plan: Plan
    ) -> Tower:
        """The deep part of contents. Each content has all dense arrays: the last one's count."""
        if previous is not None and previous.rows.names == names:
            return previous
        dim = plan.spec.deep.embedding_dim
        rows = self._stacks["deep"].lay(
            names, previous.rows if previous else None, lambda name: vectors_of(read(name), dim)
        )
        layers, boundaries = dense_of(read(names[-1]), plan)
        net = net_of(plan, layers, boundaries)
        parts = ItemParts(plan, embeddings_of(rows), net, previous.parts if previous else None)
        return Tower(rows, net, parts)


def version_of(
    manifest: Manifest,
    plan: Plan,
    wide: Layers,
    statistics: Layers,
    tower: Tower | None,
    previous: Version | None,
    shown: tuple[str, ...],
) -> Version:
    """These parts as a version, which goes on with what `previous`, of the same plan, keeps of pairs."""
    if previous is not None and previous.plan is plan:
        pairs = previous.pairs.follow(wide, statistics)
    else:
        pairs = pairs_of(wide, plan.squares, statistics, plan.likenesses)
    return Version(manifest, plan, wide, statistics, pairs, tower, shown)


def held_already(live: Manifest, manifest: Manifest, part: str) -> tuple[Name, ...]:
    """What `manifest` calls what the live version has of a part, if it's base or merged delta in other words; else ().

    The live version was cut after what these cover, and before small deltas became them; from its last small deltas
    those that `manifest` names are told. Only the numbers are looked at, not where they come from.
    """
    before, now = live.parts.get(part), manifest.parts[part]
    if before is None or now.covers is UNSET or now.covers == before.covers:
        return ()
    if not now.covers <= live.version < manifest.version:
        return ()
    both = range(min(len(before.deltas), len(now.deltas)) + 1)
    had = max(n for n in both if before.deltas[len(before.deltas) - n :] == now.deltas[:n])
    contents = now.payloads()
    return tuple(map(tuple, contents[: len(contents) - len(now.deltas) + had]))


def plan_of(manifest: Manifest, previous: Version | None) -> Plan:
    """A manifest's spec, compiled; the version before it has it when its spec is the same. Raises BadSnapshot."""
    if previous is not None and previous.manifest.spec == manifest.spec:
        plan = previous.plan
    else:
        try:
            plan = Plan(decode_spec(manifest.spec))
        except SpecError as bad:
            raise BadSnapshot(f"version {manifest.version}: {bad}") from None
    if plan.spec.fingerprint() != manifest.fingerprint:
        raise BadSnapshot(f"version {manifest.version} is of spec {manifest.fingerprint}, but carries another")
    return plan


def try_out(version: Version) -> None:
    """The dry run: pages are ranked, and every golden row scores as its publisher says. Raises BadSnapshot.

    What ranks for the first time here, with its kernels and its items' parts, has done so before a request comes.
    A golden page has the statistics of its own time; what the version's own say of it is told beside it.
    """
    page = build_page(version.plan.layout, version.plan.layout.user("", {}, [], {}), Catalogue(version.plan.layout),
                      np.zeros(1, np.int64))  # fmt: skip
    _rank(version, page, "an unknown item for an unknown user")
    if version.manifest.examples and not version.manifest.golden:
        raise BadSnapshot(f"version {version.number} has learned, but brings no golden page to try it out with")
    if version.manifest.examples and not _counts_labels(version):
        raise BadSnapshot(f"version {version.number} has learned, but its statistics know of no label")
    for golden in version.manifest.golden:
        try:
            scores = score_features(version, golden.features, len(golden.scores))
        except BadEvent as bad:
            raise BadSnapshot(f"version {version.number}: a golden page can't be scored: {bad}") from None
        words = words_of(golden.features, version.plan.layout, len(scores)).copy()
        _rank(version, words, "an item of a golden page")
        if golden.statistics is not UNSET and not _alike(statistics_of(version.plan.layout, words), golden.statistics):
            raise BadSnapshot(f"version {version.number}: a golden page's statistics aren't those in its tables")
        off = float(np.abs(scores - np.array(golden.scores, np.float64)).max())
        if not off <= GOLDEN_DIFFERENCE_MAX:
            raise BadSnapshot(
                f"version {version.number}: a golden page's scores are off by {off:.3g}, over {GOLDEN_DIFFERENCE_MAX}"
            )


def _rank(version: Version, words: U64, whose: str) -> None:
    """As a request is ranked, its statistics read in the version's own tables."""
    run = version.begin(words, version.manifest.watermark_ms)
    for first in range(0, len(run.logits), BATCH_ITEMS):
        version.score(run, first, min(first + BATCH_ITEMS, len(run.logits)))
    if not np.isfinite(run.logits).all():
        raise BadSnapshot(f"version {version.number}: the score of {whose} isn't finite")


def _alike(found: F32, told: bytes) -> bool:
    if len(told) != found.nbytes:
        return False
    wanted = np.frombuffer(told, np.float32)
    there = ~np.isnan(wanted)
    wanted, near = wanted[there], found[there]
    differences = np.abs(near - wanted) <= STATISTIC_DIFFERENCE_MAX * np.abs(wanted) + 1e-4
    return bool(differences.all()) and int(np.count_nonzero(np.isnan(found))) == len(found) - len(wanted)


def _counts_labels(version: Version) -> bool:
    """Whether there's the row of everything, which each label moves."""
    key, numbers = np.array([version.plan.program.base_key], np.uint64), np.zeros((3, 1))
    read_rows(key, np.empty_like(key), 1, version.statistics.rows, 0.0, 0.0, *numbers)
    return bool(numbers[2, 0] >= 0)
