"""Builds versions: each part's delta chain, golden pages, and the manifest that names them."""

from functools import cached_property
from itertools import pairwise

import numpy as np
from msgspec import UNSET, structs

from learner.publishing.delta_chain import DeltaChain, PartLayers, PartPayload
from learner.publishing.version_parts import deep_source, retrieval_source, statistics_source, wide_source
from learner.training.model import Model
from learner.training.model_state import GOLDEN_PAGES
from stream.features.encoder import one_page
from stream.features.page_features import select, statistics_of
from stream.features.serve_as import as_served
from stream.runtime.formats import MANIFEST
from stream.snapshots.item_names import ITEMS_PART, pack_names
from stream.snapshots.manifest import INGESTS_MAX, Golden, Manifest
from stream.snapshots.retrieval_rows import RETRIEVAL_PART
from stream.spec.spec_file import encode_spec
from stream.tables.dtypes import F32, U64

SLOW_PARTS = ("deep", RETRIEVAL_PART)  # published every `publish.deep_every`
GOLDEN_ITEMS = 8  # of a page that a ranker must score as the learner does


class BuiltVersion:
    """A version to upload. Packing and hashing wait for the first access, in the uploading thread.

    `full`: all parts are bases; nothing published before is used.
    """

    def __init__(self, manifest: Manifest, parts: dict[str, PartLayers], new: list[PartPayload], *, full: bool) -> None:
        self._manifest, self._parts, self._new = manifest, parts, new
        self.full = full

    @cached_property
    def blobs(self) -> dict[str, bytes]:
        """The blobs that may be new. Raises BadSnapshot when a number isn't finite."""
        return {digest: blob for payload in self._new for digest, blob in payload.pack().items()}

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest, naming all blobs."""
        _ = self.blobs  # packs the parts: their digests are known from then on
        parts = {name: layers.part_version() for name, layers in self._parts.items()}
        return structs.replace(self._manifest, parts=parts)


class VersionBuilder:
    """Builds the versions of one model. The first one, and the next one after `reset`, is a full base."""

    def __init__(self, model: Model, log_ms: int = 0) -> None:
        self._model, self._log_ms = model, log_ms
        self._golden: list[tuple[bytes, F32]] = []
        self.reset()

    def reset(self) -> None:
        """Start over with full bases: what was published may be lost."""
        model = self._model
        self._chains = {"statistics": DeltaChain(statistics_source(model)), "wide": DeltaChain(wide_source(model))}
        if model.deep:
            self._chains["deep"] = DeltaChain(deep_source(model.deep))
        if model.retrieval:
            self._chains[RETRIEVAL_PART] = DeltaChain(retrieval_source(model.retrieval))
        self._items: PartLayers | None = None

    def includes_deep(self, due: bool) -> bool:
        """Whether the next version has the deep part as it is now: it's due, or there is no other; or none at all."""
        chain = self._chains.get("deep")
        return due or chain is None or chain.layers is None or (not self._golden and bool(self._model.recent_pages))

    def build(
        self,
        version: int,
        parent: int,
        token: int,
        offset: int,
        created_ms: int,
        metrics: dict[str, float],
        *,
        deep: bool,
    ) -> BuiltVersion:
        """The next version: deltas of wide and statistics; with `deep`, or when there is no base yet, also of the deep
        part, what is kept for retrieval, and the names of shown items if they changed."""
        model, new = self._model, list[PartPayload]()
        names_due, deep = deep or not self._golden, self.includes_deep(deep)
        full = all(chain.layers is None for chain in self._chains.values())
        for name, chain in self._chains.items():
            if name not in SLOW_PARTS or deep:
                new += chain.extend(version)
        if self._items is None or (names_due and model.shown.changed):
            self._items = PartLayers(PartPayload(pack_names(model.shown.names)), version=version)
            new.append(self._items.base)
            model.shown.changed = False
        if deep:  # only then does the published deep part equal the model's
            pages = map(self._shortened, model.recent_pages.newest(GOLDEN_PAGES))
            self._golden = [(raw, serving_deep_logits(model, np.frombuffer(raw, np.uint64))) for raw in pages]
        installs = sorted(model.installs)[:INGESTS_MAX]  # by id, which is a hash: a fair sample
        model.installs = []
        manifest = Manifest(
            model=model.spec.name,
            version=version,
            parent=parent,
            fingerprint=model.spec.fingerprint(),
            spec=encode_spec(model.spec),
            token=token,
            offset={0: offset},
            examples=model.examples,
            watermark_ms=model.watermark_ms,
            learned_ms=model.learned_ms,
            created_ms=created_ms,
            metrics=metrics,
            parts={},
            ingest_ms=[ingest for _, ingest in installs],
            golden=[self._golden_page(raw, logits) for raw, logits in self._golden],
            format=MANIFEST.version,
            log_ms=self._log_ms or UNSET,
        )
        parts = {name: chain.layers for name, chain in self._chains.items() if chain.layers} | {ITEMS_PART: self._items}
        return BuiltVersion(manifest, parts, new, full=full)

    def _shortened(self, raw: bytes) -> bytes:
        """A page's first items: enough to validate a version, and manifests stay small."""
        words = np.frombuffer(raw, np.uint64).copy()  # kernels are compiled for writable arrays
        return select(self._model.layout, words, range(GOLDEN_ITEMS)).tobytes() if words[1] > GOLDEN_ITEMS else raw

    def _golden_page(self, raw: bytes, deep_logits: F32) -> Golden:
        """The page's scores. `deep_logits` are the published deep part's, which may be older than the wide part."""
        logits = serving_wide_logits(self._model, np.frombuffer(raw, np.uint64)) + deep_logits
        words = np.frombuffer(raw, np.uint64).copy()
        self._model.statistics.fill(words, self._model.watermark_ms)
        scores = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
        return Golden(raw, scores.tolist(), statistics_of(self._model.layout, words).tobytes())


def serving_wide_logits(model: Model, words: U64) -> F32:
    """The wide part's logit of each item of a page, with `serve_as` applied. float32 [n]."""
    keys = model.encoder.wide_keys(one_page(as_served(model.layout, words)))
    weights = model.wide.weights(model.wide.table.rows_of(keys.keys))
    sums = [weights[a:b].sum(dtype=np.float64) for a, b in pairwise(keys.offsets)]
    return np.array(sums, np.float32)


def serving_deep_logits(model: Model, words: U64) -> F32:
    """The deep part's logit of each item of a page, with `serve_as` applied. float32 [n]; zeros without one."""
    batch = one_page(as_served(model.layout, words))
    if not model.deep:
        return np.zeros(len(batch.page), np.float32)
    return model.deep.score(model.encoder.deep_input(batch, serving=True))
