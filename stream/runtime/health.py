"""Liveness, readiness and metrics of a service: a small HTTP server in its own thread."""

import json
import os
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST

from stream.runtime.durable_files import replacing
from stream.runtime.errors import SettingsError
from stream.runtime.metrics import exported
from stream.runtime.settings import Settings

Check = Callable[[], tuple[bool, str]]
ASK_S: Final = 2.0
PLAIN: Final = "text/plain; charset=utf-8"


def run_file(settings: Settings, service: str) -> Path:
    """The file with a service's process and port: `<local>/run/<service>-<worker>.json`."""
    return settings.local / "run" / f"{service}-{settings.worker}.json"


def target_file(run: Path) -> Path:
    """The file by which Prometheus finds a service (file_sd): `<local>/targets/<service>-<worker>.json`."""
    return run.parent.with_name("targets") / run.name


def write_run_file(path: Path, host: str, port: int, also: Mapping[str, str]) -> None:
    """Say in a run file that this process serves there, and `also`. Raises SettingsError."""
    service, _, worker = path.stem.partition("-")
    _write_json(path, {"room": service, "worker": worker, "pid": os.getpid(), "host": host, "port": port, **also})


def _write_json(path: Path, content: Any) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:  # `status` may read at any moment
            file.write(json.dumps(content).encode())
    except OSError as bad:
        raise SettingsError(f"can't write {path} ({bad}); make it writable or set THALWEG_LOCAL") from bad


def check_alone(settings: Settings, service: str) -> None:
    """Raises SettingsError when another process of this service runs under the same worker's name."""
    try:
        run = json.loads(run_file(settings, service).read_text())
        pid, address = run["pid"], (run["host"].strip("[]"), run["port"])
        os.kill(pid, 0)  # raises when there's no such process; another one may have its number by now
        socket.create_connection(address, ASK_S).close()
    except (OSError, ValueError, LookupError):
        return
    if pid != os.getpid():
        raise SettingsError(
            f"a {service} with THALWEG_WORKER={settings.worker} runs already (process {pid}, health at "
            f"{address[0]}:{address[1]}): both would write the same files and read as the same member of a group; end "
            "it, or give this one a THALWEG_WORKER of its own"
        )


class Health:
    """Serves `/livez`, `/readyz` (200 or 503, with a line that says why) and `/metrics` (Prometheus).

    `host` may be an IPv6 address; `::` is all of both kinds. `port` 0 picks a free one. With `written_to`, address and
    pid are written there for `thalweg status`, and `also`; and the address to its `target_file`. A service that is
    killed leaves both, so Prometheus sees that it is down.
    Raises SettingsError when the port is in use or the file can't be written.
    """

    def __init__(
        self,
        host: str,
        port: int,
        ready: Check,
        live: Check = lambda: (True, "ok"),
        *,
        written_to: Path | None = None,
        also: Mapping[str, str] | None = None,
    ) -> None:
        try:
            server = _Ipv6Server if ":" in host else ThreadingHTTPServer
            self._server = server((host, port), partial(_Handler, {"/livez": live, "/readyz": ready}))
        except OSError as bad:
            raise SettingsError(
                f"can't listen on {host}:{port} ({bad}); choose another port, or 0 for a free one"
            ) from bad
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._written_to = written_to
        if written_to is not None:
            self._write(f"[{host}]" if ":" in host else host, written_to, also or {})
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="health", daemon=True)
        self._thread.start()

    def _write(self, host: str, path: Path, also: Mapping[str, str]) -> None:
        service, _, worker = path.stem.partition("-")
        target = {"targets": [f"{host}:{self.port}"], "labels": {"job": service, "worker": worker}}
        try:
            write_run_file(path, host, self.port, also)
            _write_json(target_file(path), [target])
        except SettingsError:
            self._server.server_close()
            raise

    def close(self) -> None:
        """Stop serving and remove the files if they are still ours; safe to call twice."""
        self._server.shutdown()
        self._server.server_close()
        if self._written_to is None or not self._written_to.exists():
            return
        if json.loads(self._written_to.read_text()).get("pid") == os.getpid():
            self._written_to.unlink(missing_ok=True)
            target_file(self._written_to).unlink(missing_ok=True)


class _Ipv6Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, checks: dict[str, Check], *args: object) -> None:
        self._checks = checks
        super().__init__(*args)  # type: ignore[arg-type]  # the server passes request, address and itself

    def do_GET(self) -> None:
        """Serve one of the three paths, else 404."""
        path = self.path.split("?")[0]
        if path == "/metrics":
            self._send(200, CONTENT_TYPE_LATEST, exported())
        elif path in self._checks:
            is_ok, message = self._checks[path]()
            self._send(200 if is_ok else 503, PLAIN, f"{message}\n".encode())
        else:
            self._send(404, PLAIN, b"/livez, /readyz, /metrics\n")

    def do_HEAD(self) -> None:
        """The same, without the body."""
        self.do_GET()

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        with suppress(ConnectionError):  # whoever asked didn't wait
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests aren't logged."""
