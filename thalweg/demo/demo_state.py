"""What a demo has running: written to `demo.json` when it starts, so that `thalweg down` can end it after a crash."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from stream.runtime.durable_files import replacing
from stream.runtime.errors import StackError, ThalwegError
from stream.runtime.settings import Settings
from thalweg.stack import stack
from thalweg.stack.server import Server, end_process
from thalweg.stack.stack import Progress

FILE: Final = "demo.json"


class DemoState(msgspec.Struct):
    """Addresses and processes of a demo. `local`: its folder; with `own_stack` it has Kafka and Redis, too."""

    kafka: str
    redis: str
    topic_prefix: str
    model: str
    local: str
    own_stack: bool
    services: list[Server] = []

    @staticmethod
    def read(root: Path) -> "DemoState | None":
        """The demo that was started under `root`; None without a file that can be decoded. Raises StackError."""
        with disk_errors(root):
            try:
                return msgspec.json.decode((root / FILE).read_bytes(), type=DemoState)
            except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError, msgspec.DecodeError):
                return None

    def write(self, root: Path) -> None:
        """Atomically, readable by its owner only: the address of a Redis may have a password. Raises StackError."""
        with disk_errors(root), replacing(root / FILE) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(msgspec.json.format(msgspec.json.encode(self)))

    @property
    def alive(self) -> bool:
        """Whether any of its services still runs."""
        return any(service.alive for service in self.services)

    def settings(self, settings: Settings) -> Settings:
        """The settings that its services run with; a model named in `settings` stays."""
        changes = {"kafka": self.kafka, "redis": self.redis, "topic_prefix": self.topic_prefix}
        return settings.model_copy(update=changes | {"model": settings.model or self.model, "local": Path(self.local)})

    def stop(self, root: Path, settings: Settings, *, progress: Progress, patience_s: float = 8.0) -> None:
        """Stop its services and its own stack; remove its topics and keys from another's stack. Raises StackError.

        A stack that doesn't answer keeps them, and `progress` says so. `settings`: for the logins.
        """
        for service in self.services:
            if service.alive:
                progress(f"stopping {service.name} (pid {service.pid})")
        stop_all(self.services, patience_s)
        if self.own_stack:
            stack.down(Path(self.local), progress=progress)
        else:
            try:
                _drop_topics_and_keys(self.settings(settings))
            except ThalwegError as bad:
                which = f"that begin with {self.topic_prefix}" if self.topic_prefix else "of the demo"
                progress(f"topics and keys {which} stay: {bad}")
        (root / FILE).unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns an OSError into a StackError that names the folder and the remedy."""
    try:
        yield
    except OSError as bad:
        raise StackError(f"{folder} can't be used: {bad}; {stack.REMEDY}") from None


def _drop_topics_and_keys(settings: Settings) -> None:
    """Raises LogError, StackError, StoreUnavailable."""
    from stream.log.kafka_admin import drop_topics
    from stream.snapshots.redis_client import connect, translated

    if not settings.topic_prefix:
        raise StackError(
            "demo.json names no topic prefix, so they can't be distinguished from others; remove them by hand"
        )
    drop_topics(settings)
    with contextlib.closing(connect(settings)) as client, translated(client):
        for pattern in (f"{settings.topic_prefix}*", f"{{{settings.topic_prefix}*"):
            for key in client.scan_iter(pattern, count=1000):
                client.unlink(key)


def stop_all(services: Sequence[Server], patience_s: float) -> None:
    """SIGTERM to all at once, then SIGKILL to those that still run after `patience_s`. Raises StackError."""
    for service in services:
        if service.alive:
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(service.pid, signal.SIGTERM)
    deadline_s = time.monotonic() + patience_s
    while any(service.alive for service in services) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    for service in services:
        end_process(service, signal.SIGKILL, patience_s)
