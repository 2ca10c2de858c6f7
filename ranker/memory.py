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

PROCESSES: Final = 500_000_000  # the ranker's and its builder's: interpreter, numba, kernels, clients
ITEMS: Final = 100_000  # described items that are counted
ITEM: Final = 2_000  # bytes of a described item, its row in the catalogue and in sweeps
PROFILES: Final = 200_000_000  # users read in the last minute
REBASE_SHARE: Final = 0.25  # of a base, in a delta: then learners publish a new base


def ranker_needs(spec: Spec) -> Needs:
    """Bytes that a ranker with this one model takes at most, its builder's among them.

    Versions share tables. While a new base is built, which is often, there are two of each: bases and deltas.
    """
    parts = part_sizes(spec)
    tables = sum(_table_bytes(part) for part in parts.values())
    largest = max(parts.values(), key=lambda part: part.payload_bytes)
    plan = Plan(spec)
    matrices = len(set(plan.arrays.matrices.tolist()) - {NO_SLOT}) + plan.memories
    return Needs(
        {
            "processes": PROCESSES,
            "tables": tables,
            "the next base": tables,
            "payloads": base_bytes_of(spec)
            + largest.rows * largest.width * WORD
            + 2 * min(largest.payload_bytes, SEGMENT_BYTES_MAX),
            "cache of pairs": matrices * WORD * ROOM**2,
            "cache of activations": 2 * ACTIVATIONS_MAX if "deep" in spec.parts else 0,
            "items": ITEMS * ITEM,
            "profiles": PROFILES,
        }
    )


def _table_bytes(part: PartSize) -> int:
    """A base with its vectors, and a delta that is as large as it gets."""
    width = 1 if part.dim else part.width
    delta = delta_bytes(int(REBASE_SHARE * part.rows), width, part.dim)
    return base_bytes(part.rows, part.width) + 4 * part.dim * part.rows + delta
