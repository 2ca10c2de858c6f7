"""The ranker's client of the builder process, which builds versions in memory that the ranker maps.

Built in the ranker's own threads, a version would block the interpreter at times, and a core for milliseconds. The
builder (`builder_worker.py`) has an interpreter of its own and a low priority. It ends when the ranker closes its
socket or ends. When it dies, the ranker starts another, which loads from a base.
"""

import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from ranker.builder.blocks import Array, map_arrays
from ranker.builder.wire import (
    FAILURE_ERRORS,
    BuildFailure,
    BuildRequest,
    BuildResult,
    ItemsRef,
    SaveRequest,
    SaveState,
    items_ref,
    layers_of,
    receive,
    send,
)
from ranker.kernels.item_activation_cache import ActivationCache, ItemInputs
from ranker.kernels.net import Net
from ranker.versions.learned_items import learned_items
from ranker.versions.model import ServingTower, Version, embeddings_of
from ranker.versions.version_loader import plan_of, version_of, warm_up
from stream.runtime.errors import StoreUnavailable
from stream.runtime.settings import Settings
from stream.snapshots.manifest import Decision, Manifest, decode_manifest, encode_manifest
from stream.snapshots.version_files import VersionFiles
from stream.tables.delta_table import DeltaTable

ANSWER_TIMEOUT_S: Final = 600.0  # then the builder is replaced: loading a base takes less
HOTTEST_EVERY_S: Final = 2.0  # how often at most the builder gets other items
SAVE_POLL_S: Final = 0.1
EXIT_TIMEOUT_S: Final = 0.2  # from closing the socket; then the builder is killed


@dataclass(frozen=True)
class BuilderProcess:
    """A running builder: its socket, and `end`, which stops it and returns its exit status; safe to repeat."""

    channel: socket.socket
    end: Callable[[], str]


@dataclass(frozen=True)
class LastBuild:
    """The last build: its version, its tables' arrays by block number, overlays by the block number of their heads.

    The next build's message has only what is new.
    """

    build: int
    version: Version | None
    arrays: Mapping[int, Array]
    overlays: Mapping[int, DeltaTable]


NO_BUILD: Final = LastBuild(0, None, {}, {})


class BuilderClient:
    """Loads versions through a builder process, and saves them. One thread loads, another may save; any may close."""

    def __init__(self, start: Callable[[], BuilderProcess]) -> None:
        self._start = start
        self._closed = False
        self._running: BuilderProcess | None = None
        self._process_lock, self._channel_lock = threading.Lock(), threading.Lock()
        self._last = NO_BUILD
        self._hottest: ItemInputs | None = None  # as the builder has them
        self._sent_s, self._sent_items = -math.inf, 0  # when, and of how many items that were known

    def load(self, number: int, previous: Version | None = None) -> Version:
        """Version `number`, validated. Raises BadSnapshot when it must not be served, StoreUnavailable."""
        last = self._last if previous is self._last.version else NO_BUILD
        if last is NO_BUILD:
            self._hottest, self._sent_s = None, -math.inf
        try:
            request = BuildRequest(number, last.build, self._newly_hottest(last.version))
            answer, descriptors = self._request(self.start(), request)
            if isinstance(answer, BuildResult):
                arrays = {**last.arrays, **map_arrays(answer.new_blocks, descriptors)}
        except OSError as error:  # the builder has ended, or the machine lacks memory or descriptors
            self._last = NO_BUILD
            reason = self._end() or str(error)
            raise StoreUnavailable(f"the process that builds versions has ended ({reason})") from None
        if isinstance(answer, BuildFailure):
            raise FAILURE_ERRORS.get(answer.kind, RuntimeError)(answer.message)
        self._last = NO_BUILD  # should the next line fail
        self._last = _assemble(answer, arrays, last.overlays, previous, self._hottest)
        assert self._last.version is not None
        if previous is None or self._last.version.plan is not previous.plan:
            self._hottest, self._sent_s = None, -math.inf
        if answer.net is not None:
            warm_up(self._last.version)
        return self._last.version

    def _newly_hottest(self, live: Version | None) -> ItemsRef | None:
        """The live version's hottest items, if more are known than when they were sent, and that was a while ago."""
        if live is None or live.tower is None or time.monotonic() - self._sent_s < HOTTEST_EVERY_S:
            return None
        items = live.tower.items.live.table.count
        if items == (1 if self._hottest is None else self._sent_items):
            return None
        self._hottest = live.tower.items.hottest()
        self._sent_s, self._sent_items = time.monotonic(), items
        return items_ref(self._hottest)

    def save(self, files: VersionFiles, manifest: Manifest, decision: Decision) -> None:
        """Have the builder save a version and a decision, and wait until it has. Raises SnapshotError, OSError."""
        request = SaveRequest(str(files.folder), encode_manifest(manifest), decision)
        state = SaveState(done=False)
        while not state.done:
            raw, _ = self._exchange(self.start(), request)
            state = msgspec.msgpack.decode(raw, type=SaveState)
            time.sleep(0 if state.done else SAVE_POLL_S)
        if state.error:
            raise OSError(state.error)

    def start(self) -> BuilderProcess:
        """Start the builder, unless it runs. Raises StoreUnavailable when it's closed, OSError."""
        with self._process_lock:
            if self._closed:
                raise StoreUnavailable("the ranker is ending: no further version is built")
            if self._running is None:
                self._running = self._start()
            return self._running

    def close(self) -> None:
        """End the builder; a load that waits for it raises StoreUnavailable."""
        with self._process_lock:
            self._closed = True
        self._end()

    def _request(self, running: BuilderProcess, request: BuildRequest) -> tuple[BuildResult | BuildFailure, list[int]]:
        raw, descriptors = self._exchange(running, request)
        return msgspec.msgpack.decode(raw, type=BuildResult | BuildFailure), descriptors

    def _exchange(self, running: BuilderProcess, request: BuildRequest | SaveRequest) -> tuple[bytes, list[int]]:
        with self._channel_lock:
            send(running.channel, request)
            return receive(running.channel)

    def _end(self) -> str:
        with self._process_lock:
            running, self._running = self._running, None
        if running is None:
            return ""
        status = running.end()
        with self._channel_lock:
            running.channel.close()
        return status


def _assemble(
    result: BuildResult,
    arrays: Mapping[int, Array],
    overlays: Mapping[int, DeltaTable],
    previous: Version | None,
    hottest: ItemInputs | None,
) -> LastBuild:
    """The version of a build's result; `hottest`: the items whose parts it has."""
    known, manifest = dict(overlays), decode_manifest(result.manifest)
    plan = plan_of(manifest, previous)
    wide, statistics = (layers_of(table, arrays, known) for table in (result.wide, result.statistics))
    tower, live = None, previous.tower if previous else None
    if result.deep is not None:
        rows = layers_of(result.deep, arrays, known)
        if result.net is None:
            assert live is not None, "the build refers to the previous net, but there is none"
            tower = replace(live, embeddings=rows)
        else:
            net = Net(
                **{name: arrays[number] for name, number in result.net.arrays.items()}, last_bias=result.net.last_bias
            )
            embeddings = embeddings_of(rows, plan.item.deep.unseen)
            parts = (hottest, arrays[result.parts]) if hottest is not None and result.parts is not None else None
            items = ActivationCache(plan, embeddings, net, live.items if live else None, parts)
            tower = ServingTower(rows, net, items)
    shown = result.shown
    if shown is None:
        assert previous is not None, "the build refers to the previous names, but there are none"
        shown = previous.shown
    learned = None
    if result.learned_items is not None:
        before = previous.learned_items if previous and previous.plan is plan else None
        learned = learned_items(plan.spec.retrieval, layers_of(result.learned_items, arrays, known), before)
    version = version_of(manifest, plan, wide, statistics, tower, previous, shown, learned)
    tables = [table for table in (result.wide, result.statistics, result.deep, result.learned_items) if table]
    return LastBuild(
        result.build,
        version,
        {number: arrays[number] for table in tables for number in table.blocks()},
        {table.overlay[0]: known[table.overlay[0]] for table in tables},
    )


def start_builder(settings: Settings, model: str) -> BuilderProcess:
    """Start a builder in a process group of its own: Ctrl-C reaches the ranker only, whose end ends the builder."""
    ours, theirs = socket.socketpair()
    ours.settimeout(ANSWER_TIMEOUT_S)
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
            status = process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # a kill loses nothing that matters
            process.kill()
            status = process.wait()
        return f"exit status {status}"

    return BuilderProcess(ours, end)
