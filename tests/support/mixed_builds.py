"""Rooms of two builds on one Kafka and one Redis: `thalweg run ROOM` by the release before, or by this checkout."""

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from stream.runtime.settings import Settings
from stream.spec.spec_file import load_spec
from tests.support.forked_services import clean_environment
from tests.support.old_release import ROOT
from tests.support.waiting import wait_until
from tests.support.whole_system import SYSTEM_SPEC
from thalweg.stack.stack import Stack
from thalweg.stack.status import Service

READY_S: Final = 400.0  # changed kernels are compiled
NAMES: Final = ("kafka", "redis", "topic_prefix", "local", "partitions", "checkpoint_every_ms")  # settings


class MixedBuilds:
    """Processes of both builds, a folder of their own. Names of rooms are as in `joiner-0`: room and worker."""

    def __init__(self, old: Path, stack: Stack, prefix: str, home: Path) -> None:
        self._folders: Mapping[str, Path] = {"old": old, "new": ROOT}
        self.home = home
        self.spec_file = home / "spec.toml"
        self.spec_file.write_text(SYSTEM_SPEC)
        self.spec = load_spec(self.spec_file)
        self.settings = Settings(
            kafka=stack.kafka, redis=stack.redis, topic_prefix=prefix, local=home / "local", partitions=4,
            checkpoint_every_ms=300,
        )  # fmt: skip
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def _command(self, build: str, *words: str) -> dict[str, Any]:
        """Arguments of `subprocess.Popen`."""
        folder = self._folders[build]
        environment = clean_environment() | {"PYTHONPATH": str(folder), "THALWEG_WORKER": words[-1]}
        environment |= {f"THALWEG_{name.upper()}": str(getattr(self.settings, name)) for name in NAMES}
        return {"args": [sys.executable, "-m", "thalweg.cli.main", *words[:-1]], "cwd": folder, "env": environment}

    def call(self, build: str, *words: str, code: int = 0) -> str:
        """What a command prints that ends with this code."""
        ran = subprocess.run(**self._command(build, *words, "0"), capture_output=True, text=True, check=False)
        assert ran.returncode == code, ran.stdout + ran.stderr
        return str(ran.stdout + ran.stderr)

    def start(self, build: str, name: str) -> None:
        """Start a room, and wait until it says that it is ready."""
        room, worker = name.split("-")
        words = ("run", room, "--spec", str(self.spec_file), worker)
        with (self.home / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(**self._command(build, *words), stdout=log, stderr=log)
        wait_until(lambda: self._is_ready(name), f"{name} to be ready; see {self.home}", READY_S, 0.2)

    def _is_ready(self, name: str) -> bool:
        process = self.running[name]
        assert process.poll() is None, (self.home / f"{name}.log").read_text()[-3000:]
        service = self.service(name)
        return service is not None and service.pid == process.pid and service.get("/readyz")[0] == 200

    def service(self, name: str) -> Service | None:
        """Its address, once it has written it."""
        return Service.read(self.settings.local / "run" / f"{name}.json")

    def metric(self, name: str, metric: str) -> float:
        """One figure of a room; −1 while it doesn't answer."""
        service = self.service(name)
        return (service.metrics() if service else {}).get(metric, -1.0)

    def replace(self, build: str, name: str) -> None:
        """End a room as an operator does, and start it by this build."""
        self.end(name)
        self.start(build, name)

    def end(self, *names: str) -> None:
        """SIGTERM, and wait; all of them when none is named."""
        for name in names or tuple(self.running):
            process = self.running.pop(name)
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            assert code == 0, (name, code, (self.home / f"{name}.log").read_text()[-3000:])
