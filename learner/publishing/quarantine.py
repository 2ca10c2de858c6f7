"""Quarantine: the evidence of refused versions, and the weights that refused them. One a cause, bounded in bytes.

`VERSION-CAUSE.json` says what was measured; it names `DIGEST.npz`: the live version's pages, what both versions gave to
them, and the refused version's weights that they read, from which its scores can be computed again.
"""

import io
import json
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np

from learner.publishing.gate import PublishGate
from learner.training.model import Model
from stream.runtime.durable_files import replacing
from stream.snapshots.payload import digest_of
from stream.snapshots.verdict import Verdict
from stream.tables.dtypes import U64
from stream.tables.hash_table import distinct

EVIDENCE_MAX: Final = 20  # files
WEIGHTS_BYTES_MAX: Final = 16 << 20  # of one version
BYTES_MAX: Final = 64 << 20  # of all weights
Arrays = dict[str, "np.ndarray[Any, np.dtype[Any]]"]


class Quarantine:
    """A folder of evidence. A cause is recorded once, until a version passes. Methods raise OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._recorded: set[str] = set()

    def passed(self) -> None:
        """A version passed: causes are recorded again."""
        self._recorded.clear()

    def add(self, version: int, verdict: Verdict, model: Model, gate: PublishGate) -> None:
        """Record a refused version, unless its cause is recorded already."""
        if verdict.cause in self._recorded:
            return
        self._recorded.add(verdict.cause)
        weights, left_out = _packed(evidence_arrays(model, gate))
        self.write(version, verdict.cause, {
            "reason": verdict.reason, "examples": model.examples, "watermark_ms": model.watermark_ms,
            "numbers": verdict.numbers, "left_out": left_out,
        }, weights)  # fmt: skip

    def write(self, version: int, cause: str, evidence: dict[str, Any], weights: bytes = b"") -> None:
        """Write evidence, and weights under the digest of their bytes; drop the oldest over the bounds."""
        self._folder.mkdir(parents=True, exist_ok=True)
        evidence = {"version": version, "cause": cause, **evidence}
        if weights:
            evidence["weights"] = f"{digest_of(weights)}.npz"
            with replacing(self._folder / evidence["weights"]) as file:
                file.write(weights)
        with replacing(self._folder / f"{version:012d}-{cause}.json") as file:
            file.write(json.dumps(evidence, indent=1).encode())
        self._drop_old()

    def erase(self, users: U64) -> int:
        """Delete the weights of evidence with a page of users with these ids; returns how many. Its figures stay."""
        found = [file for file in self._folder.glob("*.npz") if _may_have(file, users)]
        for file in found:
            file.unlink()
        return len(found)

    def _drop_old(self) -> None:
        evidence = sorted(self._folder.glob("*.json"), reverse=True)
        for old in evidence[EVIDENCE_MAX:]:
            old.unlink()
        wanted, size = set[str](), 0
        for path in evidence[:EVIDENCE_MAX]:
            try:
                name = str(json.loads(path.read_bytes()).get("weights", ""))
            except ValueError:
                continue  # written by an earlier build, or by hand
            file = self._folder / name
            if name and name not in wanted and file.is_file() and size + file.stat().st_size <= BYTES_MAX:
                wanted.add(name)
                size += file.stat().st_size
        for file in self._folder.glob("*.npz"):
            if file.name not in wanted:
                file.unlink()


def evidence_arrays(model: Model, gate: PublishGate) -> Arrays:
    """Dense layers; and the live version's pages, their scores by both versions, and the weights that they read."""
    arrays: Arrays = {}
    if model.deep:
        arrays |= {"dense": model.deep.tower.flat, "boundaries": model.deep.boundaries}
    found = gate.evidence()
    if found is None:
        return arrays
    live, scores = found
    keys: U64 = distinct(live.pages.keys.keys)
    arrays |= {
        "page_words": live.pages.words, "page_starts": live.pages.starts, "live_log_odds": live.scores.log_odds,
        "refused_log_odds": scores.log_odds, "wide_keys": keys,
        "wide_weights": model.wide.weights(model.wide.table.rows_of(keys)),
    }  # fmt: skip
    if model.deep:
        rows = model.deep.vocabulary.rows_of(live.pages.ids)
        arrays |= {"deep_ids": live.pages.ids, "embeddings": model.deep.vocabulary.vectors[rows]}
    return arrays


def _may_have(file: Path, users: U64) -> bool:
    """Whether pages in an archive have one of these ids, or it can't be read."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return "page_words" in arrays and bool(np.isin(arrays["page_words"], users).any())
    except (ValueError, EOFError, BadZipFile):
        return True


def _packed(arrays: Arrays) -> tuple[bytes, list[str]]:
    """A NumPy archive of at most WEIGHTS_BYTES_MAX, and the names of arrays that it has no room for."""
    kept: Arrays = {}
    size = 0
    for name, array in sorted(arrays.items(), key=lambda item: item[1].nbytes):
        size += array.nbytes
        if size <= WEIGHTS_BYTES_MAX:
            kept[name] = array
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **kept)
    return buffer.getvalue(), sorted(arrays.keys() - kept.keys())
