"""The services of a demo as processes: their folder and stack, started, watched, stopped by pid."""

import contextlib
import fcntl
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import IO, Final

from stream.runtime.errors import SettingsError, StackError
from stream.runtime.settings import Settings
from thalweg.demo.demo_state import DemoState, disk_errors, stop_all
from thalweg.stack import stack
from thalweg.stack.server import spawn
from thalweg.stack.stack import Progress
from thalweg.stack.status import Service

READY_S: Final = 90.0
BACKGROUND: Final = (
    "learner",
    "replay",
    "console",
)  # lower priority: on few cores, the services that answer requests go first
NICE: Final = "5"
LOG_LINES: Final = 8  # of a service that died
ALREADY_RUNS: Final = "a demo runs here already, or was kept up: `thalweg down` ends it"


class Interrupts:
    """SIGINT, SIGTERM and SIGHUP become KeyboardInterrupt; inside `deferred` only at its end."""

    def __init__(self) -> None:
        self._is_deferred = False
        self._is_pending = False

    def __enter__(self) -> "Interrupts":
        self._before = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        return self

    def __exit__(self, *_: object) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)

    def _on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        if not self._is_deferred:
            raise KeyboardInterrupt
        self._is_pending = True

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A signal that arrives inside is raised at the end."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
        if self._is_pending:
            self._is_pending = False
            raise KeyboardInterrupt


class DemoServices:
    """All processes of a demo, under `<local>/demo`; what an earlier demo left there is removed.

    Takes the running stack, with topics and keys under a prefix of its own; else starts a stack.
    """

    def __init__(self, settings: Settings, interrupts: Interrupts, progress: Progress) -> None:
        self._root = settings.local.resolve()
        self._interrupts = interrupts
        self._progress = progress
        self.local = self._root / "demo"
        self.settings = settings
        self.state = DemoState("", "", "", "", str(self.local), own_stack=False)
        self._lock: IO[str] | None = None  # of the folder, from before the first file of this demo to its end
        self._stack_root: Path | None = None  # of the local stack that it uses
        self._stack: stack.Stack | None = None

    def open(self) -> None:
        """Prepare the folder and the stack; `stop` undoes it also after an error. Raises StackError, SettingsError."""
        settings = self.settings
        if bool(settings.kafka) != bool(settings.redis):
            missing = "THALWEG_REDIS" if settings.kafka else "THALWEG_KAFKA"
            raise SettingsError(f"{missing} isn't set, but the other is: name both, or none for a stack of its own")
        self._lock = _lock_folder(self._root)
        self._clear()
        with self._interrupts.deferred():
            self.state = self._choose_stack(settings)
            self.settings = self.state.settings(settings).model_copy(update={"data": settings.data.resolve()})
            self.state.write(self._root)

    def _choose_stack(self, settings: Settings) -> DemoState:
        """The stack that runs already, else one that is started here."""
        local = stack.read(self._root)
        is_local = local is not None and local.kafka == settings.kafka and local.redis == settings.redis
        is_up = local is not None and local.broker.alive and local.cache.alive
        self._environment = {"LOCAL": str(self.local), "DATA": str(settings.data.resolve())}
        if not (settings.kafka and settings.redis) or (is_local and not is_up):
            started = stack.up(self.local, progress=self._progress)
            kafka, redis, prefix, own = started.kafka, started.redis, settings.topic_prefix, True
        else:
            kafka, redis, own = settings.kafka, settings.redis, False
            prefix = f"{settings.topic_prefix}demo-{datetime.now():%Y%m%d-%H%M%S}-"
            self._progress(f"using the running stack; topics and keys begin with {prefix}")
        if own or is_local:  # else the environment names them, and its passwords stay out of command lines
            self._stack_root = self.local if own else self._root
            self._environment |= {"KAFKA": kafka, "REDIS": redis}
        self._environment |= {"TOPIC_PREFIX": prefix, "HTTP_TOKENS": ""}  # its ranker listens on loopback, for itself
        return DemoState(kafka, redis, prefix, settings.model, str(self.local), own)

    def command(self, *words: str, **others: str) -> list[str]:
        """A `thalweg` command with the demo's settings, and `others`."""
        settings = [f"THALWEG_{name}={value}" for name, value in (self._environment | others).items()]
        return ["env", *settings, sys.executable, "-m", "thalweg.cli.main", *words]

    def start(self, name: str, *words: str, **settings: str) -> None:
        """Start a command in the background, its output in `<local>/demo/logs/<name>.log`.

        `settings`: those that it has for itself, such as HTTP_TOKENS.
        """
        with self._interrupts.deferred():
            priority = ["nice", "-n", NICE] if name in BACKGROUND else []
            command = [*priority, *self.command(*words, **settings)]
            self.state.services.append(spawn(name, command, 0, self._log(name), self.local / "run"))
            self.state.write(self._root)

    def start_child(self, name: str, *words: str) -> "subprocess.Popen[bytes]":
        """Start a command that ends when its stdin closes, at the latest when this process ends."""
        with self._log(name).open("ab") as log:
            return subprocess.Popen(
                self.command(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )

    def service(self, name: str) -> Service | None:
        """The address of a service's health endpoint; None until it has one."""
        return Service.read(self.local / "run" / f"{name}-{self.settings.worker}.json")

    def http_of(self, name: str) -> str:
        """Where a service, which is ready, answers over HTTP."""
        service = self.service(name)
        return service.http if service else ""

    def metrics(self, name: str) -> Mapping[str, float]:
        """A service's metrics; empty when it doesn't answer."""
        service = self.service(name)
        return service.metrics() if service else {}

    def wait_ready(self, *names: str) -> None:
        """Wait until all are ready. Raises StackError when one dies or needs longer than READY_S."""
        deadline_s = time.monotonic() + READY_S
        waiting = dict.fromkeys(names, "it hasn't answered yet")
        while waiting:
            self.check_running()
            for name in list(waiting):
                status, says = service.get("/readyz") if (service := self.service(name)) else (0, waiting[name])
                if status == 200:
                    del waiting[name]
                else:
                    waiting[name] = says.strip()
            if waiting and time.monotonic() > deadline_s:
                name, says = next(iter(waiting.items()))
                raise StackError(f"the {name} isn't ready after {READY_S:g} s: {says}; see {self._log(name)}")
            time.sleep(0.05)

    def check_running(self, *but: str) -> None:
        """Raises StackError, with the end of its log, when a server or service other than `but` has ended.

        The stack's servers come first: when one ends, others end because of it.
        """
        if self._stack_root:
            self._stack = stack.read(self._stack_root) or self._stack  # `thalweg up` may have restarted it
        servers = [self._stack.broker, self._stack.cache] if self._stack else []
        for one in [*servers, *self.state.services]:
            if one.name not in but and not one.alive:
                lines = Path(one.log).read_text(errors="replace").splitlines()[-LOG_LINES:]
                raise StackError(
                    f"{one.name} ended in the middle of the demo; the end of {one.log}:\n" + "\n".join(lines)
                )

    def is_running(self, name: str) -> bool:
        """Whether the command that was started under this name still runs."""
        return any(one.alive for one in self.state.services if one.name == name)

    def stop(self) -> None:
        """Stop all of it, and remove what it wrote to a stack that isn't its own."""
        with self._interrupts.deferred():
            if self.state.kafka:  # else it was never opened
                stop_all(self.state.services, 8.0)  # first, so that no line names each of them
                self.state.stop(self._root, self.settings, progress=self._progress)
            self.release()

    def release(self) -> None:
        """Unlock the folder. Services that run go on, and `demo.json` keeps other demos out meanwhile."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def _log(self, name: str) -> Path:
        path = self.local / "logs" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _clear(self) -> None:
        """Empty the folder. Raises StackError, also when services of an earlier demo still run."""
        earlier = DemoState.read(self._root)
        if earlier and earlier.alive:
            raise StackError(ALREADY_RUNS)
        with disk_errors(self.local):
            if earlier and earlier.own_stack:
                stack.down(self.local)
            if self.local.exists():
                shutil.rmtree(self.local)
            (self.local / "run").mkdir(parents=True)


def _lock_folder(root: Path) -> IO[str]:
    """A lock that lasts until the file is closed or this process ends. Raises StackError when another demo has it."""
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / "demo.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise StackError(ALREADY_RUNS) from None
    return lock
