"""Versions are built in a process of their own, in memory that the ranker maps: what it does costs no request much.

Built and tried out in the ranker's own threads, a version would hold the interpreter now and then, and a core for
milliseconds. The builder (`builder_worker.py`) has a low priority instead, and an interpreter of its own. It ends after
the ranker has, when it sees that its socket has ended. When it dies alone, the ranker starts another, which reads from
a base on.
"""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from ranker.builder.blocks import Array, mapped
from ranker.builder.wire import FAILURES, Ask, Built, Failed, layers_of, receive, send
from ranker.kernels.item_activation_cache import ItemParts
from ranker.kernels.net import Net
from ranker.versions.model import Tower, Version, embeddings_of
from ranker.versions.version_loader import plan_of, version_of
from stream.runtime.errors import StoreUnavailable
from stream.runtime.settings import Settings
from stream.snapshots.manifest import decode_manifest
from stream.tables.delta_table import Overlay

SILENT_S: Final = 600.0  # after which a builder is replaced: more than any base takes
END_S: Final = 0.2  # how long a builder whose socket has ended is waited for


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
            send(running.channel, ask)
            raw, descriptors = receive(running.channel)
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
    wide, statistics = (layers_of(table, arrays, found) for table in (told.wide, told.statistics))
    tower, live = None, previous.tower if previous else None
    if told.deep is not None:
        rows = layers_of(told.deep, arrays, found)
        if told.net is None:
            assert live is not None, "a build has the layers of the one before, which had none"
            tower = replace(live, rows=rows)
        else:
            net = Net(**{name: arrays[number] for name, number in told.net.arrays.items()}, end=told.net.end)
            tower = Tower(rows, net, ItemParts(plan, embeddings_of(rows), net, live.parts if live else None))
    shown = told.shown
    if shown is None:
        assert previous is not None, "a build has the names of the one before, which there was none of"
        shown = previous.shown
    version = version_of(manifest, plan, wide, statistics, tower, previous, shown)
    tables = [table for table in (told.wide, told.statistics, told.deep) if table]
    return Held(
        told.build,
        version,
        {number: arrays[number] for table in tables for number in table.blocks()},
        {table.overlay[0]: found[table.overlay[0]] for table in tables},
    )


def started(settings: Settings, model: str) -> Started:
    """A builder in a process and a group of its own: Ctrl-C is the ranker's, whose end is this one's, too."""
    ours, theirs = socket.socketpair()
    ours.settimeout(SILENT_S)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "ranker.builder.builder_worker", str(theirs.fileno()), model],
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
