"""`make smoke`: runs what each image runs, without Docker: in an empty folder, with only what the Dockerfile installs.

For each target: an environment of the extras that the Dockerfile names, a copy of what .dockerignore lets through, and
the entry point, with kernels linked from a read-only folder. Rooms start on a real Kafka and a real Redis, which have a
small model, until they are ready; one that compiles a kernel at its start, or doesn't end as it should, is an error.
Prints sizes and starts: how long until a room was ready, and how long its main thread waited for a processor meanwhile.

Kernels are those of the clone, of this processor; with `--compile` each target compiles its own, and bytecode,
as the Dockerfile does, which takes minutes: only then starts take the time that they take in an image.
"""

import argparse
import json
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from hashlib import sha1
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table

from stream.log.kafka_admin import apply_topics, plan_topics
from stream.runtime.settings import REFUSED_EXIT, Settings
from stream.snapshots.redis_store import RedisStore
from thalweg.stack.server import free_port
from thalweg.stack.stack import down, up

REPOSITORY: Final = Path(__file__).resolve().parents[1]
UV: Final = str(Path(sys.executable).with_name("uv"))
READY_S: Final = 120.0
STOP_S: Final = 60.0
EVENTS: Final = """
{"type":"item","item":"tea","title":"Green tea","attributes":{"genres":["drinks","hot"],"year":2019}}
{"type":"user","user":"ann","attributes":{"age":34,"gender":"F","occupation":"engineer"}}
{"type":"impression","request_id":"r1","time":"2024-11-24T08:00:00Z","user":"ann","items":["tea","mug"]}
{"type":"install","user":"ann","item":"tea","time":"2024-11-24T08:00:01.500Z","request_id":"r1","install_id":"i1"}
{"type":"tick","time":"2024-11-24T09:00:00+00:00"}
"""
# What tools and evaluation run: the words, and a part of what they print.
TOOLS: Final = (
    ("apply-topics --missing", "all topics are as they should be"),
    ("check events.jsonl", "pages"),
    ("replay events.jsonl", "pages"),
    ("doctor", "THALWEG_KAFKA"),
)
OFFLINE: Final = (("backtest events.jsonl", "log loss"),)
TARGETS: Final = ("tools", "joiner", "learner", "ranker", "offline")
ROOMS: Final = ("joiner", "learner", "ranker")


class SmokeError(Exception):
    """What an image would do that it shouldn't."""


class Image(NamedTuple):
    """What stands for a target's image. `environment`: of its processes."""

    target: str
    home: Path
    environment: Mapping[str, str]

    @property
    def kernels(self) -> Path:
        """What is /opt/kernels in the image."""
        return self.home / "kernels"


def main() -> None:
    """Make each image, run it, print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("targets", nargs="*", default=TARGETS, help="default: all")
    options.add_argument("--compile", action="store_true", help="compile kernels and bytecode as the Dockerfile does")
    given = options.parse_args()
    progress = Console(stderr=True)
    columns = "image", "MB", "starts, s", "ready after, s", "of that without a processor, s"
    table = Table(*columns, title="what each image runs, without Docker")
    with TemporaryDirectory(prefix="thalweg-") as folder:
        root = Path(folder)
        stack = up(root / "stack", progress=progress.print)
        addresses = {"THALWEG_KAFKA": stack.kafka, "THALWEG_REDIS": stack.redis}
        try:
            settings = Settings(kafka=stack.kafka, redis=stack.redis, local=root / "learned", checkpoint_every_ms=100)
            apply_topics(settings, plan_topics(settings))
            progress.print("a small model ...")
            learn(settings)
            for target in given.targets:
                progress.print(f"{target} ...")
                image = make(target, root / target, addresses, compiled=given.compile)
                shutil.copytree(root / "learned", image.home / "data")
                table.add_row(target, f"{size_mb(image.home / 'env'):.0f}", *run(image))
        except SmokeError as bad:
            sys.exit(f"smoke: {bad}")
        finally:
            down(root / "stack")
    Console().print(table)


def learn(settings: Settings) -> None:
    """Let the clone's joiner and learner make a model of some pages: a version, and a chain of checkpoints."""
    local, command = settings.local, [sys.executable, "-m", "thalweg"]
    local.mkdir()
    environment = settings.environment() | {"THALWEG_SPEC": str(REPOSITORY / "specs" / "movielens.toml")}
    (local / "pages.jsonl").write_text("\n".join(page_lines()))
    with (local / "log").open("wb") as out:
        options: Any = {"cwd": REPOSITORY, "env": environment, "stdout": out, "stderr": out}
        rooms = [subprocess.Popen([*command, "run", room], **options) for room in ("joiner", "learner")]
    try:
        do([*command, "replay", str(local / "pages.jsonl")], env=environment)
        until = time.monotonic() + READY_S
        with closing(RedisStore(settings, "movielens")) as store:
            while not store.versions():
                if time.monotonic() > until:
                    raise SmokeError(f"no model:\n{(local / 'log').read_text()[-3000:]}")
                time.sleep(0.1)
        for room in rooms:
            room.send_signal(signal.SIGTERM)
            room.wait(STOP_S)
    finally:
        for room in rooms:
            room.kill()


def page_lines() -> Iterator[str]:
    """Pages of ten users, of two items each, and an install of every third, as JSON lines."""
    for n in range(600):
        user, items = f"u{n % 10}", [f"i{n % 17}", f"i{n % 23 + 17}"]
        page = {"type": "impression", "request_id": f"p{n}", "user": user, "items": items}
        yield json.dumps(page | {"time": f"2024-11-24T08:{n // 60:02}:{n % 60:02}Z"})
        if n % 3 == 0:
            install = {"type": "install", "user": user, "item": items[0], "request_id": f"p{n}", "install_id": f"a{n}"}
            yield json.dumps(install | {"time": f"2024-11-24T08:{n // 60:02}:{n % 60:02}.5Z"})
    yield json.dumps({"type": "tick", "time": "2024-11-24T09:00:00Z"})


def make(target: str, home: Path, addresses: Mapping[str, str], *, compiled: bool) -> Image:
    """The environment, code and kernels of a target. Raises SmokeError."""
    code, env = home / "thalweg", home / "env"
    copy_code(code)
    do([UV, "-q", "venv", "--python", sys.executable, str(env)])
    install = [UV, "-q", "pip", "install", "--python", str(env / "bin" / "python")]
    install += ["--compile-bytecode"] if compiled else []
    extras = [word for extra in extras_of(target) for word in ("--extra", extra)]
    constrained = ["-c", "constraints.txt", "-r", "pyproject.toml"]
    do([*install, *constrained, *extras], cwd=code)
    do([*install, "--no-deps", "-e", "."], cwd=code)
    (home / "empty").mkdir()
    environment = {
        "PATH": f"{env / 'bin'}:/usr/bin:/bin", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1",
        "KERNELS": str(home / "kernels"), "NUMBA_CACHE_DIR": str(home / "cache"), "THALWEG_LOCAL": str(home / "data"),
        "THALWEG_SPEC": str(code / "specs" / "movielens.toml"), "HOME": str(home / "empty"), **addresses,
    }  # fmt: skip
    image = Image(target, home, environment)
    do([str(env / "bin" / "python"), "-m", "compileall", "-q", "."], cwd=code)
    if compiled:
        environment |= {"NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": ""}
        module = ["thalweg.kernels"] if target == "offline" else ["thalweg.room_kernels", target]
        where = environment | {"NUMBA_CACHE_DIR": str(image.kernels)}
        do([str(env / "bin" / "python"), "-m", *module], cwd=code, env=where)
    else:
        copy_kernels(code, image.kernels)
    for file in (image.kernels, *image.kernels.rglob("*")):  # as in an image
        file.chmod(file.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    return image


def extras_of(target: str) -> list[str]:
    """The extras that the Dockerfile installs last for a target."""
    text = (REPOSITORY / "Dockerfile").read_text()
    stage = re.search(rf"^FROM \S+ AS {target}-packages\n(.*?)(?=^FROM )", text, re.MULTILINE | re.DOTALL)
    assert stage, f"the Dockerfile has no stage {target}-packages"
    return re.findall(r"--extra (\S+)", stage[1])


def copy_code(target: Path) -> None:
    """What .dockerignore lets through, with the times of its files, which numba's cache goes by."""
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            source, copy = REPOSITORY / line[1:], target / line[1:]
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, copy)


def copy_kernels(code: Path, target: Path) -> None:
    """The clone's compiled kernels, laid out as numba does under NUMBA_CACHE_DIR for this copy of the code."""
    for file in REPOSITORY.glob("*/**/__pycache__/*.nb[ic]"):
        module = code / file.relative_to(REPOSITORY).parents[1]
        folder = target / f"{module.name}_{sha1(str(module).encode(), usedforsecurity=False).hexdigest()}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, folder)
    if not target.exists():
        raise SmokeError("the clone has no compiled kernels: make setup")


def run(image: Image) -> tuple[str, ...]:
    """Run what the image runs; seconds until the command line answers, and what `start` says. Raises SmokeError."""
    folder = image.home / "empty"
    (folder / "events.jsonl").write_text(EVENTS.lstrip())
    begun = time.monotonic()
    thalweg(image, ["--help"], "Operate")
    seconds = [time.monotonic() - begun]
    for words, part in {"tools": TOOLS, "offline": OFFLINE}.get(image.target, ()):
        thalweg(image, words.split(), part)
    if image.target in ROOMS:
        thalweg(image, ["run", image.target, "--spec", "none.toml"], "none.toml", REFUSED_EXIT)
        seconds += start(image)
        compiled = [
            file.name for file in Path(image.environment["NUMBA_CACHE_DIR"]).rglob("*.nb?") if not file.is_symlink()
        ]
        if compiled:
            raise SmokeError(f"{image.target} compiles at its start: {', '.join(compiled)}")
    return tuple(f"{one:.1f}" for one in seconds)


def start(image: Image) -> tuple[float, float]:
    """Start a room, wait until it is ready, end it. Raises SmokeError.

    Seconds until it was ready, and those of them in which its main thread could run and another process did.
    """
    port, log = free_port(), image.home / "log"
    environment = {**image.environment, f"THALWEG_{image.target.upper()}_PORT": str(port)}
    begun = time.monotonic()
    with log.open("wb") as output:
        command = entry_point(image, ["run", image.target])
        room = subprocess.Popen(command, cwd=image.home / "empty", env=environment, stdout=output, stderr=output)
    try:
        while not is_ready(port):
            if room.poll() is not None or time.monotonic() > begun + READY_S:
                raise SmokeError(f"{image.target} isn't ready, exit code {room.returncode}:\n{log.read_text()[-3000:]}")
            time.sleep(0.02)
        ready_s, waited_s = time.monotonic() - begun, waited_for_a_processor_s(room.pid)
        room.send_signal(signal.SIGTERM)
        if code := room.wait(STOP_S):
            raise SmokeError(f"{image.target} ended with {code} after SIGTERM:\n{log.read_text()[-3000:]}")
    finally:
        room.kill()
        room.wait()
    return ready_s, waited_s


def waited_for_a_processor_s(process: int) -> float:
    """How long a process's main thread could have run and didn't, since it began; 0.0 where the system doesn't say."""
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


def is_ready(port: int) -> bool:
    """Whether a room says so."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
            return True
    except OSError:
        return False


def thalweg(image: Image, words: Sequence[str], part: str, code: int = 0) -> None:
    """Run a command by the entry point. Raises SmokeError unless it ends with this code and prints this."""
    command = entry_point(image, words)
    done = subprocess.run(command, cwd=image.home / "empty", env=image.environment, capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode != code or part not in said:
        raise SmokeError(
            f"`thalweg {' '.join(words)}` in {image.target} ended with {done.returncode}, "
            f"expected {code} and {part!r}:\n{said[-3000:]}"
        )


def entry_point(image: Image, words: Sequence[str]) -> list[str]:
    """The command of a container."""
    return [str(image.home / "thalweg" / "stack" / "container.sh"), *words]


def size_mb(folder: Path) -> float:
    """Of all files, without compiled bytecode, 10⁶ bytes."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and f.suffix != ".pyc") / 1e6


def do(command: Sequence[str], cwd: Path = REPOSITORY, env: Mapping[str, str] | None = None) -> None:
    """Run a step of an image's making. Raises SmokeError."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SmokeError(f"`{' '.join(command)}` ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")


if __name__ == "__main__":
    main()
