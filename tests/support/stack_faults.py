"""Ends one server of a local stack; `up` of its root starts it again."""

import signal
from pathlib import Path
from typing import Literal

from thalweg.stack.server import Server, end_process
from thalweg.stack.stack import read


def stop_server(root: Path, role: Literal["broker", "cache"], *, kill: bool = False) -> None:
    """End the broker or Redis (with `kill`: by SIGKILL)."""
    server: Server = getattr(read(root), role)
    end_process(server, signal.SIGKILL if kill else signal.SIGTERM, 20.0)
