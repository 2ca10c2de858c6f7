"""What a demo has running: written down when it starts, so that `thalweg down` can end it whatever happened."""

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from stream.settings import Settings
from thalweg import stack
from thalweg.server import Server, end
from thalweg.stack import Progress


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
        """The demo that was started under `local`; None when there's none."""
        try:
            return msgspec.json.decode((local / "demo.json").read_bytes(), type=Kept)
        except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
            return None

    def write(self, local: Path) -> None:
        """Whole or not at all."""
        draft = local / "demo.json.new"
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(self)))
        draft.replace(local / "demo.json")

    @property
    def alive(self) -> bool:
        """Whether any of its services still runs."""
        return any(one.alive for one in self.services)

    def settings(self, settings: Settings) -> Settings:
        """The settings with which its services run."""
        named = {"kafka": self.kafka, "redis": self.redis, "topic_prefix": self.topic_prefix, "model": self.model}
        return settings.model_copy(update=named | {"local": Path(self.local)})

    def end(self, local: Path, *, progress: Progress, patience_s: float = 8.0) -> None:
        """End all of it, services first, and forget it. Raises StackError."""
        for one in self.services:
            if one.alive:
                progress(f"stopping {one.name} (pid {one.pid})")
        end_all(self.services, patience_s)
        if self.own_stack:
            stack.down(Path(self.local), progress=progress)
        (local / "demo.json").unlink(missing_ok=True)


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
