"""Delta chains: what changed in one part since its last version, over a base.

Small deltas, up to DELTAS_MAX; then all but the DELTAS_RETAINED newest are merged into one delta of everything that
changed since the base, or into a new base when that is over a quarter of it. The manifest says up to which version
base and merged delta go: a ranker that has this version or a newer one needn't read them.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from msgspec import UNSET, UnsetType

from learner.publishing.version_parts import PartSource
from stream.snapshots.manifest import DELTAS_MAX, PartVersion
from stream.snapshots.payload import Array, Digests, pack_blobs
from stream.tables.dtypes import U64
from stream.tables.hash_table import distinct

REBASE_SHARE = 0.25
DELTAS_RETAINED = 8  # small deltas left by a merge: a ranker may be this many versions behind and not read the merge


class PartPayload:
    """A copy of some of a part's arrays; the uploading thread packs it, once."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._arrays: dict[str, Array] | None = arrays
        self._digests: Digests = []

    def pack(self) -> dict[str, bytes]:
        """Its blobs by digest; frees the arrays. Raises BadSnapshot for numbers that aren't finite."""
        assert self._arrays is not None, "packed once"
        blobs = pack_blobs(self._arrays)
        self._arrays, self._digests = None, [digest for digest, _ in blobs]
        return dict(blobs)

    @property
    def digests(self) -> Digests:
        """The digests of its blobs; it must be packed."""
        assert self._digests, "pack it first"
        return self._digests


@dataclass(frozen=True)
class PartLayers:
    """A part's payloads in order. `covers` and `version` as in PartVersion."""

    base: PartPayload
    merged: PartPayload | None = None
    deltas: tuple[PartPayload, ...] = ()
    covers: int | UnsetType = UNSET
    version: int | UnsetType = UNSET

    def part_version(self) -> PartVersion:
        """The manifest's entry; all payloads must be packed."""
        merged = self.merged.digests if self.merged else []
        return PartVersion(
            self.base.digests, merged, [delta.digests for delta in self.deltas], self.covers, self.version
        )


@dataclass
class DeltaChain:
    """One part's layers so far, and which keys changed since its base.

    At `deltas_max` small deltas a merge leaves `deltas_retained`; over `rebase_share` of the base it makes a new base.
    """

    part: PartSource
    deltas_max: int = DELTAS_MAX
    deltas_retained: int = DELTAS_RETAINED
    rebase_share: float = REBASE_SHARE
    layers: PartLayers | None = None
    _base_size: int = 0
    _since_base: list[U64] = field(default_factory=list)  # keys of the merged delta, then of each small one
    _versions: list[int] = field(default_factory=list)  # of each small delta

    def extend(self, version: int) -> list[PartPayload]:
        """Add what changed up to `version`, which must rise. Returns the new payloads."""
        assert 0 < self.deltas_retained < self.deltas_max, "a merge leaves some and takes some"
        changed = self.part.take_changed()
        if self.layers is None or changed is None:
            self.layers = None  # no delta leads there
            base = self._rebase()
            self.layers = PartLayers(base, version=version)
            return [base]
        self._since_base.append(changed)
        new: list[PartPayload] = []
        if len(self.layers.deltas) == self.deltas_max:
            is_large = len(distinct(np.concatenate(self._since_base))) > self.rebase_share * self._base_size
            new.append(self._rebase() if is_large else self._merge())
        new.append(PartPayload(self.part.payload(changed)))
        assert self.layers is not None, "there is a base"
        self.layers = replace(self.layers, deltas=(*self.layers.deltas, new[-1]), version=version)
        self._versions.append(version)
        return new

    def _merge(self) -> PartPayload:
        """Merge all small deltas except the newest DELTAS_RETAINED. The new version's delta is added afterwards.

        Rows are as they are now; those that changed after the covered version are in a small delta, too.
        """
        assert self.layers is not None, "there are deltas"
        keys = distinct(np.concatenate(self._since_base[: -self.deltas_retained - 1]))
        merged = PartPayload(self.part.payload(keys))
        self._replace_layers(replace(self.layers, merged=merged), [keys])
        return merged

    def _rebase(self) -> PartPayload:
        """A base of everything. The small deltas that a merge would leave stay beside it."""
        base = PartPayload(self.part.payload(None))
        if self.layers is None:
            self.layers, self._since_base, self._versions = PartLayers(base), [], []
        else:
            self._replace_layers(replace(self.layers, base=base, merged=None), [])
        self._base_size = self.part.size()
        return base

    def _replace_layers(self, layers: PartLayers, merged: list[U64]) -> None:
        """Set these layers, with only the newest small deltas. `merged`: keys of the merged delta."""
        retained = self.deltas_retained
        self.layers = replace(layers, deltas=layers.deltas[-retained:], covers=self._versions[-retained - 1])
        self._since_base = [*merged, *self._since_base[-retained - 1 :]]
        self._versions = self._versions[-retained:]
