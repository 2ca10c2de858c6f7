"""Versions are built in a process of their own, in memory that the ranker maps: what it does costs no request much.

    ranker → builder   Ask: which version, and the number of the last build that the ranker has
    builder → ranker   Built: where its tables and layers lie, with the files of blocks that are new; or Failed

Built and tried out in the ranker's own threads, a version would hold the interpreter now and then, and a core for
milliseconds. The builder has a low priority instead, and an interpreter of its own. It dies with the ranker: then its
socket ends. When it dies alone, the ranker starts another, which reads the next version from its base on.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np

from ranker.blocks import Array, Blocks, Place, block_of, mapped, number_of, place_of
from ranker.layers import Before, Layers, Name
from ranker.model import Tower, Version, embeddings_of
from ranker.net import Net
from ranker.parts import ItemParts
from ranker.score import Scorer
from ranker.versions import Loader, plan_of, version_of
from ranker.warm import warm
from stream.errors import BadSnapshot, StoreUnavailable
from stream.logs import log_to_stderr
from stream.overlay import Arrays, Overlay
from stream.redis_store import RedisStore
from stream.settings import Settings
from stream.snapshot import decode_manifest, encode_manifest

NICE: Final = 10  # a tenth of the weight of what ranks
HEAD: Final = 8  # bytes that say how long a message is
DESCRIPTORS_MAX: Final = 64  # in one message: three tables of seven, and a tower's layers
END_S: Final = 0.2  # that a builder which isn't at work may take to end

log = logging.getLogger(__name__)


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
    """Build `build`. `net` lacks when it's that of the build before. `new`: the blocks whose files come along."""

    build: int
    manifest: bytes
    wide: Table
    statistics: Table
    deep: Table | None
    net: Packed | None
    new: list[Place]


class Failed(msgspec.Struct, tag=True):
    """Why there's no version: `kind` is one of FAILURES."""

    kind: str
    says: str


FAILURES: Final[Mapping[str, type[Exception]]] = {
    "bad": BadSnapshot,
    "unavailable": StoreUnavailable,
    "broken": RuntimeError,
}


@dataclass(frozen=True)
class Started:
    """A builder: its socket, and what ends it and says how it went. `end` can be called again, by any thread."""

    channel: socket.socket
    end: Callable[[], str]


class Builder:
    """The ranker's end. One thread loads; any may close."""

    def __init__(self, start: Callable[[], Started]) -> None:
        self._start = start
        self._closed = False
        self._running: Started | None = start()
        self._guard, self._talking = threading.Lock(), threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._last: tuple[int, Version] | None = None  # which build it was
        self._arrays: dict[int, Array] = {}  # of its tables: the next build's message tells what is new to them
        self._overlays: dict[int, Overlay] = {}  # by the block of their heads: what has the same ones is the same

    def load(self, number: int, previous: Version | None = None) -> Version:
        """Version `number`, tried out. Raises BadSnapshot when it must not be served, StoreUnavailable."""
        if self._last is not None and previous is not self._last[1]:
            self._forget()
        running = self._runs()
        try:
            with self._talking:
                _send(running.channel, Ask(number, self._last[0] if self._last else 0))
                raw, descriptors = _receive(running.channel)
        except OSError as bad:
            said = self._ended(running) or str(bad)
            raise StoreUnavailable(f"the process that builds versions has ended ({said})") from None
        told = msgspec.msgpack.decode(raw, type=Built | Failed)
        if isinstance(told, Failed):
            raise FAILURES[told.kind](told.says)
        return self._take_over(told, descriptors, previous)

    def close(self) -> None:
        """End the builder; who waits for a version gets StoreUnavailable."""
        with self._guard:
            self._closed, running = True, self._running
        if running is not None:
            self._ended(running)

    def _runs(self) -> Started:
        with self._guard:
            if self._closed:
                raise StoreUnavailable("the ranker is ending: no version is built any more")
            if self._running is None:
                log.warning("another process that builds versions is started; it begins with a base")
                self._running = self._start()
            return self._running

    def _ended(self, running: Started) -> str:
        said = running.end()
        with self._talking:
            running.channel.close()
        with self._guard:
            if self._running is running:
                self._running = None
        self._forget()
        return said

    def _take_over(self, told: Built, descriptors: Sequence[int], previous: Version | None) -> Version:
        arrays, overlays = self._arrays | mapped(told.new, descriptors), self._overlays
        self._forget()  # until all is well
        manifest = decode_manifest(told.manifest)
        plan = plan_of(manifest, previous)
        wide, statistics = (_layers(table, arrays, overlays) for table in (told.wide, told.statistics))
        tower, before = None, previous.tower if previous else None
        if told.deep is not None:
            rows = _layers(told.deep, arrays, overlays)
            if told.net is None:
                assert before is not None, "a build has the layers of the one before, which had none"
                tower = replace(before, rows=rows)
            else:
                net = Net(**{name: arrays[number] for name, number in told.net.arrays.items()}, end=told.net.end)
                tower = Tower(rows, net, ItemParts(plan, embeddings_of(rows), net, before.parts if before else None))
        version = version_of(manifest, plan, wide, statistics, tower, previous)
        kept = [table for table in (told.wide, told.statistics, told.deep) if table]
        self._arrays = {number: arrays[number] for table in kept for number in table.blocks()}
        self._overlays = {table.overlay[0]: overlays[table.overlay[0]] for table in kept}
        self._last = told.build, version
        return version


def _layers(table: Table, arrays: Mapping[int, Array], overlays: dict[int, Overlay]) -> Layers:
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


def serve(channel: socket.socket, loader: Loader, blocks: Blocks) -> None:
    """The builder's end: build what is asked for, in `blocks`, from which `loader` takes, until the socket ends."""
    last: Version | None = None
    held: set[int] = set()  # blocks that the ranker has
    build = 0
    while True:
        try:
            ask = msgspec.msgpack.decode(_receive(channel)[0], type=Ask)
            if ask.has != build:
                last, held = None, set()
            try:
                version = loader.load(ask.number, last)
            except Exception as bad:  # noqa: BLE001  # whatever a version holds, the next one may be better
                _send(channel, _failed(bad))
                continue
            build += 1
            held = _tell(channel, build, version, last, held, blocks)
            last = version
        except OSError:  # the ranker has ended
            return


def _failed(bad: Exception) -> Failed:
    kind = next((kind for kind, error in FAILURES.items() if isinstance(bad, error)), None)
    if kind is not None:
        return Failed(kind, str(bad))
    log.error("a version can't be built", exc_info=bad)
    return Failed("broken", repr(bad)[:200])


def _tell(channel: socket.socket, build: int, version: Version, last: Version | None, held: Container[int],
          blocks: Blocks) -> set[int]:  # fmt: skip
    """Send a build, with the files of blocks that aren't among `held`; returns the blocks of its tables."""
    tower, before = version.tower, last.tower if last else None
    parts = [version.wide, version.statistics, *([tower.rows] if tower else [])]
    of_tables = {number_of(array): array for layers in parts for array in _arrays(layers)}
    new, net = {number: array for number, array in of_tables.items() if number not in held}, None
    if tower is not None and (before is None or tower.parts is not before.parts):
        named = tower.net._asdict()
        end: float = named.pop("end")
        copies = {name: blocks.copy(array) for name, array in named.items()}
        new |= {number_of(array): array for array in copies.values()}
        net = Packed({name: number_of(array) for name, array in copies.items()}, end)
    wide, statistics, *deep = map(_table, parts)
    places = [place_of(array) for array in new.values()]
    told = Built(build, encode_manifest(version.manifest), wide, statistics, deep[0] if deep else None, net, places)
    _send(channel, told, [block_of(array).descriptor for array in new.values()])
    return set(of_tables)


def _arrays(layers: Layers) -> list[Array]:
    return [layers.base, layers.vectors, *layers.overlay.arrays, *([layers.before.latest] if layers.before else [])]


def _table(layers: Layers) -> Table:
    before = layers.before
    return Table(
        layers.names, layers.origin, layers.count, number_of(layers.base), number_of(layers.vectors),
        [number_of(array) for array in layers.overlay.arrays], layers.unseen.tobytes(),
        layers.unseen_of_base.tobytes(), (number_of(before.latest), before.limit, before.settled) if before else None,
    )  # fmt: skip


def _send(channel: socket.socket, message: msgspec.Struct, descriptors: Sequence[int] = ()) -> None:
    body = msgspec.msgpack.encode(message)
    head = len(body).to_bytes(HEAD, "little")
    if descriptors:
        socket.send_fds(channel, [head], descriptors)
    else:
        channel.sendall(head)
    channel.sendall(body)


def _receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """A message's bytes, and the descriptors that came along. Raises OSError when the other end has gone."""
    head, descriptors, _, _ = socket.recv_fds(channel, HEAD, DESCRIPTORS_MAX)
    size = int.from_bytes(head + _exactly(channel, HEAD - len(head)), "little")
    return _exactly(channel, size), descriptors


def _exactly(channel: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        more = channel.recv(size - len(found))
        if not more:
            raise ConnectionError("it has closed its socket")
        found += more
    return bytes(found)


def started(settings: Settings, model: str) -> Started:
    """A builder in a process of its own."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "ranker.builder", str(theirs.fileno()), model],
            pass_fds=[theirs.fileno()],
            env=settings.environment(),
            stdin=subprocess.DEVNULL,
        )

    def end() -> str:
        ours.shutdown(socket.SHUT_RDWR)
        try:
            status = process.wait(END_S)
        except subprocess.TimeoutExpired:  # it's at work, and holds nothing that matters
            process.kill()
            status = process.wait()
        return f"exit status {status}"

    return Started(ours, end)


def main() -> None:
    """The builder's process: `python -m ranker.builder DESCRIPTOR MODEL`, the settings in its environment."""
    settings = Settings.load()
    log_to_stderr(settings.log_level)
    os.nice(NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the ranker's, whose end is this one's, too
    channel, model, blocks = socket.socket(fileno=int(sys.argv[1])), sys.argv[2], Blocks()
    with closing(Scorer(1)) as scorer:
        warm(scorer)
    with channel, closing(RedisStore(settings, model)) as store:
        serve(channel, Loader(store, model, blocks.take), blocks)


if __name__ == "__main__":
    main()
