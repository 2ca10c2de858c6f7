"""The HTTP server of a ranker: uvicorn in a thread of its own, with its own event loop."""

import asyncio
import logging
import resource
import socket
import threading
import time
from functools import partial
from typing import Any, Final

import uvicorn
import uvloop

from ranker.http.connection import BoundedConnection, Bounds
from stream.runtime.errors import SettingsError

CONNECTIONS_MAX: Final = 10_000
FILES_RESERVED: Final = 256  # file descriptors that aren't connections
KEEP_ALIVE_S: Final = 75
BACKLOG: Final = 2_048
BEAT_S: Final = 0.5
HUNG_S: Final = 5.0  # after which a loop that hasn't run is hung
START_S: Final = 10.0
STOP_S: Final = 5.0

log = logging.getLogger(__name__)


def parse_address(address: str) -> tuple[str, int]:
    """Host and port. Raises SettingsError.

    >>> parse_address("127.0.0.1:8080"), parse_address("[::1]:0")
    (('127.0.0.1', 8080), ('::1', 0))
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise SettingsError(f"--http needs HOST:PORT, such as 127.0.0.1:8080 (port 0: any free one), not {address!r}")
    return host, int(port)


class HttpServer:
    """Serves `app` (ASGI) at `host` and `port` (0: a free one) from its creation on, until `close`.

    `bounds` without a value: as many connections as the process may open files, at most CONNECTIONS_MAX.
    Raises SettingsError when the address can't be used.
    """

    def __init__(self, app: Any, host: str, port: int, bounds: Bounds | None = None) -> None:
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self._beat_s = time.monotonic()
        config = uvicorn.Config(
            app,
            http=partial(BoundedConnection, bounds or Bounds(connections_max())),  # type: ignore[arg-type]  # a factory
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=1,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # its warnings are clients' mistakes
        self._server = uvicorn.Server(config)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()
        self._wait_until_started()

    def live(self) -> tuple[bool, str]:
        """Whether the event loop runs; for a health check outside of it."""
        if not self._thread.is_alive():
            return False, f"the HTTP server has ended: {self._failure!r}"
        silent_s = time.monotonic() - self._beat_s
        return silent_s < HUNG_S, "ok" if silent_s < HUNG_S else f"the HTTP server's loop hangs since {silent_s:.0f} s"

    def close(self) -> None:
        """Answer what was received, then stop; safe to call twice."""
        self._server.should_exit = True
        self._thread.join(STOP_S)
        self._socket.close()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except (Exception, SystemExit) as error:  # noqa: BLE001  # `live` tells it
            self._failure = error
            log.error("the HTTP server has ended: %r", error)

    async def _serve(self) -> None:
        beating = asyncio.create_task(self._beat())
        try:
            await self._server.serve([self._socket])
        finally:
            beating.cancel()

    async def _beat(self) -> None:
        while True:
            self._beat_s = time.monotonic()
            await asyncio.sleep(BEAT_S)

    def _wait_until_started(self) -> None:
        until_s = time.monotonic() + START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > until_s:
                self.close()
                raise SettingsError(f"the HTTP server doesn't start: {self._failure!r}; its log says more")
            time.sleep(0.01)


def connections_max() -> int:
    """How many connections may be open; raises the process's limit of open files as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + FILES_RESERVED
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(CONNECTIONS_MAX, soft - FILES_RESERVED))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as bad:
        raise SettingsError(
            f"HTTP can't listen on {host}:{port} ({bad}); choose another address, or port 0 for a free one"
        ) from bad
    return listener
