"""How much memory tables take at most, by the number of keys that they are allowed to have."""

from typing import Final

from stream.tables.delta_table import GROWTH
from stream.tables.hash_table import LISTED_MIN, LOAD_MAX, STAGE, capacity_for

WORD: Final = 8  # bytes
STAMP: Final = 4  # bytes of a key's `last_seen`
HEAD: Final = 16  # bytes of a slot of a delta's heads


def growing_bytes(keys: int, width: int, *, stamped: bool = False, tracked: bool = True) -> int:
    """Bytes of a `HashTable` at its worst moment, while it grows to `keys` keys of `width` words.

    That is while rows move to a larger array, or while the memory of the next one is touched. `stamped`: rows have a
    `last_seen`; `tracked`: changed keys are listed, as many as twice the keys while nobody takes them.
    """
    if not keys:
        return 0
    capacity = capacity_for(keys)
    touched = 2 * min(1.0, max(0.0, (keys / capacity - STAGE) / (LOAD_MAX - STAGE)))  # of the next array
    slots = int(capacity * (1 + max(0.5, touched)))
    listed = WORD * max(LISTED_MIN, 2 * keys) if tracked else 0
    return slots * (width * WORD + STAMP * stamped) + listed


def base_bytes(keys: int, width: int) -> int:
    """Bytes of a table that was made for `keys` keys and never changes."""
    return capacity_for(keys) * width * WORD if keys else 0


def delta_bytes(rows: int, width: int, dim: int = 0) -> int:
    """Bytes of a `DeltaTable` with room for `rows` rows and their growth. `dim`: of vectors, float32."""
    room = GROWTH * rows
    return (1 << (2 * room - 1).bit_length()) * HEAD + room * (width * WORD + 4 * dim) if rows else 0
