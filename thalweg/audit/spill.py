"""Structs in buckets, on disk where they are many: what belongs together is read back at once, the rest stays there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec
import xxhash

BUCKETS: Final = 64
BUFFER_BYTES: Final = 16 << 20  # of all buckets of a spill; then they are written
HEAD_BYTES: Final = 4  # a block's length, before it
T = TypeVar("T", bound=msgspec.Struct)


def bucket_of(key: str) -> int:
    """Where everything of one key goes, such as a user."""
    return xxhash.xxh3_64_intdigest(key.encode()) % BUCKETS


class Spill(Generic[T]):
    """Appends structs to BUCKETS buckets; each keeps its order. Its files are the folder's owner's to remove."""

    def __init__(self, folder: Path, name: str, kind: Any) -> None:
        self.bytes = 0
        self._files = [folder / f"{name}-{bucket}" for bucket in range(BUCKETS)]
        self._buffers: list[list[bytes]] = [[] for _ in range(BUCKETS)]
        self._buffered = 0
        self._encode = msgspec.msgpack.Encoder().encode
        self._decoder = msgspec.msgpack.Decoder(list[kind])

    def put(self, key: str, thing: T) -> None:
        """Append to the bucket of this key."""
        raw = self._encode(thing)
        self._buffers[bucket_of(key)].append(raw)
        self._buffered += len(raw)
        if self._buffered >= BUFFER_BYTES:
            self.flush()

    def bucket(self, bucket: int) -> Iterator[T]:
        """What was put there, in order."""
        if self._files[bucket].exists():
            with self._files[bucket].open("rb") as file:
                while head := file.read(HEAD_BYTES):
                    yield from self._decoder.decode(file.read(int.from_bytes(head, "big")))
        if self._buffers[bucket]:
            yield from self._decoder.decode(_block(self._buffers[bucket]))

    def flush(self) -> None:
        """Write what is in memory."""
        for file, buffer in zip(self._files, self._buffers, strict=True):
            if buffer:
                block = _block(buffer)
                with file.open("ab") as out:
                    out.write(len(block).to_bytes(HEAD_BYTES, "big") + block)
                self.bytes += HEAD_BYTES + len(block)
                buffer.clear()
        self._buffered = 0


def _block(raws: list[bytes]) -> bytes:
    """A msgpack array of them."""
    return b"\xdd" + len(raws).to_bytes(4, "big") + b"".join(raws)
