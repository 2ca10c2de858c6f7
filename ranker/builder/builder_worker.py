"""The builder process: builds versions for a ranker, in blocks that the ranker maps (`builder_client.py`)."""

import logging
import os
import socket
import sys
from collections.abc import Container
from contextlib import closing, suppress
from typing import Final

import msgspec

from ranker.builder.blocks import Array, allocate, array_ref, block_of, copied, number_of
from ranker.builder.version_saver import VersionSaver
from ranker.builder.wire import (
    FAILURE_ERRORS,
    BuildFailure,
    BuildRequest,
    BuildResult,
    NetRef,
    SaveRequest,
    arrays_of,
    inputs_of,
    receive,
    send,
    table_ref,
)
from ranker.kernels.item_activation_cache import ItemInputs
from ranker.versions.model import Version
from ranker.versions.version_loader import VersionLoader
from stream.runtime.logs import log_to_stderr
from stream.runtime.settings import Settings
from stream.snapshots.manifest import encode_manifest
from stream.snapshots.redis_store import RedisStore

NICE: Final = 10  # a tenth of the CPU weight of ranking threads

log = logging.getLogger("ranker.builder.builder_worker")  # __name__ is __main__


def serve(channel: socket.socket, loader: VersionLoader, saver: VersionSaver) -> None:
    """Answer requests until the ranker closes the socket. `loader` takes its arrays from `allocate`."""
    last: Version | None = None
    known: Container[int] = ()  # blocks that the ranker has mapped
    hottest: ItemInputs | None = None  # items of the ranker's, by the plan of `last`
    build = 0
    with suppress(OSError):  # the ranker has ended
        while True:
            request = msgspec.msgpack.decode(receive(channel)[0], type=BuildRequest | SaveRequest)
            if isinstance(request, SaveRequest):
                send(channel, saver.ask(request))
                continue
            if request.known_build != build:
                last, known, hottest = None, (), None
            if request.hottest is not None:
                hottest = inputs_of(request.hottest)
            answer: BuildResult | BuildFailure
            new: list[Array] = []
            try:
                version = loader.load(request.number, last)
                if last is None or version.plan is not last.plan:
                    hottest = None
                answer, new = _result(build + 1, version, last, known, hottest)
            except Exception as error:  # noqa: BLE001  # whatever a version contains, the next one may be valid
                answer = _failure(error)
            else:
                build, last, known = build + 1, version, {number_of(array) for array in _table_arrays(version)}
            send(channel, answer, [block_of(array).descriptor for array in new])


def _failure(error: Exception) -> BuildFailure:
    for kind, known in FAILURE_ERRORS.items():
        if isinstance(error, known):
            return BuildFailure(kind, str(error))
    if isinstance(error, OSError):
        return BuildFailure("unavailable", f"the machine that builds versions lacks a resource: {error}")
    log.error("a version can't be built", exc_info=error)
    return BuildFailure("broken", repr(error)[:200])


def _result(
    build: int, version: Version, last: Version | None, known: Container[int], hottest: ItemInputs | None
) -> tuple[BuildResult, list[Array]]:
    """A build's message, and its arrays in blocks that aren't `known` to the ranker."""
    new = {number_of(array): array for array in _table_arrays(version) if number_of(array) not in known}
    tower, before, net, parts = version.tower, last.tower if last else None, None, None
    if tower is not None and (before is None or tower.items is not before.items):
        fields = tower.net._asdict()
        last_bias: float = fields.pop("last_bias")
        copies = {name: copied(array) for name, array in fields.items()}
        new |= {number_of(array): array for array in copies.values()}
        net = NetRef({name: number_of(array) for name, array in copies.items()}, last_bias)
        if hottest is not None:
            array = copied(tower.items.parts_of(hottest))
            parts = number_of(array)
            new[parts] = array
    arrays = list(new.values())
    deep = table_ref(tower.embeddings) if tower else None
    wide, statistics = table_ref(version.wide), table_ref(version.statistics)
    refs = [array_ref(array) for array in arrays]
    shown = None if last is not None and version.shown is last.shown else version.shown
    learned = table_ref(version.learned_items.table) if version.learned_items else None
    return BuildResult(
        build, encode_manifest(version.manifest), wide, statistics, deep, net, shown, parts, refs, learned
    ), arrays


def _table_arrays(version: Version) -> list[Array]:
    tables = [version.wide, version.statistics]
    tables += [version.tower.embeddings] if version.tower else []
    tables += [version.learned_items.table] if version.learned_items else []
    return [array for layers in tables for array in arrays_of(layers)]


def main() -> None:
    """The builder: `python -m ranker.builder.builder_worker DESCRIPTOR MODEL`, with settings in its environment.

    It loads kernels as the first versions need them: the ranker waits for one at its start, and compiles the same ones.
    """
    settings = Settings.load()
    log_to_stderr(settings, "ranker")
    channel, model = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
    os.nice(NICE)
    with channel, closing(RedisStore(settings, model)) as store, closing(VersionSaver(store)) as saver:
        serve(channel, VersionLoader(store, model, allocate), saver)


if __name__ == "__main__":
    main()
