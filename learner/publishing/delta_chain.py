"""Cutting versions: what changed since the last one, part by part, as contents and the manifest that names them.

Small deltas until there are DELTAS_MAX; then those that are older than the KEPT newest become one merged delta of all
that changed since the base, or a new base when that is over a quarter of it. Up to a version that the manifest names:
who has that one has what these hold, and needn't read them to go on.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np
from msgspec import UNSET, UnsetType, structs

from learner.deep.deep import Deep
from learner.training.model import Model
from stream.features.encoder import one_page
from stream.features.page_features import F32, select, statistics_of
from stream.features.serve_as import as_served
from stream.features.statistic_reads import GONE_MS
from stream.snapshots.contents import Array, Digests, cut, digests_of, pack
from stream.snapshots.manifest import DELTAS_MAX, INGESTS_MAX, Golden, Manifest, PartVersion
from stream.snapshots.shown_items import PART as ITEMS
from stream.snapshots.shown_items import pack_names
from stream.spec.spec_file import encode_spec
from stream.tables.hash_table import U64, Table, distinct

FOLD_SHARE = 0.25
KEPT = 8  # small deltas that a merge leaves as they are: so many versions may a ranker be behind, and not read it
GOLDEN_ITEMS = 8  # of a page that a ranker must score as the learner does


class Part(Protocol):
    """A part as the chain sees it: keys that changed, and contents of some keys or all."""

    def take_fresh(self) -> U64 | None:
        """Keys that changed since the last call; None: so many that only a base tells."""
        ...

    def content(self, keys: U64 | None) -> dict[str, Array]:
        """The content of these keys; of all when None."""
        ...

    def __len__(self) -> int: ...


class WidePart:
    """The wide weights; a weight of 0 is left out of a base and is a tombstone in a delta."""

    def __init__(self, model: Model) -> None:
        self._wide = model.wide

    def take_fresh(self) -> U64 | None:
        """See Part."""
        return _fresh_keys(self._wide.table)

    def content(self, keys: U64 | None) -> dict[str, Array]:
        """See Part."""
        table = self._wide.table
        rows = table.rows() if keys is None else table.rows_of(keys)
        weights = self._wide.weights(rows)
        kept = weights != 0 if keys is None else np.ones(len(rows), np.bool_)
        return {"keys": rows[kept, 0], "weights": weights[kept]}

    def __len__(self) -> int:
        return len(self._wide.table)


class StatisticsPart:
    """The statistics' rows."""

    def __init__(self, model: Model) -> None:
        self._statistics = model.statistics

    @property
    def _table(self) -> Table:
        return self._statistics.table

    def take_fresh(self) -> U64 | None:
        """See Part."""
        return _fresh_keys(self._table)

    def content(self, keys: U64 | None) -> dict[str, Array]:
        """See Part."""
        if keys is None:
            return {"rows": self._table.rows()}
        rows = self._table.rows_of(keys)
        values = rows.view(np.float64)
        values[values[:, 3] == 0.0, 3] = GONE_MS
        return {"rows": rows}

    def __len__(self) -> int:
        return len(self._table)


class DeepPart:
    """All dense arrays, and the embedding rows of some keys or all."""

    def __init__(self, deep: Deep) -> None:
        self._deep = deep

    def take_fresh(self) -> U64:
        """See Part. Key 0 is the row of unseen ids."""
        return self._deep.vocabulary.take_changed()

    def content(self, keys: U64 | None) -> dict[str, Array]:
        """See Part. Keys without a row are dead: their ids were forgotten."""
        deep, vocabulary = self._deep, self._deep.vocabulary
        rows = vocabulary.live() if keys is None else vocabulary.rows_of(keys)
        alive = np.ones(len(rows), np.bool_) if keys is None else (rows != 0) | (keys == 0)
        content: dict[str, Array] = {"keys": vocabulary.keys[rows[alive]], "vectors": vocabulary.vectors[rows[alive]],
                                     "boundaries": deep.boundaries}  # fmt: skip
        for i, (weight, bias) in enumerate(deep.layers()):
            content[f"weight_{i}"], content[f"bias_{i}"] = weight, bias
        return content if keys is None else {**content, "dead": keys[~alive]}

    def __len__(self) -> int:
        return len(self._deep.vocabulary)


def _fresh_keys(table: Table) -> U64 | None:
    lost, rows = table.lost, table.take_fresh()
    return None if lost else rows[:, 0]


class PartContent:
    """A copy of some of a part's arrays; packed and named once, by the thread that carries it."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._arrays: dict[str, Array] | None = arrays
        self._digests: Digests = []

    def pack(self) -> dict[str, bytes]:
        """Its blobs; then the arrays are let go of. Raises BadSnapshot for numbers that aren't finite."""
        assert self._arrays is not None, "packed once"
        raw = pack(self._arrays)
        self._arrays, self._digests = None, digests_of(raw)
        return cut(raw)

    @property
    def digests(self) -> Digests:
        """Its name, once it's packed."""
        assert self._digests, "packed before it's named"
        return self._digests


@dataclass(frozen=True)
class Laid:
    """A part's contents in order."""

    base: PartContent
    merged: PartContent | None = None
    deltas: tuple[PartContent, ...] = ()
    covers: int | UnsetType = UNSET
    version: int | UnsetType = UNSET

    def named(self) -> PartVersion:
        """As a manifest names them, once they're packed."""
        merged = self.merged.digests if self.merged else []
        return PartVersion(
            self.base.digests, merged, [delta.digests for delta in self.deltas], self.covers, self.version
        )


class Cut:
    """A version that is ready to go. Packing and hashing wait until somebody asks: that isn't the learner's thread.

    `full`: a full base, nothing of what was published before is in it.
    """

    def __init__(self, manifest: Manifest, parts: dict[str, Laid], fresh: list[PartContent], *, full: bool) -> None:
        self._manifest, self._parts, self._fresh = manifest, parts, fresh
        self.full = full

    @cached_property
    def blobs(self) -> dict[str, bytes]:
        """The blobs that may be new. Raises BadSnapshot when a number isn't finite."""
        return {digest: blob for content in self._fresh for digest, blob in content.pack().items()}

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest, with all contents named."""
        assert self.blobs is not None
        return structs.replace(self._manifest, parts={name: part.named() for name, part in self._parts.items()})


@dataclass
class Chain:
    """One part's contents so far, and which keys changed since its base.

    `deltas_max` small deltas, of which a merge leaves `kept`; a new base when over `fold_share` of it changed.
    """

    part: Part
    deltas_max: int = DELTAS_MAX
    kept: int = KEPT
    fold_share: float = FOLD_SHARE
    laid: Laid | None = None
    _base_size: int = 0
    _since_base: list[U64] = field(default_factory=list)  # those of the merged delta, then of each small one
    _versions: list[int] = field(default_factory=list)  # in which each small delta came

    def extend(self, version: int) -> list[PartContent]:
        """Lay what changed until `version`, which is being cut, over what there is. Returns the contents that are new.

        Versions rise.
        """
        assert 0 < self.kept < self.deltas_max, "a merge leaves some and takes some"
        fresh = self.part.take_fresh()
        if self.laid is None or fresh is None:
            self.laid = None  # no delta leads there
            base = self._rebase()
            self.laid = Laid(base, version=version)
            return [base]
        self._since_base.append(fresh)
        new: list[PartContent] = []
        if len(self.laid.deltas) == self.deltas_max:
            much = len(distinct(np.concatenate(self._since_base))) > self.fold_share * self._base_size
            new.append(self._rebase() if much else self._merge())
        new.append(PartContent(self.part.content(fresh)))
        assert self.laid is not None, "there is a base"
        self.laid = replace(self.laid, deltas=(*self.laid.deltas, new[-1]), version=version)
        self._versions.append(version)
        return new

    def _merge(self) -> PartContent:
        """One delta for all but the small ones that stay, and what is to come.

        Its rows are as they are now. Those that changed after the version that it covers stand in a small one, too.
        """
        assert self.laid is not None, "there are deltas"
        keys = distinct(np.concatenate(self._since_base[: -self.kept - 1]))
        merged = PartContent(self.part.content(keys))
        self._lay(replace(self.laid, merged=merged), [keys])
        return merged

    def _rebase(self) -> PartContent:
        """A base of all there is now. Small deltas stay beside it, as at a merge."""
        base = PartContent(self.part.content(None))
        if self.laid is None:
            self.laid, self._since_base, self._versions = Laid(base), [], []
        else:
            self._lay(replace(self.laid, base=base, merged=None), [])
        self._base_size = len(self.part)
        return base

    def _lay(self, laid: Laid, merged: list[U64]) -> None:
        """These contents, and of the small deltas those that stay. `merged`: keys of the merged one."""
        stay = self.kept + 1
        self.laid = replace(laid, deltas=laid.deltas[-self.kept :], covers=self._versions[-stay])
        self._since_base, self._versions = [*merged, *self._since_base[-stay:]], self._versions[-self.kept :]


class Cutter:
    """Cuts versions of one model. After `start_over`, the next one is a full base."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._golden: list[tuple[bytes, F32]] = []
        self.start_over()

    def start_over(self) -> None:
        """Forget what was published: nothing of it may be left."""
        model = self._model
        self._chains: dict[str, Chain] = {"statistics": Chain(StatisticsPart(model)), "wide": Chain(WidePart(model))}
        if model.deep:
            self._chains["deep"] = Chain(DeepPart(model.deep))
        self._items: Laid | None = None

    def cut(
        self,
        version: int,
        parent: int,
        token: int,
        offset: int,
        created_ms: int,
        metrics: dict[str, float],
        *,
        deep: bool,
    ) -> Cut:
        """The next version: deltas of wide and statistics; when `deep` or when there is no base yet, of deep too, and
        the names of items that were shown, if there are others."""
        model, fresh = self._model, list[PartContent]()
        deep = deep or (not self._golden and bool(model.recent_pages))  # once it has learned it brings golden pages
        full = all(chain.laid is None for chain in self._chains.values())
        renewed = "deep" not in self._chains
        for name, chain in self._chains.items():
            if name != "deep" or deep or chain.laid is None:
                fresh += chain.extend(version)
                renewed |= name == "deep"
        if self._items is None or (deep and model.shown.changed):
            self._items = Laid(PartContent(pack_names(model.shown.names)), version=version)
            fresh.append(self._items.base)
            model.shown.changed = False
        if renewed:  # only then is the deep part that goes out the one that is here
            self._golden = [(raw, self._deep_logits(raw)) for raw in map(self._shortened, model.recent_pages)]
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
            golden=[self._score(raw, logits) for raw, logits in self._golden],
        )
        laid = {name: chain.laid for name, chain in self._chains.items() if chain.laid} | {ITEMS: self._items}
        return Cut(manifest, laid, fresh, full=full)

    def _shortened(self, raw: bytes) -> bytes:
        """A page's first items: enough to try a version out, and manifests stay small."""
        words = np.frombuffer(raw, np.uint64).copy()  # kernels are compiled for arrays that can be written to
        return select(self._model.layout, words, range(GOLDEN_ITEMS)).tobytes() if words[1] > GOLDEN_ITEMS else raw

    def _deep_logits(self, raw: bytes) -> F32:
        """As the deep part is at its own last cut: it may be older than the wide part's."""
        return serving_deep_logits(self._model, np.frombuffer(raw, np.uint64))

    def _score(self, raw: bytes, deep_logits: F32) -> Golden:
        logits = serving_wide_logits(self._model, np.frombuffer(raw, np.uint64)) + deep_logits
        words = np.frombuffer(raw, np.uint64).copy()
        self._model.statistics.fill(words, self._model.watermark_ms)
        scores = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
        return Golden(raw, scores.tolist(), statistics_of(self._model.layout, words).tobytes())


def serving_wide_logits(model: Model, words: U64) -> F32:
    """What the wide part says of each item of a page, `serve_as` columns held still. float32 [n]."""
    keys = model.encoder.wide_keys(one_page(as_served(model.layout, words)))
    weights = model.wide.weights(model.wide.table.rows_of(keys.keys))
    sums = [weights[a:b].sum(dtype=np.float64) for a, b in pairwise(keys.offsets)]
    return np.array(sums, np.float32)


def serving_deep_logits(model: Model, words: U64) -> F32:
    """What the deep part says of each item of a page, `serve_as` columns held still. float32 [n]; zeros without one."""
    batch = one_page(as_served(model.layout, words))
    if not model.deep:
        return np.zeros(len(batch), np.float32)
    return model.deep.score(model.encoder.deep_input(batch, serving=True))
