"""The serving model: one version, whole and immutable, in numpy and numba. Must equal the learner's predictions.

    logit = Σ wide weights of the keys + tower([pooled embeddings, quantised numbers]);  p = σ(logit)

A version's tables have two layers: a big base, shared by all versions that name the same one, and a small
overlay whose rows hide the base's. Nothing in a version ever changes, so threads read it without locks.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.dense import quantise
from stream.encoder import Batch, Encoder, WideKeys
from stream.errors import BadEvent
from stream.features import F32, Layout, words_of
from stream.snapshot import Manifest
from stream.spec import Spec
from stream.statistics import StatisticsProgram
from stream.table import U64, find, kernel

I64 = npt.NDArray[np.int64]
Name = tuple[str, ...]  # a content, by the digests of its blobs

WIDE_WIDTH: Final = 2  # key; weight as float32 in the low half
ROW_WIDTH: Final = 2  # key; row


class Plan:
    """A spec, compiled: what all versions of one spec share."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.layout = Layout(spec)
        self.encoder = Encoder(spec, self.layout)
        self.program = StatisticsProgram(spec, self.layout)


@dataclass(frozen=True)
class Layers:
    """A table in two layers, uint64 [capacity, width] each; `names` are the contents that were laid over each other."""

    names: tuple[Name, ...]
    base: U64
    overlay: U64


@dataclass(frozen=True)
class Tower:
    """The deep part. `rows` gives keys their row: in `vectors` for the base layer, in `fresh` for the overlay.

    `fresh[0]` is the vector of unseen ids, so an overlay row 0 is a tombstone; `unseen` [1, dim] is the base's own.
    `layers`: weight [in, out], bias [out].
    `boundaries` float32 [numbers, quantiles − 1], or [0, 0] before the first freeze.
    """

    rows: Layers
    vectors: F32
    unseen: F32
    fresh: F32
    layers: tuple[tuple[F32, F32], ...]
    boundaries: F32


@dataclass(frozen=True)
class Version:
    """One version of a model, ready to serve."""

    manifest: Manifest
    plan: Plan
    wide: Layers
    statistics: Layers
    tower: Tower | None

    @property
    def number(self) -> int:
        """The version's number."""
        return self.manifest.version

    def event_time_ms(self, now_ms: int) -> int:
        """Event time now: the watermark when the version was cut, and the wall time since."""
        return self.manifest.watermark_ms + max(0, now_ms - self.manifest.created_ms)

    def staleness_ms(self, now_ms: int) -> int:
        """Age of the newest label learned; 0 when nothing was learned yet."""
        return max(0, now_ms - self.manifest.learned_ms) if self.manifest.learned_ms else 0

    def fill(self, words: U64, time_ms: int) -> None:
        """Write the page's statistics, as of `time_ms`, into its words."""
        self.plan.program.fill(words, time_ms, self.statistics.base, self.statistics.overlay)

    def logits(self, words: U64, positions: I64) -> F32:
        """Logits of these items of a page whose statistics are filled. float32 [len(positions)]."""
        n = len(positions)
        batch = Batch(words, np.zeros(1, np.int64), np.zeros(n, np.int64), positions)
        logits = wide_logits(self.plan.encoder.wide_keys(batch), self.wide)
        return logits if self.tower is None else logits + self._deep(batch, self.tower)

    def probabilities(self, words: U64, positions: I64) -> F32:
        """σ of the logits: what items score. float32 [len(positions)]."""
        return sigmoid(self.logits(words, positions))

    def _deep(self, batch: Batch, tower: Tower) -> F32:
        encoder = self.plan.encoder
        given = encoder.deep_input(batch, serving=True)
        rows, lists = tower.rows, len(encoder.deep_lists)
        x = quantise(given.numbers, tower.boundaries)
        if lists:
            pooled = _pool(given.ids, given.offsets, lists, rows.base, tower.vectors, rows.overlay, tower.fresh)
            x = np.concatenate([pooled, x], axis=1)
        for weight, bias in tower.layers[:-1]:
            x = x @ weight
            x += bias
            np.maximum(x, 0.0, out=x)
        weight, bias = tower.layers[-1]
        last: F32 = (x @ weight + bias)[:, 0]
        return last


def score_features(version: Version, features: bytes, n: int) -> F32:
    """What a page's n items score by a version, from its features as logged. float32 [n]. Raises BadEvent.

    A reply's scores are these, recomputed: `score_features(version, reply.features, len(reply.items))`.
    """
    words = words_of(features, version.plan.layout, n)
    scores = version.probabilities(words.copy(), np.arange(n))  # a copy: kernels are compiled for writable arrays
    if not np.isfinite(scores).all():
        raise BadEvent("a score isn't finite")
    return scores


def sigmoid(logits: F32) -> F32:
    """1 / (1 + e^−x), computed in float64. float32."""
    p: F32 = (1.0 / (1.0 + np.exp(-logits.astype(np.float64).clip(-700, 700)))).astype(np.float32)
    return p


def wide_logits(keys: WideKeys, layers: Layers) -> F32:
    """Sum of the weights of each example's keys. float32 [B]."""
    out: F32 = _wide_logits(
        keys.keys,
        keys.offsets,
        layers.base,
        layers.base.view(np.float32),
        layers.overlay,
        layers.overlay.view(np.float32),
    )
    return out


@kernel
def _wide_logits(keys: Any, offsets: Any, base: Any, base_weights: Any, overlay: Any, overlay_weights: Any) -> Any:
    out = np.empty(offsets.shape[0] - 1, np.float32)
    for b in range(out.shape[0]):
        total = 0.0
        for i in range(offsets[b], offsets[b + 1]):
            row = find(overlay, keys[i])
            if row >= 0:
                total += np.float64(overlay_weights[row, 2])
                continue
            row = find(base, keys[i])
            if row >= 0:
                total += np.float64(base_weights[row, 2])
        out[b] = total
    return out


@kernel
def _pool(ids: Any, offsets: Any, lists: Any, base: Any, vectors: Any, overlay: Any, fresh: Any) -> Any:
    """Lists of ids as sum/√n of their vectors, as `stream.dense.pool_rows`, over two layers. float32 [B, lists·dim]."""
    b = (offsets.shape[0] - 1) // lists
    dim = fresh.shape[1]
    out = np.zeros((b, lists * dim), np.float32)
    for r in range(b):
        for f in range(lists):
            first, last = offsets[r * lists + f], offsets[r * lists + f + 1]
            for i in range(first, last):
                source, row = fresh, np.int64(0)
                at = find(overlay, ids[i])
                if at >= 0:
                    row = np.int64(overlay[at, 1])
                else:
                    at = find(base, ids[i])
                    if at >= 0:
                        source, row = vectors, np.int64(base[at, 1])
                for c in range(dim):
                    out[r, f * dim + c] += source[row, c]
            if last - first > 1:
                scale = np.float32(1.0 / np.sqrt(np.float64(last - first)))
                for c in range(dim):
                    out[r, f * dim + c] *= scale
    return out
