"""Versions are built in a process of their own, in memory that the ranker maps: what it does costs no request much.

    ranker → builder   Ask: which version, and the number of the last build that the ranker has
    builder → ranker   Built: where its tables and layers lie, with the files of blocks that are new; or Failed

Built and tried out in the ranker's own threads, a version would hold the interpreter now and then, and a core for
milliseconds. The builder has a low priority instead, and an interpreter of its own. It ends after the ranker has, when
it sees that its socket has ended. When it dies alone, the ranker starts another, which reads from a base on.
"""

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import closing, suppress
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
from stream.errors import BadSnapshot, SnapshotError, StoreUnavailable
from stream.logs import log_to_stderr
from stream.overlay import Arrays, Overlay
from stream.redis_store import RedisStore
from stream.settings import Settings
from stream.snapshot import decode_manifest, encode_manifest

NICE: Final = 10  # a tenth of the weight of what ranks
HEAD: Final = 8  # bytes that say how long a message is
DESCRIPTORS_MAX: Final = 64  # in one message: three tables of eight, and a tower's layers
SILENT_S: Final = 600.0  # after which a builder is replaced: more than any base takes
END_S: Final = 0.2  # how long a builder whose socket has ended is waited for

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
    """Why there's no version: `kind` is one of FAILURES, or "broken"."""

    kind: str
    says: str


FAILURES: Final[Mapping[str, type[SnapshotError]]] = {"bad": BadSnapshot, "unavailable": StoreUnavailable}


@dataclass(frozen=True)
class Started:
    """A builder: its socket, and what ends it and says how it went. `end` can be called again, by any thread."""

    channel: socket.socket
    end: Callable[[], str]


@dataclass(frozen=True)
class Held:
    """The last build, what it became, and its tables' arrays by their blocks, overlays by the blocks of their heads.

    The next build's message tells only what is new to them.
    """

    build: int
    version: Version | None
    arrays: Mapping[int, Array]
    overlays: Mapping[int, Overlay]


NOTHING: Final = Held(0, None, {}, {})


class Builder:
    """The ranker's end. One thread loads; any may close."""

    def __init__(self, start: Callable[[], Started]) -> None:
        self._start = start
        self._closed = False
        self._running: Started | None = None
        self._guard, self._talking = threading.Lock(), threading.Lock()
        self._held = NOTHING

    def load(self, number: int, previous: Version | None = None) -> Version:
        """Version `number`, tried out. Raises BadSnapshot when it must not be served, StoreUnavailable."""
        held = self._held if previous is self._held.version else NOTHING
        try:
            running = self.start()
            told, descriptors = self._asked(running, Ask(number, held.build))
            if isinstance(told, Built):
                arrays = {**held.arrays, **mapped(told.new, descriptors)}
        except OSError as bad:  # of its end, or of what a machine may run out of
            self._held = NOTHING
            said = self._ended() or str(bad)
            raise StoreUnavailable(f"the process that builds versions has ended ({said})") from None
        if isinstance(told, Failed):
            raise FAILURES.get(told.kind, RuntimeError)(told.says)
        self._held = NOTHING  # until all is well
        self._held = _taken_over(told, arrays, held.overlays, previous)
        assert self._held.version is not None
        return self._held.version

    def start(self) -> Started:
        """Start the builder, unless it runs. Raises StoreUnavailable when it's closed, OSError."""
        with self._guard:
            if self._closed:
                raise StoreUnavailable("the ranker is ending: no version is built any more")
            if self._running is None:
                self._running = self._start()
            return self._running

    def close(self) -> None:
        """End the builder; who waits for a version gets StoreUnavailable."""
        with self._guard:
            self._closed = True
        self._ended()

    def _asked(self, running: Started, ask: Ask) -> tuple[Built | Failed, list[int]]:
        with self._talking:
            _send(running.channel, ask)
            raw, descriptors = _receive(running.channel)
        return msgspec.msgpack.decode(raw, type=Built | Failed), descriptors

    def _ended(self) -> str:
        with self._guard:
            running, self._running = self._running, None
        if running is None:
            return ""
        said = running.end()
        with self._talking:
            running.channel.close()
        return said


def _taken_over(
    told: Built, arrays: Mapping[int, Array], overlays: Mapping[int, Overlay], previous: Version | None
) -> Held:
    """What was built, as a version."""
    found, manifest = dict(overlays), decode_manifest(told.manifest)
    plan = plan_of(manifest, previous)
    wide, statistics = (_layers(table, arrays, found) for table in (told.wide, told.statistics))
    tower, live = None, previous.tower if previous else None
    if told.deep is not None:
        rows = _layers(told.deep, arrays, found)
        if told.net is None:
            assert live is not None, "a build has the layers of the one before, which had none"
            tower = replace(live, rows=rows)
        else:
            net = Net(**{name: arrays[number] for name, number in told.net.arrays.items()}, end=told.net.end)
            tower = Tower(rows, net, ItemParts(plan, embeddings_of(rows), net, live.parts if live else None))
    version = version_of(manifest, plan, wide, statistics, tower, previous)
    tables = [table for table in (told.wide, told.statistics, told.deep) if table]
    return Held(
        told.build,
        version,
        {number: arrays[number] for table in tables for number in table.blocks()},
        {table.overlay[0]: found[table.overlay[0]] for table in tables},
    )


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
    held: Container[int] = ()  # blocks that the ranker has
    build = 0
    while (raw := _heard(channel)) is not None:
        ask = msgspec.msgpack.decode(raw, type=Ask)
        if ask.has != build:
            last, held = None, ()
        answer: Built | Failed
        files: list[Array] = []
        try:
            version = loader.load(ask.number, last)
            answer, files = _told(build + 1, version, last, held, blocks)
        except Exception as bad:  # noqa: BLE001  # whatever a version holds, the next one may be better
            answer = _failed(bad)
        else:
            build, last, held = build + 1, version, {number_of(array) for array in _arrays_of(version)}
        try:
            _send(channel, answer, [block_of(array).descriptor for array in files])
        except OSError:  # the ranker has ended
            return


def _heard(channel: socket.socket) -> bytes | None:
    """What the ranker asks; None when it has ended."""
    try:
        return _receive(channel)[0]
    except OSError:
        return None


def _failed(bad: Exception) -> Failed:
    for kind, error in FAILURES.items():
        if isinstance(bad, error):
            return Failed(kind, str(bad))
    if isinstance(bad, OSError):
        return Failed("unavailable", f"the machine that builds versions refused: {bad}")
    log.error("a version can't be built", exc_info=bad)
    return Failed("broken", repr(bad)[:200])


def _told(build: int, version: Version, last: Version | None, held: Container[int],
          blocks: Blocks) -> tuple[Built, list[Array]]:  # fmt: skip
    """A build, and the arrays whose files go along: in blocks that aren't among `held`."""
    new = {number_of(array): array for array in _arrays_of(version) if number_of(array) not in held}
    tower, before, net = version.tower, last.tower if last else None, None
    if tower is not None and (before is None or tower.parts is not before.parts):
        named = tower.net._asdict()
        end: float = named.pop("end")
        copies = {name: blocks.copy(array) for name, array in named.items()}
        new |= {number_of(array): array for array in copies.values()}
        net = Packed({name: number_of(array) for name, array in copies.items()}, end)
    files = list(new.values())
    deep = _table(tower.rows) if tower else None
    wide, statistics = _table(version.wide), _table(version.statistics)
    places = [place_of(array) for array in files]
    return Built(build, encode_manifest(version.manifest), wide, statistics, deep, net, places), files


def _arrays_of(version: Version) -> list[Array]:
    """Those of its tables."""
    tables = [version.wide, version.statistics, *([version.tower.rows] if version.tower else [])]
    return [array for layers in tables for array in _arrays(layers)]


def _arrays(layers: Layers) -> list[Array]:
    return [layers.base, layers.vectors, *layers.overlay.arrays, *([layers.before.latest] if layers.before else [])]


def _table(layers: Layers) -> Table:
    base, vectors, *overlay = map(number_of, _arrays(layers))
    before = (overlay.pop(), layers.before.limit, layers.before.settled) if layers.before else None
    return Table(
        layers.names, layers.origin, layers.count, base, vectors, overlay, layers.unseen.tobytes(),
        layers.unseen_of_base.tobytes(), before,
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


def started(settings: Settings, model: str) -> Started:
    """A builder in a process and a group of its own: Ctrl-C is the ranker's, whose end is this one's, too."""
    ours, theirs = socket.socketpair()
    ours.settimeout(SILENT_S)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "ranker.builder", str(theirs.fileno()), model],
            pass_fds=[theirs.fileno()],
            env=settings.environment(),
            stdin=subprocess.DEVNULL,
            process_group=0,
        )

    def end() -> str:
        with suppress(OSError):
            ours.shutdown(socket.SHUT_RDWR)
        try:
            status = process.wait(END_S)
        except subprocess.TimeoutExpired:  # whatever it does, it holds nothing that matters
            process.kill()
            status = process.wait()
        return f"exit status {status}"

    return Started(ours, end)


def main() -> None:
    """The builder's process: `python -m ranker.builder DESCRIPTOR MODEL`, the settings in its environment."""
    settings = Settings.load()
    log_to_stderr(settings.log_level)
    channel, model, blocks = socket.socket(fileno=int(sys.argv[1])), sys.argv[2], Blocks()
    with closing(Scorer(1)) as scorer:
        warm(scorer)
    os.nice(NICE)
    with channel, closing(RedisStore(settings, model)) as store:
        serve(channel, Loader(store, model, blocks.take), blocks)


if __name__ == "__main__":
    main()
