"""Names of shown items as a version carries them, so that rankers can retrieve items that nobody described.

The payload of the part `items`:

    names  uint8 [bytes]   UTF-8, concatenated
    ends   int64 [n]       where each ends
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

import numpy as np

from stream.events.types import ID_BYTES_MAX
from stream.runtime.errors import BadSnapshot
from stream.snapshots.payload import Array, Payload

ITEMS_PART: Final = "items"
ITEMS_MAX: Final = 20_000  # that a reader accepts


def pack_names(names: Iterable[str]) -> dict[str, Array]:
    """These names, sorted: equal names give equal bytes."""
    raws = [name.encode() for name in sorted(names)]
    assert all(raws), "an item has a name"
    ends = np.cumsum([len(raw) for raw in raws], dtype=np.int64)
    return {"names": np.frombuffer(b"".join(raws), np.uint8), "ends": ends}


def unpack_names(payload: Payload) -> tuple[str, ...]:
    """The names, sorted, without those of earlier builds that no event may have now. Raises BadSnapshot."""
    names, ends = payload.get("names"), payload.get("ends")
    if (
        names is None
        or ends is None
        or (names.dtype.str, names.ndim, ends.dtype.str, ends.ndim) != ("|u1", 1, "<i8", 1)
    ):
        raise BadSnapshot("names of items must be uint8 bytes, and int64 ends")
    stops = [0, *ends.tolist()]
    if len(stops) > ITEMS_MAX + 1 or stops[-1] != len(names) or any(a >= b for a, b in pairwise(stops)):
        raise BadSnapshot(f"names of items have ends that don't rise to their length, or are over {ITEMS_MAX}")
    raw = names.tobytes()
    try:
        return tuple(raw[a:b].decode() for a, b in pairwise(stops) if b - a <= ID_BYTES_MAX)
    except UnicodeDecodeError as error:
        raise BadSnapshot(f"an item's name isn't UTF-8: {error}") from None
