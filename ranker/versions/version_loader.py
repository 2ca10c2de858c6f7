"""Loads versions from their manifests: fetches each payload once, applies it to the previous version, validates it.

A version costs only its new payloads when its manifest begins with the previous one's payloads, or when its merged
delta covers deltas that the previous one has; another version of the same base costs its deltas. Nothing is served
before `validate_version`: shapes fit the spec, all scores are finite, golden rows score as published, and the version's
own statistics rank them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

import numpy as np
from msgspec import UNSET

from ranker.kernels.item_activation_cache import ActivationCache
from ranker.kernels.layered_table import Change, LayeredTable, PayloadId, TableBuilder
from ranker.kernels.net import net_of
from ranker.kernels.pair_cache import new_cache
from ranker.kernels.plan import Plan
from ranker.kernels.table_reads import read_rows
from ranker.versions.learned_items import LearnedItems, build_learned_items
from ranker.versions.model import BATCH_ITEMS, ServingTower, Version, embeddings_of, score_features
from ranker.versions.snapshot_validation import dense_layers, embedding_change, statistic_change, wide_change
from stream.features.page_features import Catalogue, build_page, statistics_of, words_of
from stream.features.statistic_reads import StatisticRows
from stream.runtime.errors import BadEvent, BadSnapshot, SnapshotError, SpecError
from stream.snapshots.item_names import ITEMS_PART, unpack_names
from stream.snapshots.manifest import Decision, Manifest
from stream.snapshots.payload import Payload
from stream.snapshots.retrieval_rows import RETRIEVAL_PART
from stream.snapshots.store import VersionReader, fetch
from stream.snapshots.version_files import VersionFiles
from stream.spec.spec_file import decode_spec
from stream.tables.delta_table import Allocate, cache_aligned
from stream.tables.dtypes import F32, U64

GOLDEN_DIFFERENCE_MAX: Final = 1e-4
STATISTIC_DIFFERENCE_MAX: Final = 1e-3  # relative


class VersionProvider(Protocol):
    """Loads versions, each from the previous one: in this process, or in a builder process (`builder_client.py`)."""

    def load(self, number: int, previous: Version | None = None) -> Version:
        """Version `number`, validated. Raises BadSnapshot when it must not be served, StoreUnavailable."""
        ...

    def save(self, files: VersionFiles, manifest: Manifest, decision: Decision) -> None:
        """Save a version and a decision for a start without the store. Raises SnapshotError, OSError."""
        ...


def load_version(store: VersionReader, model: str, number: int) -> Version:
    """One version of a model, from scratch. Raises BadSnapshot, StoreUnavailable."""
    return VersionLoader(store, model).load(number)


class VersionLoader:
    """Loads versions of one model, each from the previous one, into arrays that `allocate` returns. One thread only."""

    def __init__(self, store: VersionReader, model: str, allocate: Allocate = cache_aligned) -> None:
        self._store = store
        self._model = model
        self._allocate = allocate
        self._reset()

    def _reset(self) -> None:
        self._deltas: dict[PayloadId, Payload] = {}  # of the newest manifest: later ones name most of them again
        self._table_builders = {
            part: TableBuilder(self._allocate) for part in ("wide", "statistics", "deep", RETRIEVAL_PART)
        }

    def load(self, number: int, previous: Version | None = None) -> Version:
        """Version `number`, validated. Raises BadSnapshot when it must not be served, StoreUnavailable."""
        try:
            manifest = self._store.manifest(number)
            if (manifest.model, manifest.version) != (self._model, number):
                named = f"version {manifest.version} of {manifest.model}"
                raise BadSnapshot(f"the manifest of version {number} of {self._model} says it is {named}")
            version = self._build(manifest, previous)
            validate_version(version)
        except SnapshotError:
            raise
        except Exception:
            self._reset()  # drop what is half built
            raise
        return version

    def save(self, files: VersionFiles, manifest: Manifest, decision: Decision) -> None:
        """See VersionProvider; any thread may call it."""
        files.save_decision(decision)
        files.save(self._store, manifest)

    def _build(self, manifest: Manifest, previous: Version | None) -> Version:
        plan = plan_of(manifest, previous)
        if previous is not None and previous.plan is not plan:
            previous = None  # rows of another spec may have other widths
        if previous is not None:
            previous = self._relabel_merged_payloads(manifest, previous)
        parts = {"wide", "statistics"} | ({"deep"} if "deep" in plan.spec.parts else set())
        if missing := parts - set(manifest.parts):
            raise BadSnapshot(f"version {manifest.version} lacks {', '.join(sorted(missing))}, which its spec asks for")
        if plan.spec.retrieval.is_learned and RETRIEVAL_PART in manifest.parts:  # earlier builds published none
            parts |= {RETRIEVAL_PART}
        payload_ids = {part: tuple(map(tuple, manifest.parts[part].payloads())) for part in parts}
        small = {tuple(d) for part in parts for d in manifest.parts[part].deltas}
        known = list(self._deltas.items())  # one atomic copy: the thread that builds a base writes to it, too
        self._deltas = {payload_id: payload for payload_id, payload in known if payload_id in small}

        fetched = dict(self._deltas)

        def read(payload_id: PayloadId) -> Payload:
            if payload_id not in fetched:
                fetched[payload_id] = fetch(self._store, payload_id)
                if payload_id in small:
                    self._deltas[payload_id] = fetched[payload_id]
            return fetched[payload_id]

        def layers(part: str, before: LayeredTable | None, change: Callable[[Payload], Change]) -> LayeredTable:
            return self._table_builders[part].build(
                payload_ids[part], before, lambda payload_id: change(read(payload_id))
            )

        wide = layers("wide", previous.wide if previous else None, wide_change)
        before = previous.statistics if previous else None
        statistics = layers("statistics", before, lambda payload: statistic_change(payload, plan))
        tower = old = previous.tower if previous else None
        if "deep" in parts and (old is None or old.embeddings.payload_ids != payload_ids["deep"]):
            dim = plan.spec.deep.embedding_dim
            rows = layers("deep", old.embeddings if old else None, lambda payload: embedding_change(payload, dim))
            # Each payload has all dense arrays: the last one's are used.
            net = net_of(plan, *dense_layers(read(payload_ids["deep"][-1]), plan))
            embeddings = embeddings_of(rows, plan.item.deep.unseen)
            tower = ServingTower(rows, net, ActivationCache(plan, embeddings, net, old.items if old else None))
        learned = None
        if RETRIEVAL_PART in parts:
            before_learned = previous.learned_items if previous else None
            learned = build_learned_items(plan.spec.retrieval, before_learned, layers)
        shown = self._shown(manifest, previous)
        return version_of(manifest, plan, wide, statistics, tower, previous, shown, learned)

    def _shown(self, manifest: Manifest, previous: Version | None) -> tuple[str, ...]:
        """Names of items that were shown: the same object while they're equal. Earlier manifests have none."""
        part, before = (
            one.parts.get(ITEMS_PART) if one else None for one in (manifest, previous and previous.manifest)
        )
        if previous is not None and before is not None and part is not None and part.base == before.base:
            return previous.shown
        return unpack_names(fetch(self._store, part.base)) if part else ()

    def _relabel_merged_payloads(self, manifest: Manifest, live: Version) -> Version:
        """The live version, its payload ids replaced by those of the manifest that merged them."""
        merged = {part: merged_payload_ids(live.manifest, manifest, part) for part in manifest.parts}
        if not any(merged.values()) or not self._descends_from(live.manifest, manifest):
            return live

        def relabelled(part: str, layers: LayeredTable) -> LayeredTable:
            return replace(layers, payload_ids=merged[part]) if merged.get(part) else layers

        tower, learned = live.tower, live.learned_items
        return replace(
            live,
            wide=relabelled("wide", live.wide),
            statistics=relabelled("statistics", live.statistics),
            tower=replace(tower, embeddings=relabelled("deep", tower.embeddings)) if tower else None,
            learned_items=replace(learned, table=relabelled(RETRIEVAL_PART, learned.table)) if learned else None,
        )

    def _descends_from(self, live: Manifest, manifest: Manifest) -> bool:
        """Whether the live version's publisher made `manifest` from it; no when the store lacks one in between."""
        try:
            while manifest.parent > live.version and manifest.token == live.token:
                manifest = self._store.manifest(manifest.parent)
            return (manifest.parent, manifest.token) == (live.version, live.token) and (
                self._store.manifest(live.version) == live
            )
        except BadSnapshot:
            return False


def version_of(
    manifest: Manifest,
    plan: Plan,
    wide: LayeredTable,
    statistics: LayeredTable,
    tower: ServingTower | None,
    previous: Version | None,
    shown: tuple[str, ...],
    learned_items: LearnedItems | None,
) -> Version:
    """A version of these parts; it takes over the pair caches of `previous` when that has the same plan."""
    if previous is not None and previous.plan is plan:
        pairs = previous.pairs.follow(wide, statistics)
    else:
        pairs = new_cache(wide, plan.arrays.matrices, statistics, plan.memories)
    return Version(manifest, plan, wide, statistics, pairs, tower, shown, learned_items)


def merged_payload_ids(live: Manifest, manifest: Manifest, part: str) -> tuple[PayloadId, ...]:
    """Payloads in `manifest` that the live version already contains under older ids; () if none were merged.

    That is so when the live version is not older than what base and merged delta cover, but has it as small deltas.
    The small deltas that both name last are among them. Only version numbers are compared, not publishers.
    """
    before, now = live.parts.get(part), manifest.parts[part]
    if before is None or now.covers is UNSET or now.covers == before.covers:
        return ()
    if not now.covers <= live.version < manifest.version:
        return ()
    lengths = range(min(len(before.deltas), len(now.deltas)) + 1)
    shared = max(n for n in lengths if before.deltas[len(before.deltas) - n :] == now.deltas[:n])
    payloads = now.payloads()
    return tuple(map(tuple, payloads[: len(payloads) - len(now.deltas) + shared]))


def plan_of(manifest: Manifest, previous: Version | None) -> Plan:
    """A manifest's spec, compiled; the previous version's plan when the spec is the same. Raises BadSnapshot."""
    if previous is not None and previous.manifest.spec == manifest.spec:
        plan = previous.plan
    else:
        try:
            plan = Plan(decode_spec(manifest.spec))
        except SpecError as error:
            raise BadSnapshot(f"version {manifest.version}: {error}") from None
    if plan.spec.fingerprint() != manifest.fingerprint:
        raise BadSnapshot(f"version {manifest.version} is of spec {manifest.fingerprint}, but carries another")
    return plan


def validate_version(version: Version) -> None:
    """Rank pages, and compare the golden pages' scores with the published ones. Raises BadSnapshot.

    It also fills the version's caches before the first request. A golden page has the statistics of its own time;
    the manifest has beside it the statistics that the version's tables must give.
    """
    _rank(version, _page_of_unknowns(version), "an unknown item for an unknown user")
    if version.manifest.examples and not version.manifest.golden:
        raise BadSnapshot(f"version {version.number} has learned, but has no golden page to validate it with")
    if version.manifest.examples and not _has_labels(version):
        raise BadSnapshot(f"version {version.number} has learned, but its statistics have no label")
    for golden in version.manifest.golden:
        try:
            scores = score_features(version, golden.features, len(golden.scores))
        except BadEvent as error:
            raise BadSnapshot(f"version {version.number}: a golden page can't be scored: {error}") from None
        words = words_of(golden.features, version.plan.layout, len(scores)).copy()
        _rank(version, words, "an item of a golden page")
        if golden.statistics is not UNSET and not _close(statistics_of(version.plan.layout, words), golden.statistics):
            raise BadSnapshot(f"version {version.number}: a golden page's statistics aren't those in its tables")
        difference = float(np.abs(scores - np.array(golden.scores, np.float64)).max())
        if not difference <= GOLDEN_DIFFERENCE_MAX:
            raise BadSnapshot(
                f"version {version.number}: a golden page's scores are off by {difference:.3g}, "
                f"over {GOLDEN_DIFFERENCE_MAX}"
            )


def warm_up(version: Version) -> None:
    """Rank a page, so that the first request doesn't pay for what a version computes once, or maps into this process.

    For a version that another process validated.
    """
    golden = version.manifest.golden[:1]
    pages = [words_of(one.features, version.plan.layout, len(one.scores)).copy() for one in golden]
    for words in pages or [_page_of_unknowns(version)]:
        _rank(version, words, "an item of a golden page")


def _page_of_unknowns(version: Version) -> U64:
    layout = version.plan.layout
    user = layout.user("", {}, [], {})
    return build_page(layout, user, Catalogue(layout), np.zeros(1, np.int64), version.manifest.watermark_ms)


def _rank(version: Version, words: U64, of: str) -> None:
    """Rank as a request is ranked, with statistics read from the version's own tables."""
    run = version.begin(words, version.manifest.watermark_ms)
    for first in range(0, len(run.logits), BATCH_ITEMS):
        version.score(run, first, min(first + BATCH_ITEMS, len(run.logits)))
    if not np.isfinite(run.logits).all():
        raise BadSnapshot(f"version {version.number}: the score of {of} isn't finite")


def _close(found: F32, published: bytes) -> bool:
    return len(published) == found.nbytes and np.allclose(
        found, np.frombuffer(published, np.float32), rtol=STATISTIC_DIFFERENCE_MAX, atol=1e-4, equal_nan=True
    )


def _has_labels(version: Version) -> bool:
    """Whether the statistics have the base row, which each label moves."""
    key, numbers = np.array([version.plan.program.base_key], np.uint64), np.zeros((3, 1))
    read_rows(key, np.empty_like(key), 1, version.statistics.view, 0.0, 0.0, StatisticRows(*numbers))
    return bool(numbers[2, 0] >= 0)
