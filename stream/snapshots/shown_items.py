"""Items that were shown: their names, as a version carries them, so that rankers can retrieve what nobody described.

A content of the part `items`:

    names  uint8 [bytes]   in UTF-8, one after the other
    ends   int64 [n]       where each ends
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

import numpy as np

from stream.runtime.errors import BadSnapshot
from stream.snapshots.contents import Array, Content

PART: Final = "items"
NAME_MAX: Final = 256  # characters; an item with a longer name has to be described, or named as a candidate
ITEMS_MAX: Final = 20_000  # that a reader takes


def pack_names(names: Iterable[str]) -> dict[str, Array]:
    """These names in order: the same ones give the same bytes."""
    raws = [name.encode() for name in sorted(names)]
    assert all(raws), "an item has a name"
    ends = np.cumsum([len(raw) for raw in raws], dtype=np.int64)
    return {"names": np.frombuffer(b"".join(raws), np.uint8), "ends": ends}


def unpack_names(content: Content) -> tuple[str, ...]:
    """What `pack_names` was given, in its order. Raises BadSnapshot."""
    names, ends = content.get("names"), content.get("ends")
    if (
        names is None
        or ends is None
        or (names.dtype.str, names.ndim, ends.dtype.str, ends.ndim) != ("|u1", 1, "<i8", 1)
    ):
        raise BadSnapshot("names of items are bytes, and where each ends")
    stops = [0, *ends.tolist()]
    if len(stops) > ITEMS_MAX + 1 or stops[-1] != len(names) or any(a >= b for a, b in pairwise(stops)):
        raise BadSnapshot(f"names of items end where there are none, or are over {ITEMS_MAX}")
    raw = names.tobytes()
    try:
        return tuple(raw[a:b].decode() for a, b in pairwise(stops))
    except UnicodeDecodeError as bad:
        raise BadSnapshot(f"an item's name isn't UTF-8: {bad}") from None
