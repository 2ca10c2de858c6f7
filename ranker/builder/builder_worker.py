"""The builder's process: builds versions for a ranker, in blocks that the ranker maps (`builder_client.py`)."""

import logging
import os
import socket
import sys
from collections.abc import Container
from contextlib import closing
from typing import Final

import msgspec

from ranker.builder.blocks import Array, Blocks, block_of, number_of, place_of
from ranker.builder.wire import FAILURES, Ask, Built, Failed, Packed, arrays_of, receive, send, table_of
from ranker.ranking.jit_warmup import warm
from ranker.ranking.score import Scorer
from ranker.versions.model import Version
from ranker.versions.version_loader import Loader
from stream.runtime.logs import log_to_stderr
from stream.runtime.settings import Settings
from stream.snapshots.manifest import encode_manifest
from stream.snapshots.redis_store import RedisStore

NICE: Final = 10  # a tenth of the weight of what ranks

log = logging.getLogger(__name__)


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
            build, last, held = build + 1, version, {number_of(array) for array in _allarrays_of(version)}
        try:
            send(channel, answer, [block_of(array).descriptor for array in files])
        except OSError:  # the ranker has ended
            return


def _heard(channel: socket.socket) -> bytes | None:
    """What the ranker asks; None when it has ended."""
    try:
        return receive(channel)[0]
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
    new = {number_of(array): array for array in _allarrays_of(version) if number_of(array) not in held}
    tower, before, net = version.tower, last.tower if last else None, None
    if tower is not None and (before is None or tower.parts is not before.parts):
        named = tower.net._asdict()
        end: float = named.pop("end")
        copies = {name: blocks.copy(array) for name, array in named.items()}
        new |= {number_of(array): array for array in copies.values()}
        net = Packed({name: number_of(array) for name, array in copies.items()}, end)
    files = list(new.values())
    deep = table_of(tower.rows) if tower else None
    wide, statistics = table_of(version.wide), table_of(version.statistics)
    places = [place_of(array) for array in files]
    shown = None if last is not None and version.shown is last.shown else version.shown
    return Built(build, encode_manifest(version.manifest), wide, statistics, deep, net, shown, places), files


def _allarrays_of(version: Version) -> list[Array]:
    """Those of its tables."""
    tables = [version.wide, version.statistics, *([version.tower.rows] if version.tower else [])]
    return [array for layers in tables for array in arrays_of(layers)]


def main() -> None:
    """The builder: `python -m ranker.builder.builder_worker DESCRIPTOR MODEL`, the settings in its environment."""
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
