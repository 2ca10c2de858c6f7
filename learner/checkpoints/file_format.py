"""The bytes of a checkpoint's file: chunks of arrays, then a footer that lists them, then where the footer begins.

    MAGIC · chunk · … · footer (JSON) · its length (uint64) · its digest (16 bytes) · MAGIC

A footer names every chunk that its checkpoint consists of: its own, and those of earlier files that haven't changed
since. Digests are XXH3 of 128 bits: they find damage, not malice. Nothing is decoded before its size and digest are
checked; there is nothing in it that could be run.
"""

import math
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import numpy as np
import xxhash

from stream.runtime.formats import CHECKPOINT

MAGIC: Final = b"THLWGCP"  # then one byte, the version
HEAD: Final = len(MAGIC) + 1  # bytes
TAIL: Final = struct.Struct("<Q16s8s")
FOOTER_MAX: Final = 64 << 20  # bytes
THREADS: Final = 2  # that read: verifying is quick, and copying from the system's cache takes a core
DTYPES: Final = ("<u8", "<i8", "<u4", "<f4", "<f8", "|u1", "<u2", "<i4")

Array = np.ndarray[Any, np.dtype[Any]]


class Damaged(ValueError):
    """A file isn't what was written."""


class OtherFormat(ValueError):
    """A file of another build."""


class Chunk(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An array in a file, or a slice of its rows."""

    name: str  # of the array
    layer: int  # of a table; of several the greatest is the newest
    file: str
    offset: int
    dtype: str
    shape: tuple[int, ...]
    digest: str

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class TableFooter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table. `keys`: how many; `bits`: of a run's number; `layer`: the oldest that counts, which has all runs."""

    keys: int
    bits: int
    layer: int


class Footer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a checkpoint consists of. `files`: of earlier files that it needs the digests of their footers, by name."""

    meta: msgspec.Raw
    tables: dict[str, TableFooter]
    chunks: list[Chunk]
    files: dict[str, str]


class FileWriter:
    """Writes chunks to a file of this version, one after the other."""

    def __init__(self, file: IO[bytes], name: str, version: int = CHECKPOINT.version) -> None:
        self._file, self._name, self._magic = file, name, MAGIC + bytes([version])
        self.bytes = file.write(self._magic)

    def add(self, name: str, layer: int, array: Array, known: Chunk | None = None) -> Chunk:
        """Write this array, unless `known` is a chunk with the same content. Raises OSError."""
        array = np.ascontiguousarray(array)
        raw, dtype = bytes_of(array), array.dtype.str
        digest = xxhash.xxh3_128_hexdigest(raw)
        assert dtype in DTYPES, f"{name} has dtype {dtype}"
        if known and (known.digest, known.dtype, known.shape) == (digest, dtype, array.shape):
            return known
        chunk = Chunk(name, layer, self._name, self.bytes, dtype, array.shape, digest)
        self._file.write(raw)
        self.bytes += len(raw)
        return chunk

    def end(self, footer: Footer) -> str:
        """Write the footer. Returns its digest. Raises OSError."""
        raw = msgspec.json.encode(footer)
        digest = xxhash.xxh3_128_digest(raw)
        self._file.write(raw)
        self._file.write(TAIL.pack(len(raw), digest, self._magic))
        self.bytes += len(raw) + TAIL.size
        return digest.hex()


def bytes_of(array: Array) -> memoryview:
    """A view of a contiguous array's bytes."""
    return array.reshape(-1).view(np.uint8).data


def read_footer(path: Path) -> tuple[Footer, str]:
    """A file's footer, and its digest. Raises Damaged, OtherFormat, OSError."""
    with path.open("rb") as file:
        return read_footer_of(file)


def read_footer_of(file: IO[bytes]) -> tuple[Footer, str]:
    """As `read_footer`, of an open file."""
    size, head = os.fstat(file.fileno()).st_size, file.read(HEAD)
    if head[:-1] != MAGIC or not head[-1] or size < HEAD + TAIL.size:
        raise Damaged("it isn't a checkpoint, or its beginning is missing")
    if why := CHECKPOINT.why_unreadable(head[-1]):
        raise OtherFormat(why)
    file.seek(size - TAIL.size)
    length, digest, magic = TAIL.unpack(file.read(TAIL.size))
    if magic != head or length > min(FOOTER_MAX, size - HEAD - TAIL.size):
        raise Damaged("its end is missing")
    file.seek(size - TAIL.size - length)
    raw = file.read(length)
    if xxhash.xxh3_128_digest(raw) != digest:
        raise Damaged("its footer doesn't have its digest")
    try:
        footer = msgspec.json.decode(raw, type=Footer)
    except msgspec.MsgspecError as error:
        raise OtherFormat(f"its footer has its digest, but other fields: {error}") from error
    return footer, digest.hex()


def version_of(path: Path) -> int:
    """The version of a file whose footer was read. Raises OSError."""
    with path.open("rb") as file:
        return file.read(HEAD)[-1]


class FileReader:
    """Reads chunks of a folder's files into arrays, and verifies them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: dict[str, int] = {}

    def check(self, footer: Footer, path: Path) -> None:
        """Whether all chunks lie within their files, which are those that the footer was written for.

        Raises Damaged, OtherFormat, OSError.
        """
        self._sizes = {path.name: path.stat().st_size}
        for name, digest in footer.files.items():
            if Path(name).name != name or read_footer(self._folder / name)[1] != digest:
                raise Damaged(f"{name}, which it needs, is another one")
            self._sizes[name] = (self._folder / name).stat().st_size
        for chunk in footer.chunks:
            if chunk.dtype not in DTYPES or min(chunk.shape, default=0) < 0 or chunk.offset < 0:
                raise Damaged(f"{chunk.name} has dtype {chunk.dtype} and shape {chunk.shape}")
            if chunk.offset + chunk.size > self._sizes.get(chunk.file, 0):
                raise Damaged(f"{chunk.name} lies beyond the end of {chunk.file}")

    def read(self, wanted: list[tuple[Chunk, Array]]) -> None:
        """Read these chunks, each into an array of its size. Raises Damaged, OSError."""
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self._read_one, wanted))

    def _read_one(self, wanted: tuple[Chunk, Array]) -> None:
        chunk, array = wanted
        raw = bytes_of(array)
        assert len(raw) == chunk.size, f"{chunk.name}: room for {len(raw)} bytes"
        with (self._folder / chunk.file).open("rb", buffering=0) as file:
            file.seek(chunk.offset)
            done = 0
            while done < len(raw):
                count = file.readinto(raw[done:])
                if not count:
                    raise Damaged(f"{chunk.file} ends within {chunk.name}")
                done += count
        if xxhash.xxh3_128_hexdigest(raw) != chunk.digest:
            raise Damaged(f"{chunk.name} in {chunk.file} doesn't have its digest")
