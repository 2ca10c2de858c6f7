"""Three brokers, of which the first is the controller, too."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock
from uuid import uuid4

from thalweg.stack import broker
from thalweg.stack.server import LOOPBACK, Server, end_process, free_port
from thalweg.stack.stack import DEFAULT, _wait


@contextmanager
def running_brokers(root: Path) -> Iterator[list[Server]]:
    """All of one cluster, up."""
    controller, cluster = free_port(), uuid4()
    servers: list[Server] = []
    try:
        for node in (1, 2, 3):
            folder, port = root / str(node), free_port()
            (folder / "logs").mkdir(parents=True)
            listener = f"PLAINTEXT://{LOOPBACK}:{port}"
            role = f"process.roles=broker\nnode.id={node}\nlisteners={listener}\n" if node > 1 else ""
            with mock.patch.object(broker, "uuid4", return_value=cluster):
                servers.append(broker.launch_broker(folder, port, controller, (), role))
        for server in servers:
            _wait(server, DEFAULT)
        yield servers
    finally:
        for server in servers:
            end_process(server, signal.SIGKILL, 20)
