"""What a ranker takes of memory at the bounds of a model's spec. Constants are measured: docs/containers.md."""

from typing import Final

from ranker.kernels.item_activation_cache import BYTES_MAX as ACTIVATIONS_MAX
from ranker.kernels.pair_cache import NO_SLOT, ROOM
from ranker.kernels.plan import Plan
from stream.snapshots.part_sizes import PartSize, base_bytes_of, part_sizes
from stream.snapshots.payload import SEGMENT_BYTES_MAX
from stream.spec.bounds import Needs
from stream.spec.spec import Spec
from stream.tables.table_size import WORD, base_bytes, delta_bytes

PROCESSES: Final = 400_000_000  # the ranker's and its builder's: interpreter, numba, kernels, clients
ITEMS: Final = 100_000  # described items that are counted
ITEM: Final = 1_500  # bytes of a described item and its row in the catalogue
PROFILES: Final = 80_000_000  # read lately: `RecentProfiles` is largest of users without histories or attributes
INDEX_COPIES: Final = 5  # of items' vectors: the lists of two indices, with the room that they grow by, and the vectors
REBASE_SHARE: Final = 0.25  # of a base, in a delta: then learners publish a new base


def ranker_needs(spec: Spec, items: int = ITEMS) -> Needs:
    """Bytes that a ranker with this one model takes at most, its builder's among them. `items`: how many are described.

    Versions share tables. A part's delta lies over a base; beside them the next base, or a compacted delta, is made.
    """
    parts = part_sizes(spec)
    bases, deltas = ({name: of(part) for name, part in parts.items()} for of in (_base_bytes, _delta_bytes))
    largest = max(parts.values(), key=lambda part: part.payload_bytes)
    plan = Plan(spec)
    matrices = len(set(plan.arrays.matrices.tolist()) - {NO_SLOT}) + plan.memories
    return Needs(
        {
            "processes": PROCESSES,
            "bases": sum(bases.values()),
            "deltas": sum(deltas.values()),
            "what replaces them": sum(max(bases[name], deltas[name]) for name in parts),
            "payloads": base_bytes_of(spec)
            + largest.rows * largest.width * WORD
            + 2 * min(largest.payload_bytes, SEGMENT_BYTES_MAX),
            "index of vectors": INDEX_COPIES * _vector_bytes(spec) * spec.retrieval.kept.max_items,
            "cache of pairs": matrices * WORD * ROOM**2,
            "cache of activations": 2 * ACTIVATIONS_MAX if "deep" in spec.parts else 0,
            "items": items * ITEM,
            "profiles": PROFILES,
        }
    )


def _vector_bytes(spec: Spec) -> int:
    """Of an item in an index: its output, its bias, what its norm lacks, its id."""
    dim = spec.retrieval.vector_dim
    return 4 * (dim + 2) + 8 if dim else 0


def _base_bytes(part: PartSize) -> int:
    """With its vectors."""
    return base_bytes(part.rows, part.width) + 4 * part.dim * part.rows


def _delta_bytes(part: PartSize) -> int:
    """As large as it gets."""
    return delta_bytes(int(REBASE_SHARE * part.rows), 1 if part.dim else part.width, part.dim)
