"""What a demo has running: written down when it starts, so that `thalweg down` can end it whatever happened."""

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from stream.runtime.errors import StackError, ThalwegError
from stream.runtime.settings import Settings
from thalweg.stack import stack
from thalweg.stack.server import Server, end
from thalweg.stack.stack import Progress


class Kept(msgspec.Struct):
    """Names and processes of a demo. `local`: its services' folder; with `own_stack` Kafka and Redis lie there too."""

    kafka: str
    redis: str
    topic_prefix: str
    model: str
    local: str
    own_stack: bool
    services: list[Server] = []

    @staticmethod
    def read(local: Path) -> "Kept | None":
        """The demo that was started under `local`; None when there's none. Raises StackError."""
        try:
            return msgspec.json.decode((local / "demo.json").read_bytes(), type=Kept)
        except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError, msgspec.DecodeError):
            return None
        except OSError as bad:
            raise StackError(f"{local} can't be used: {bad}; {stack.REMEDY}") from None

    def write(self, local: Path) -> None:
        """Whole or not at all, for its owner's eyes: the address of a Redis may hold a password. Raises StackError."""
        draft = local / "demo.json.new"
        try:
            draft.unlink(missing_ok=True)
            draft.touch(0o600)
            draft.write_bytes(msgspec.json.format(msgspec.json.encode(self)))
            draft.replace(local / "demo.json")
        except OSError as bad:
            raise StackError(f"{local} can't be used: {bad}; {stack.REMEDY}") from None

    @property
    def alive(self) -> bool:
        """Whether any of its services still runs."""
        return any(one.alive for one in self.services)

    def settings(self, settings: Settings) -> Settings:
        """The settings with which its services run; a model that `settings` name stays."""
        named = {"kafka": self.kafka, "redis": self.redis, "topic_prefix": self.topic_prefix}
        named["model"] = settings.model or self.model
        return settings.model_copy(update=named | {"local": Path(self.local)})

    def end(self, local: Path, settings: Settings, *, progress: Progress, patience_s: float = 8.0) -> None:
        """End all of it, services first, and what it wrote to a stack that isn't its own. Raises StackError.

        A stack that doesn't answer keeps what it has: that is said. `settings`: for the logins.
        """
        for one in self.services:
            if one.alive:
                progress(f"stopping {one.name} (pid {one.pid})")
        end_all(self.services, patience_s)
        if self.own_stack:
            stack.down(Path(self.local), progress=progress)
        else:
            try:
                _forget(self.settings(settings))
            except ThalwegError as bad:
                which = f"that begin with {self.topic_prefix}" if self.topic_prefix else "of the demo"
                progress(f"topics and keys {which} stay: {bad}")
        (local / "demo.json").unlink(missing_ok=True)


def _forget(settings: Settings) -> None:
    """Remove the topics and keys of a demo from a stack that goes on. Raises LogError, StackError,
    StoreUnavailable."""
    from stream.log.kafka_admin import drop_topics
    from stream.snapshots.redis_client import connect, translated

    if not settings.topic_prefix:
        raise StackError("demo.json names no topic prefix, so they can't be told from all others; remove them by hand")
    drop_topics(settings)
    client = connect(settings)
    with translated(client):
        for pattern in (f"{settings.topic_prefix}*", f"{{{settings.topic_prefix}*"):
            for key in client.scan_iter(pattern, count=1000):
                client.unlink(key)
    client.close()


def end_all(services: Sequence[Server], patience_s: float) -> None:
    """SIGTERM to all at once, so it takes as long as the slowest; SIGKILL to those that stay. Raises StackError."""
    for one in services:
        if one.alive:
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(one.pid, signal.SIGTERM)
    deadline_s = time.monotonic() + patience_s
    while any(one.alive for one in services) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    for one in services:
        end(one, signal.SIGKILL, patience_s)
