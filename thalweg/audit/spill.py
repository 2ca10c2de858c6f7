"""Partitions structs by key into buckets on disk, which are read back one at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec
import xxhash

BUCKETS: Final = 64
BUFFER_BYTES: Final = 16 << 20  # of all buckets of a spill; more are flushed
HEAD_BYTES: Final = 4  # the block's length, before each block
T = TypeVar("T", bound=msgspec.Struct)


def bucket_of(key: str) -> int:
    """The bucket of a key, such as a user id."""
    return xxhash.xxh3_64_intdigest(key.encode()) % BUCKETS


class Spill(Generic[T]):
    """Appends structs to BUCKETS buckets, each in order. The caller removes the folder."""

    def __init__(self, folder: Path, name: str, kind: Any) -> None:
        self._files = [folder / f"{name}-{bucket}" for bucket in range(BUCKETS)]
        self._buffers: list[list[bytes]] = [[] for _ in range(BUCKETS)]
        self._buffered = 0
        self._encode = msgspec.msgpack.Encoder().encode
        self._decoder = msgspec.msgpack.Decoder(list[kind])

    def put(self, key: str, value: T) -> None:
        """Append to the bucket of this key."""
        raw = self._encode(value)
        self._buffers[bucket_of(key)].append(raw)
        self._buffered += len(raw)
        if self._buffered >= BUFFER_BYTES:
            self.flush()

    def bucket(self, bucket: int) -> Iterator[T]:
        """The bucket's structs, in order."""
        if self._files[bucket].exists():
            with self._files[bucket].open("rb") as file:
                while head := file.read(HEAD_BYTES):
                    yield from self._decoder.decode(file.read(int.from_bytes(head, "big")))
        if self._buffers[bucket]:
            yield from self._decoder.decode(_block(self._buffers[bucket]))

    def flush(self) -> None:
        """Write the buffers to disk."""
        for file, buffer in zip(self._files, self._buffers, strict=True):
            if buffer:
                block = _block(buffer)
                with file.open("ab") as out:
                    out.write(len(block).to_bytes(HEAD_BYTES, "big") + block)
                buffer.clear()
        self._buffered = 0


def _block(raws: list[bytes]) -> bytes:
    """A msgpack array of encoded values."""
    return b"\xdd" + len(raws).to_bytes(4, "big") + b"".join(raws)
