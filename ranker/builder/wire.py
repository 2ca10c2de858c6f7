"""Messages between ranker and builder over a socket, and the file descriptors of blocks that accompany them.

ranker → builder   BuildRequest: a version, and the last build that the ranker has
builder → ranker   BuildResult: references to its arrays, with the descriptors of new blocks; or BuildFailure
ranker → builder   SaveRequest: a version to save on disk; repeated until it's done
builder → ranker   SaveState
"""

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from ranker.builder.blocks import Array, ArrayRef, number_of
from ranker.kernels.item_activation_cache import ItemInputs
from ranker.kernels.layered_table import LayeredTable, PayloadId, Predecessor
from stream.features.encoder import DeepInput
from stream.runtime.errors import BadSnapshot, SnapshotError, StoreUnavailable
from stream.snapshots.manifest import Decision
from stream.tables.delta_table import DeltaArrays, DeltaTable

LENGTH_BYTES: Final = 8  # in front of each message
DESCRIPTORS_MAX: Final = 64  # in one message: four tables of eight, and a tower's layers


class ItemsRef(msgspec.Struct, array_like=True):
    """`ItemInputs` as bytes."""

    keys: bytes
    ids: bytes
    offsets: bytes
    numbers: bytes


class BuildRequest(msgspec.Struct, array_like=True, tag=True):
    """Build version `number`. `known_build`: the last build that the ranker has, 0 if none of this builder's.

    `hottest`: the items whose parts new dense layers are to come with, by the plan of that build; None: as before.
    """

    number: int
    known_build: int
    hottest: ItemsRef | None = None


class SaveRequest(msgspec.Struct, array_like=True, tag=True):
    """Save the version of a manifest, and a decision, in a folder of `VersionFiles`."""

    folder: str
    manifest: bytes
    decision: Decision


class SaveState(msgspec.Struct, array_like=True, tag=True):
    """Whether that is done, and why it failed."""

    done: bool
    error: str = ""


class TableRef(msgspec.Struct, array_like=True):
    """`LayeredTable` with their arrays by block number."""

    payload_ids: tuple[PayloadId, ...]
    origin: PayloadId
    count: int
    base: int
    vectors: int
    overlay: list[int]
    unseen: bytes
    unseen_of_base: bytes
    before: tuple[int, int, int] | None

    def blocks(self) -> list[int]:
        """The numbers of all its blocks."""
        return [self.base, self.vectors, *self.overlay, *([self.before[0]] if self.before else [])]


class NetRef(msgspec.Struct, array_like=True):
    """`Net` with its arrays by block number."""

    arrays: dict[str, int]
    last_bias: float


class BuildResult(msgspec.Struct, tag=True):
    """A version. `net` and `shown` are None when the previous build's apply. `new_blocks` are in descriptors' order.

    `parts`: with a net, the block of the parts of the ranker's hottest items; None where it named none.
    """

    build: int
    manifest: bytes
    wide: TableRef
    statistics: TableRef
    deep: TableRef | None
    net: NetRef | None
    shown: tuple[str, ...] | None
    parts: int | None
    new_blocks: list[ArrayRef]
    learned_items: TableRef | None = None


class BuildFailure(msgspec.Struct, tag=True):
    """Why there's no version: `kind` is a key of FAILURE_ERRORS, or "broken"."""

    kind: str
    message: str


FAILURE_ERRORS: Final[Mapping[str, type[SnapshotError]]] = {"bad": BadSnapshot, "unavailable": StoreUnavailable}


def items_ref(inputs: ItemInputs) -> ItemsRef:
    """The message of items' inputs."""
    return ItemsRef(inputs.keys.tobytes(), *(array.tobytes() for array in inputs.deep))


def inputs_of(items: ItemsRef) -> ItemInputs:
    """The inputs of a message."""
    keys, ids = (np.frombuffer(raw, np.uint64).copy() for raw in (items.keys, items.ids))
    numbers = np.frombuffer(items.numbers, np.float32).copy().reshape(len(keys), -1)
    return ItemInputs(keys, DeepInput(ids, np.frombuffer(items.offsets, np.int64).copy(), numbers))


def layers_of(table: TableRef, arrays: Mapping[int, Array], overlays: dict[int, DeltaTable]) -> LayeredTable:
    """The table of a reference. A known overlay is reused: caches compare it by identity."""
    heads = table.overlay[0]
    if heads not in overlays:
        overlays[heads] = DeltaTable(DeltaArrays(*(arrays[number] for number in table.overlay)))
    unseen, unseen_of_base = (np.frombuffer(raw, np.float32).copy() for raw in (table.unseen, table.unseen_of_base))
    before = Predecessor(arrays[table.before[0]], *table.before[1:]) if table.before else None
    return LayeredTable(
        table.payload_ids, table.origin, arrays[table.base], arrays[table.vectors], unseen_of_base, overlays[heads],
        table.count, unseen, before,
    )  # fmt: skip


def arrays_of(layers: LayeredTable) -> list[Array]:
    """A table's arrays, in the order of `TableRef.blocks`."""
    return [
        layers.base,
        layers.vectors,
        *layers.delta.arrays,
        *([layers.predecessor.latest] if layers.predecessor else []),
    ]


def table_ref(layers: LayeredTable) -> TableRef:
    """The reference of a table whose arrays are in blocks."""
    base, vectors, *overlay = map(number_of, arrays_of(layers))
    before = (overlay.pop(), layers.predecessor.limit, layers.predecessor.settled) if layers.predecessor else None
    return TableRef(
        layers.payload_ids, layers.origin, layers.count, base, vectors, overlay, layers.unseen.tobytes(),
        layers.unseen_of_base.tobytes(), before,
    )  # fmt: skip


def send(channel: socket.socket, message: msgspec.Struct, descriptors: Sequence[int] = ()) -> None:
    """Send a message with file descriptors. Raises OSError when the other end is closed."""
    body = msgspec.msgpack.encode(message)
    head = len(body).to_bytes(LENGTH_BYTES, "little")
    if descriptors:
        socket.send_fds(channel, [head], descriptors)
    else:
        channel.sendall(head)
    channel.sendall(body)


def receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """A message's bytes and its file descriptors. Raises OSError when the other end is closed."""
    head, descriptors, flags, _ = socket.recv_fds(channel, LENGTH_BYTES, DESCRIPTORS_MAX)
    try:
        if flags & socket.MSG_CTRUNC:
            raise OSError("there are too many open files: raise the limit (ulimit -n)")
        size = int.from_bytes(head + _exactly(channel, LENGTH_BYTES - len(head)), "little")
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
            raise ConnectionError("the other end is closed")
        found += more
    return bytes(found)
