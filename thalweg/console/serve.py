"""`thalweg console`: the page's server, until SIGTERM or Ctrl-C."""

import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ranker.http.connection import Bounds
from ranker.http.server import HttpServer, parse_address
from ranker.http.tokens import Tokens, check_exposure
from stream.runtime.clock import now_ms
from stream.runtime.health import run_file, write_run_file
from stream.runtime.settings import Settings
from stream.snapshots.redis_store import RedisStore
from thalweg.console.app import Served, console_app
from thalweg.console.board import Board
from thalweg.console.installs import DemoInstalls
from thalweg.console.log_tail import LogTail
from thalweg.console.loop_state import NAMES as LOOP_NAMES
from thalweg.console.poller import Poller
from thalweg.console.rooms import RoomAddress, RoomReader
from thalweg.console.users import UserPages
from thalweg.console.version_log import NAMES as VERSION_NAMES
from thalweg.console.version_log import VersionLog
from thalweg.versions.decisions import roll_back

CONNECTIONS_MAX = 500

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConsoleOptions:
    """`rooms`: where they export metrics, empty: the run files say. `ranker`: where one answers over HTTP, empty: a
    run file says. `context`: columns that users' pages come with. `is_published_on_loopback`: it listens in a
    container, and the host forwards its own loopback only.
    """

    http: str
    model: str
    rooms: Sequence[RoomAddress] = ()
    ranker: str = ""
    is_demo: bool = False
    context: Mapping[str, str] = field(default_factory=dict)
    is_published_on_loopback: bool = False


def run_console(settings: Settings, options: ConsoleOptions) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises SettingsError."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with serving(settings, options) as address:
        print(f"the console is at http://{address}/", flush=True)
        stop.wait()


@contextmanager
def serving(settings: Settings, options: ConsoleOptions) -> Iterator[str]:
    """A console that serves until the end of the block; its address. Raises SettingsError."""
    host, port = parse_address(options.http)
    tokens = Tokens(Path(settings.http_tokens) if settings.http_tokens else None, time.monotonic)
    if not options.is_published_on_loopback:
        check_exposure(host, tokens)
    board, tail = Board(), LogTail(settings)
    with closing(RedisStore(settings, options.model)) as store, closing(tail):
        quarantine = settings.local / "quarantine" / f"{settings.topic_prefix}{options.model}"
        versions = VersionLog(store, quarantine, now_ms)
        reader = RoomReader(settings.local, options.rooms, (*LOOP_NAMES, *VERSION_NAMES))
        with closing(Poller(options.model, reader, versions, board, time.monotonic, now_ms)) as poller:
            users = UserPages(settings, options.model, lambda: options.ranker or poller.ranker)
            served = _served(settings, options, board, store, users, tail)
            config = {"model": options.model, "demo": options.is_demo, "context": options.context}
            board.update({"config": config})
            poller.start()
            app = console_app(served, tokens, settings.http_hosts.split(","))
            with (
                closing(users),
                closing(HttpServer(app, host, port, Bounds(CONNECTIONS_MAX))) as server,
                _announced(settings, host, server),
            ):
                yield server.address
                board.stop_all()  # else the server waits for streams that never end


def _served(
    settings: Settings, options: ConsoleOptions, board: Board, store: RedisStore, users: UserPages, tail: LogTail
) -> Served:
    def pin(version: int) -> dict[str, int]:
        store.pin(version)
        return {"pinned": version}

    def back() -> dict[str, int]:
        served, pinned = roll_back(store)
        return {"served": served, "pinned": pinned}

    install: Any = DemoInstalls(settings, options.model).install if options.is_demo else None
    return Served(board, users.page, tail.users, tail.dead_letters, pin, back, install)


@contextmanager
def _announced(settings: Settings, host: str, server: HttpServer) -> Iterator[None]:
    """A run file for `thalweg status`, as rooms have one, but no target for Prometheus: there is nothing to scrape."""
    path = run_file(settings, "console")
    write_run_file(path, host, server.port, {"http": server.address})
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
