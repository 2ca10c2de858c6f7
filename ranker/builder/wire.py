"""What ranker and builder tell each other, over a socket: messages, and the files of blocks that go along with them.

ranker → builder   Ask: which version, and the number of the last build that the ranker has
builder → ranker   Built: where its tables and layers lie, with the files of blocks that are new; or Failed
"""

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from ranker.builder.blocks import Array, Place, number_of
from ranker.kernels.layered_table import Before, Layers, Name
from stream.runtime.errors import BadSnapshot, SnapshotError, StoreUnavailable
from stream.tables.delta_table import Arrays, Overlay

HEAD: Final = 8  # bytes that say how long a message is
DESCRIPTORS_MAX: Final = 64  # in one message: three tables of eight, and a tower's layers


class Ask(msgspec.Struct, array_like=True):
    """Build version `number`; `has`: the build that the ranker has, 0: none of this builder's."""

    number: int
    has: int


class Table(msgspec.Struct, array_like=True):
    """`Layers`, their arrays by the numbers of their blocks."""

    names: tuple[Name, ...]
    origin: Name
    count: int
    base: int
    vectors: int
    overlay: list[int]
    unseen: bytes
    unseen_of_base: bytes
    before: tuple[int, int, int] | None

    def blocks(self) -> list[int]:
        """Numbers of all."""
        return [self.base, self.vectors, *self.overlay, *([self.before[0]] if self.before else [])]


class Packed(msgspec.Struct, array_like=True):
    """`Net`, its arrays by the numbers of their blocks."""

    arrays: dict[str, int]
    end: float


class Built(msgspec.Struct, tag=True):
    """Build `build`. `net` and `shown` lack when they're those of the build before. `new`: the blocks whose files come
    along."""

    build: int
    manifest: bytes
    wide: Table
    statistics: Table
    deep: Table | None
    net: Packed | None
    shown: tuple[str, ...] | None
    new: list[Place]


class Failed(msgspec.Struct, tag=True):
    """Why there's no version: `kind` is one of FAILURES, or "broken"."""

    kind: str
    says: str


FAILURES: Final[Mapping[str, type[SnapshotError]]] = {"bad": BadSnapshot, "unavailable": StoreUnavailable}


def layers_of(table: Table, arrays: Mapping[int, Array], overlays: dict[int, Overlay]) -> Layers:
    """A table as it was told. What is there already is the same object, as whoever keeps cells of it expects."""
    heads = table.overlay[0]
    if heads not in overlays:
        overlays[heads] = Overlay(Arrays(*(arrays[number] for number in table.overlay)))
    unseen, unseen_of_base = (np.frombuffer(raw, np.float32).copy() for raw in (table.unseen, table.unseen_of_base))
    before = Before(arrays[table.before[0]], *table.before[1:]) if table.before else None
    return Layers(
        table.names, table.origin, arrays[table.base], arrays[table.vectors], unseen_of_base, overlays[heads],
        table.count, unseen, before,
    )  # fmt: skip


def arrays_of(layers: Layers) -> list[Array]:
    """All of a table, in the order of `Table.blocks`."""
    return [layers.base, layers.vectors, *layers.overlay.arrays, *([layers.before.latest] if layers.before else [])]


def table_of(layers: Layers) -> Table:
    """What is told of a table whose arrays lie in blocks."""
    base, vectors, *overlay = map(number_of, arrays_of(layers))
    before = (overlay.pop(), layers.before.limit, layers.before.settled) if layers.before else None
    return Table(
        layers.names, layers.origin, layers.count, base, vectors, overlay, layers.unseen.tobytes(),
        layers.unseen_of_base.tobytes(), before,
    )  # fmt: skip


def send(channel: socket.socket, message: msgspec.Struct, descriptors: Sequence[int] = ()) -> None:
    """Send a message, and the files of these descriptors. Raises OSError when the other end has gone."""
    body = msgspec.msgpack.encode(message)
    head = len(body).to_bytes(HEAD, "little")
    if descriptors:
        socket.send_fds(channel, [head], descriptors)
    else:
        channel.sendall(head)
    channel.sendall(body)


def receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """A message's bytes, and the descriptors that came along. Raises OSError when the other end has gone."""
    head, descriptors, flags, _ = socket.recv_fds(channel, HEAD, DESCRIPTORS_MAX)
    try:
        if flags & socket.MSG_CTRUNC:
            raise OSError("there are too many open files: raise the limit (ulimit -n)")
        size = int.from_bytes(head + _exactly(channel, HEAD - len(head)), "little")
        return _exactly(channel, size), descriptors
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _exactly(channel: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        more = channel.recv(size - len(found))
        if not more:
            raise ConnectionError("it has closed its socket")
        found += more
    return bytes(found)
