"""Several redis-servers of one test run: a cluster, or a master with its replica and a Sentinel."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import redis

from thalweg.stack.server import LOOPBACK, Server, end_process, free_port, listens, redis_answers, spawn

SLOTS: Final = 16_384
GIVE_UP_S: Final = 30.0


def until(holds: Callable[[], Any], *but: type[Exception]) -> None:
    """Wait until it holds; meanwhile it may raise one of these errors."""
    give_up_s = time.monotonic() + GIVE_UP_S
    while True:
        with suppress(*but):
            if holds():
                return
        assert time.monotonic() < give_up_s, "it didn't happen in time"
        time.sleep(0.02)


def redis_server(folder: Path, *options: str, port: int = 0) -> Server:
    """Start a redis-server without persistence, and wait until it answers."""
    port = port or free_port()
    data = folder / str(port)
    data.mkdir(exist_ok=True)
    command = ["redis-server", "--bind", LOOPBACK, "--port", str(port), "--save", "", "--dir", str(data), *options]
    server = spawn("Redis", command, port, folder / f"{port}.log", data)
    until(lambda: redis_answers(LOOPBACK, port))
    return server


@contextmanager
def running_cluster(folder: Path) -> Iterator[list[Server]]:
    """Three masters with a third of the slots each."""
    nodes: list[Server] = []
    try:
        for _ in range(3):
            port = free_port()
            timeout = ("--cluster-node-timeout", "2000", "--cluster-port", str(free_port()))
            nodes.append(redis_server(folder, "--cluster-enabled", "yes", *timeout, port=port))
        _join(nodes)
        yield nodes
    finally:
        for node in nodes:
            end_process(node, signal.SIGKILL, 10)


def _join(nodes: list[Server]) -> None:
    clients: list[Any] = [redis.Redis(port=node.port) for node in nodes]
    ports = [client.config_get("cluster-port")["cluster-port"] for client in clients]
    for k, client in enumerate(clients):
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", k * SLOTS // len(nodes), (k + 1) * SLOTS // len(nodes) - 1)
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", k + 1)
        clients[0].execute_command("CLUSTER", "MEET", LOOPBACK, nodes[k].port, ports[k])
    for client in clients:
        until(partial(_knows_all, client, len(nodes)))
        client.close()


def _knows_all(client: Any, nodes: int) -> bool:
    return bool(client.cluster("INFO")["cluster_state"] == "ok") and len(client.cluster("SLOTS")) == nodes


@contextmanager
def running_sentinel(folder: Path, name: str) -> Iterator[tuple[Server, Server, Server]]:
    """A master and its replica, watched by one Sentinel that decides alone: Sentinel, master, replica."""
    servers: list[Server] = []
    try:
        master = redis_server(folder)
        servers.append(master)
        replica = redis_server(folder, "--replicaof", LOOPBACK, str(master.port))
        servers.append(replica)
        with redis.Redis(port=replica.port) as client:
            until(lambda: client.info("replication")["master_link_status"] == "up")
        port = free_port()
        config = folder / "sentinel.conf"
        config.write_text(
            f"sentinel monitor {name} {LOOPBACK} {master.port} 1\n"
            f"sentinel down-after-milliseconds {name} 500\nsentinel failover-timeout {name} 3000\n"
        )
        command = ["redis-server", str(config), "--sentinel", "--bind", LOOPBACK, "--port", str(port)]
        sentinel = spawn("Redis", command, port, folder / "sentinel.log", folder / "sentinel")
        servers.append(sentinel)
        with redis.Redis(port=port) as asking:
            until(lambda: redis_answers(LOOPBACK, port))
            until(lambda: asking.sentinel_master(name)["num-slaves"] == 1)
        yield sentinel, master, replica
    finally:
        for server in servers:
            end_process(server, signal.SIGKILL, 10)


def running_tls_server(folder: Path, name: str, *options: str) -> Server:
    """A redis-server that wants clients' certificates, with those that `make_certificates` made."""
    port = free_port()
    files = {"ca-cert-file": "ca.pem", "cert-file": f"{name}.crt", "key-file": f"{name}.raw"}
    tls = [word for option, file in files.items() for word in (f"--tls-{option}", str(folder / file))]
    cluster = ["--cluster-port", str(free_port())] if options else []
    command = ["redis-server", "--bind", LOOPBACK, "--port", "0", "--tls-port", str(port), "--save", "", *tls]
    command += ["--dir", str(folder), *cluster, *options]
    server = spawn("Redis", command, port, folder / f"{port}.log", folder / "data")
    until(lambda: listens(LOOPBACK, port))
    return server


def all_slots(port: int, folder: Path) -> None:
    """Make a server with certificates a cluster of its own."""
    files = {"ssl_ca_certs": "ca.pem", "ssl_certfile": "learner.crt", "ssl_keyfile": "learner.raw"}
    options: Any = {name: str(folder / file) for name, file in files.items()}
    client: Any = redis.Redis(host="localhost", port=port, ssl=True, **options)
    client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
    until(lambda: client.cluster("INFO")["cluster_state"] == "ok")
    client.close()
