"""The rooms of a demo as processes: a place to live, started, watched, ended by pid."""

import contextlib
import fcntl
import json
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
from thalweg.demo.demo_state import Kept, end_all
from thalweg.stack import stack
from thalweg.stack.server import spawn
from thalweg.stack.stack import Progress
from thalweg.stack.status import Service

READY_S: Final = 90.0
GIVE_WAY: Final = ("learner", "replay")  # on few cores, whoever somebody waits for goes first
NICE: Final = "5"
LINES: Final = 8  # of the log of a service that died
TAKEN: Final = "a demo runs here already, or was kept up: `thalweg down` ends it"


class Interrupts:
    """Ctrl-C and kinder kills become KeyboardInterrupt, but not while something is half done."""

    def __init__(self) -> None:
        self._held = False
        self._came = False

    def __enter__(self) -> "Interrupts":
        self._before = {s: signal.signal(s, self._on) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        return self

    def __exit__(self, *_: object) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)

    def _on(self, _signal: int, _frame: FrameType | None) -> None:
        if not self._held:
            raise KeyboardInterrupt
        self._came = True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """What comes meanwhile is raised afterwards."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._came:
            self._came = False
            raise KeyboardInterrupt


class Rooms:
    """Everything that a demo has running, under `<local>/demo`; what was there before is removed.

    Takes the stack that is up, with topics and keys under a prefix of its own; else starts a stack.
    """

    def __init__(self, settings: Settings, interrupts: Interrupts, progress: Progress) -> None:
        self._home = settings.local.resolve()
        self._interrupts = interrupts
        self._progress = progress
        self.local = self._home / "demo"
        self.settings = settings
        self.kept = Kept("", "", "", "", str(self.local), own_stack=False)
        self._lock: IO[str] | None = None  # held while this demo goes on, from before anything of it is to be seen
        self._stack_root: Path | None = None  # of the local stack that it lives on
        self._stack: stack.Stack | None = None

    def open(self) -> None:
        """Make the place, with a stack. Whatever comes of it, `end` ends it. Raises StackError, SettingsError."""
        settings = self.settings
        if bool(settings.kafka) != bool(settings.redis):
            missing = "THALWEG_REDIS" if settings.kafka else "THALWEG_KAFKA"
            raise SettingsError(f"{missing} isn't set, but the other is: name both, or none for a stack of its own")
        self._lock = _take(self._home)
        self._clear()
        with self._interrupts.held():
            self.kept = self._settle(settings)
            self.settings = self.kept.settings(settings).model_copy(update={"data": settings.data.resolve()})
            self.kept.write(self._home)

    def _settle(self, settings: Settings) -> Kept:
        """Where it will live: on the stack that is up, else on one that is started here."""
        was = stack.read(self._home)
        ours = was is not None and was.kafka == settings.kafka and was.redis == settings.redis
        up = was is not None and was.broker.alive and was.cache.alive
        self._named = {"LOCAL": str(self.local), "DATA": str(settings.data.resolve())}
        if not (settings.kafka and settings.redis) or (ours and not up):
            started = stack.up(self.local, progress=self._progress)
            kafka, redis, prefix, own = started.kafka, started.redis, settings.topic_prefix, True
        else:
            kafka, redis, own = settings.kafka, settings.redis, False
            prefix = f"{settings.topic_prefix}demo-{datetime.now():%Y%m%d-%H%M%S}-"
            self._progress(f"taking the stack that is up; topics and keys begin with {prefix}")
        if own or ours:  # else the environment names them, and its passwords stay out of command lines
            self._stack_root = self.local if own else self._home
            self._named |= {"KAFKA": kafka, "REDIS": redis}
        self._named["TOPIC_PREFIX"] = prefix
        return Kept(kafka, redis, prefix, settings.model, str(self.local), own)

    def command(self, *words: str) -> list[str]:
        """A `thalweg` command with the demo's settings."""
        named = [f"THALWEG_{name}={value}" for name, value in self._named.items()]
        return ["env", *named, sys.executable, "-m", "thalweg.cli.main", *words]

    def start(self, name: str, *words: str) -> None:
        """Start a command in the background, its output in `<local>/demo/logs/<name>.log`."""
        with self._interrupts.held():
            gives_way = ["nice", "-n", NICE] if name in GIVE_WAY else []
            command = [*gives_way, *self.command(*words)]
            self.kept.services.append(spawn(name, command, 0, self._log(name), self.local / "run"))
            self.kept.write(self._home)

    def start_child(self, name: str, *words: str) -> "subprocess.Popen[bytes]":
        """Start a command that ends when its stdin does, which is when this process ends."""
        with self._log(name).open("ab") as log:
            return subprocess.Popen(
                self.command(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )

    def service(self, room: str) -> Service | None:
        """Where a room's health is; None before it says so."""
        return Service.read(self.local / "run" / f"{room}-{self.settings.worker}.json")

    def metrics(self, room: str) -> Mapping[str, float]:
        """A room's figures; empty when it doesn't answer."""
        service = self.service(room)
        return service.metrics() if service else {}

    def wait_ready(self, *rooms: str) -> None:
        """Until all say that they are. Raises StackError when one dies or needs longer than READY_S."""
        deadline_s = time.monotonic() + READY_S
        waiting = dict.fromkeys(rooms, "it hasn't said anything yet")
        while waiting:
            self.check()
            for room in list(waiting):
                status, says = service.get("/readyz") if (service := self.service(room)) else (0, waiting[room])
                if status == 200:
                    del waiting[room]
                else:
                    waiting[room] = says.strip()
            if waiting and time.monotonic() > deadline_s:
                room, says = next(iter(waiting.items()))
                raise StackError(f"the {room} isn't ready after {READY_S:g} s: {says}; see {self._log(room)}")
            time.sleep(0.05)

    def check(self, *ended: str) -> None:
        """Raises StackError, with the last lines of its log, when one has ended that isn't among `ended`.

        The stack's servers come first: when one ends, others end because of it.
        """
        if self._stack_root:
            self._stack = stack.read(self._stack_root) or self._stack  # `thalweg up` may have healed it
        servers = [self._stack.broker, self._stack.cache] if self._stack else []
        for one in [*servers, *self.kept.services]:
            if one.name not in ended and not one.alive:
                lines = Path(one.log).read_text(errors="replace").splitlines()[-LINES:]
                raise StackError(
                    f"{one.name} ended in the middle of the demo; the end of {one.log}:\n" + "\n".join(lines)
                )

    def running(self, name: str) -> bool:
        """Whether what was started under this name still runs."""
        return any(one.alive for one in self.kept.services if one.name == name)

    def end(self) -> None:
        """End all of it, and remove what it wrote to a stack that isn't its own."""
        with self._interrupts.held():
            if self.kept.kafka:  # else it was never opened
                end_all(self.kept.services, 8.0)  # without a word on each: they were this command's
                self.kept.end(self._home, self.settings, progress=self._progress)
            self.leave()

    def leave(self) -> None:
        """Let go of the place. What runs there goes on, and `Kept` keeps others out while it does."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def _log(self, name: str) -> Path:
        path = self.local / "logs" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _clear(self) -> None:
        """Make an empty place, unless someone lives there. Raises StackError."""
        before = Kept.read(self._home)
        if before and before.alive:
            raise StackError(TAKEN)
        try:
            if before and before.own_stack:
                stack.down(self.local)
            if self.local.exists():
                shutil.rmtree(self.local)
            (self.local / "run").mkdir(parents=True)
        except OSError as bad:
            raise StackError(
                f"{self.local} can't be used: {bad}; free space, fix its rights, or set THALWEG_LOCAL"
            ) from None


def _take(home: Path) -> IO[str]:
    """The lock of the place, held until the file is closed or this process ends. Raises StackError when it's taken."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "demo.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise StackError(TAKEN) from None
    except OSError as bad:
        raise StackError(f"{home} can't be used: {bad}; fix its rights, or set THALWEG_LOCAL") from None
    return lock


def read_report(path: Path) -> dict[str, float]:
    """The figures that a command wrote with --json; empty when it didn't get that far."""
    try:
        found: dict[str, float] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found
