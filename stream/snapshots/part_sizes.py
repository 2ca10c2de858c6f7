"""How large a version's parts are at the spec's bounds: rows, bytes of a row in a payload, words of it in a ranker."""

from typing import NamedTuple

from stream.snapshots.payload import SEGMENT_BYTES_MAX
from stream.snapshots.retrieval_rows import RETRIEVAL_PART
from stream.spec.bounds import likeness_rows
from stream.spec.spec import Spec


class PartSize(NamedTuple):
    """A part at its bound. `width`: 64-bit words of a row of a ranker's table; `dim`: floats of a row's vector."""

    rows: int
    row_bytes: int
    width: int
    dim: int = 0

    @property
    def payload_bytes(self) -> int:
        """Of a base."""
        return self.rows * self.row_bytes


def part_sizes(spec: Spec) -> dict[str, PartSize]:
    """The sizes of all parts of a spec's versions, but for dense layers."""
    parts = {"statistics": PartSize(spec.max_statistics + likeness_rows(spec), 32, 4)}
    if "wide" in spec.parts:
        parts["wide"] = PartSize(spec.wide.max_keys, 13 if spec.explore.needs_uncertainty else 12, 2)
    if "deep" in spec.parts:
        dim = spec.deep.embedding_dim
        parts["deep"] = PartSize(spec.deep.max_rows, 8 + 4 * dim, 2, dim)
    if spec.retrieval.is_learned:
        length, dim = spec.retrieval.list_length, spec.retrieval.vector_dim
        items = spec.retrieval.kept.max_items
        parts[RETRIEVAL_PART] = PartSize(items, 16 + 12 * length + 8 * dim, 2, 3 * length + 2 * dim + 2)
    return parts


def base_bytes_of(spec: Spec) -> int:
    """Of a full base's blobs."""
    return sum(part.payload_bytes for part in part_sizes(spec).values())


def packing_bytes(spec: Spec) -> int:
    """What a full base takes while it's packed: arrays and blobs of the largest part, the other parts as either, and a
    segment twice.
    """
    sizes = [part.payload_bytes for part in part_sizes(spec).values()]
    return sum(sizes) + max(sizes) + 2 * min(max(sizes), SEGMENT_BYTES_MAX)
