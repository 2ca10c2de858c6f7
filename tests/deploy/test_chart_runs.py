"""What the Helm chart runs, without Kubernetes: processes with the variables and arguments of its pods."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stream.runtime.health import run_file
from stream.runtime.settings import Settings
from tests.support.helm import Object, container_of, environment_of, needs_helm, of_kind, pods, rendered
from tests.support.waiting import wait_until
from thalweg.stack.broker import REPOSITORY
from thalweg.stack.stack import Stack
from thalweg.stack.status import Service

pytestmark = [needs_helm, pytest.mark.timeout(400)]
ROOMS = ("joiner", "learner", "ranker")
LINKS = {  # what Kubernetes would add, were service links on
    "THALWEG_RANKER_PORT_8080_TCP": "tcp://10.0.0.11:8080", "THALWEG_KAFKA_SERVICE_HOST": "10.0.0.12",
    "THALWEG_REDIS_PORT": "tcp://10.0.0.13:6379",
}  # fmt: skip
FREE = {  # fixed ports are for a pod of one's own
    "THALWEG_JOINER_PORT": "0", "THALWEG_LEARNER_PORT": "0", "THALWEG_RANKER_PORT": "0",
    "THALWEG_RANKER_HTTP": "0.0.0.0:0",
}  # fmt: skip


def start(workload: Object, volumes: dict[str, Path]) -> subprocess.Popen[bytes]:
    """What the container of a pod named as its workload would run, with folders for its volumes."""
    variables = environment_of(workload) | LINKS
    variables |= {name: port for name, port in FREE.items() if name in variables}
    for name, value in variables.items():
        mount, _, rest = value.removeprefix("/").partition("/")
        if value.startswith("/") and mount in volumes:
            variables[name] = str(volumes[mount] / rest)
    variables["THALWEG_WORKER"] = workload["metadata"]["name"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("THALWEG_")}
    command = [sys.executable, "-m", "thalweg", *container_of(workload)["args"]]
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment | variables)


@contextmanager
def running(objects: tuple[Object, ...], volumes: dict[str, Path]) -> Iterator[None]:
    """All rooms, which end by a signal as they should."""
    processes = [start(pods(objects)[room], volumes) for room in ROOMS]
    try:
        yield
        for one in processes:
            one.send_signal(signal.SIGTERM)
        assert [one.wait(60) for one in processes] == [0] * len(ROOMS)
    finally:
        for one in processes:
            one.kill()


def ready(local: Path, room: str) -> Service:
    """A room, once it is ready."""
    path = run_file(Settings(local=local, worker=f"shop-thalweg-{room}"), room)
    found = wait_until(lambda: Service.read(path), f"{room} to listen")
    assert found is not None
    wait_until(lambda: found.get("/readyz")[0] == 200, f"{room} to be ready")
    return found


def status_of(url: str, **headers: str) -> int:
    """What a GET answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


def test_rooms_become_ready(stack: Stack, topic_prefix: str, tmp_path: Path) -> None:
    """Topics are made, each room starts and is ready, and a ranker is called by the name of its Service, by a token."""
    values = f"settings.kafka={stack.kafka}", f"settings.redis={stack.redis}", f"settings.topic_prefix={topic_prefix}"
    objects = rendered(*values, "settings.replication=1", "settings.log=text")
    volumes = {name: tmp_path / name for name in ("data", "specs", "tokens")}
    for folder in volumes.values():
        folder.mkdir()
    spec = of_kind(objects, "ConfigMap")["shop-thalweg-spec"]["data"]["spec.toml"]
    (volumes["specs"] / "spec.toml").write_text(spec)
    (volumes["tokens"] / "tokens.toml").write_text('[shop]\ntoken = "0123456789abcdef"\nscopes = ["rank"]\n')
    assert start(pods(objects)["topics"], volumes).wait(120) == 0
    with running(objects, volumes):
        found = {room: ready(volumes["data"], room) for room in ROOMS}
        assert [one.get("/livez")[0] for one in found.values()] == [200] * len(ROOMS)
        models = f"http://127.0.0.1:{found['ranker'].http.rpartition(':')[2]}/v1/models"
        token = "Bearer 0123456789abcdef"
        assert status_of(models, Host="shop-thalweg-ranker.ranking:8080", Authorization=token) == 200
        assert status_of(models, Host="shop-thalweg-ranker.ranking:8080") == 401
        assert status_of(models, Host="other.example", Authorization=token) == 421
