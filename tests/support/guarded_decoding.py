"""Decodes damaged copies of a record, uncompiled, in arrays that raise when an index or a slice is out of bounds.

Run with NUMBA_DISABLE_JIT=1 and the record in hexadecimal; prints how many copies are plain, and how many aren't.
"""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from learner.training.record_decoder import DecodedRecords, room_for
from learner.training.record_kernels import decode
from stream.features.page_features import Layout
from tests.support.learner_world import small_spec


class Guarded(np.ndarray[Any, Any]):
    """An array without negative indices, and without slices that are cut off."""

    def __getitem__(self, key: Any) -> Any:
        ends = [key.start or 0, self.shape[0] if key.stop is None else key.stop] if isinstance(key, slice) else [key]
        for end in ends:
            if isinstance(end, int | np.integer) and not 0 <= end < self.shape[0] + isinstance(key, slice):
                raise IndexError(f"{key} of {self.shape[0]}")
        return super().__getitem__(key)


def damaged(raw: bytes) -> Iterator[bytes]:
    """The record, cut off anywhere, and with any octet changed to each of some heads of msgpack."""
    yield raw
    for at in range(len(raw)):
        yield raw[:at]
        for octet in (0x00, 0x7F, 0x9F, 0xBF, 0xC5, 0xCB, 0xCF, 0xD9, 0xDA, 0xDC, 0xDE, 0xFF):
            yield raw[:at] + bytes([octet]) + raw[at + 1 :]


def main(raw: bytes) -> None:
    """Decode them all."""
    layout, counts = Layout(small_spec()), [0, 0]
    for copy in damaged(raw):
        room = DecodedRecords(*[column.view(Guarded) for column in room_for(len(copy), 1, layout)])
        octets = np.frombuffer(copy, np.uint8).view(Guarded)
        ends = np.array([len(copy)])
        plain, _ = decode(octets, ends, room, np.uint64(layout.hash), layout.size_array)
        counts[1 - plain] += 1
    print(*counts)


if __name__ == "__main__":
    main(bytes.fromhex(sys.argv[1]))
