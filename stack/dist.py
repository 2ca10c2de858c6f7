"""`make dist`: builds the wheel, installs each room's extra in an empty environment, and checks what is there.

It writes the wheel, the source archive and one SBOM per room (CycloneDX) to `dist/`. Exit code 1 when a room is larger
than its bound, lacks a module, brings what it must not bring, or a command doesn't do what it should.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from rich.console import Console
from rich.table import Table

REPOSITORY: Final = Path(__file__).resolve().parents[1]
DIST: Final = REPOSITORY / "dist"
CONSTRAINED: Final = ("-c", str(REPOSITORY / "constraints.txt"))
# Imports every module of the packages named, but those whose name contains a word after "-".
IMPORT_ALL: Final = """
import importlib, pkgutil, sys
packages, but = (words.split() for words in " ".join(sys.argv[1:]).split("-"))
for package in packages:
    module = importlib.import_module(package)
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), package + "."):
        if not any(word in found.name for word in but):
            importlib.import_module(found.name)
"""


@dataclass(frozen=True)
class Room:
    """An extra, and what an environment with it alone must be like.

    `mb_max`: the size of all installed packages without compiled bytecode, 10⁶ bytes; 0 for a room that isn't
    installed, only resolved. `runs`: arguments of `thalweg`, the exit code, and a part of what it prints.
    """

    name: str
    mb_max: int
    without: tuple[str, ...]
    imports: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    runs: tuple[tuple[str, int, str], ...] = ()


ABOUT: Final = (("--help", 0, "Operate"), ("rank --help", 0, "--candidates"), ("doctor", 1, "complete extras: "))
ROOMS: Final = (
    Room(
        "client", 30, ("numba", "numpy", "kafka-python", "torch"), ("thalweg.client",),
        runs=(("--help", 1, "pip install 'thalweg[tools]'"),),
    ),
    Room(
        "joiner", 400, ("torch", "litestar", "polars"), ("stream",),
        runs=(*ABOUT, ("run joiner", 78, "no spec is named"), ("run ranker", 78, "pip install 'thalweg[ranker]'")),
    ),
    Room(
        "ranker", 450, ("torch", "faust-streaming", "polars"), ("stream", "ranker"), ("stream.joiner",),
        runs=(*ABOUT, ("run ranker", 78, "no model is named"), ("run learner", 78, "pip install 'thalweg[learner]'")),
    ),
    Room("producers", 0, ("torch", "faust-streaming", "litestar")),
    Room(
        "tools", 700, ("torch", "faust-streaming", "litestar"), ("thalweg", "producers", "stream"),
        ("stream.joiner", "console", "demo", "backtest", "experiment", "kernels"),
        (*ABOUT, ("init --help", 0, "Usage"), ("run learner", 78, "pip install 'thalweg[learner]'")),
    ),
    Room(
        "console", 400, ("torch", "faust-streaming", "polars", "faiss-cpu"), ("thalweg.console", "stream"),
        ("stream.joiner",), runs=(*ABOUT, ("console --help", 0, "Usage")),
    ),
    Room("backup", 0, ("faust-streaming", "botocore", "litestar", "polars", "scipy")),
    Room("learner", 0, ("faust-streaming", "litestar", "polars", "scipy")),
)  # fmt: skip


class DistError(Exception):
    """What is wrong with what was built."""


def main() -> None:
    """Build, install, check; print a table of sizes."""
    progress = Console(stderr=True)
    table = Table("extra", "packages", "MB", "bound, MB", title="what each extra installs")
    try:
        progress.print("building the wheel ...")
        wheel = build()
        with TemporaryDirectory() as folder:
            for room in ROOMS:
                progress.print(f"{room.name} ...")
                names, size = check(room, wheel, Path(folder) / room.name)
                table.add_row(room.name, str(len(names)), f"{size / 1e6:.0f}" if size else "", str(room.mb_max or ""))
    except DistError as bad:
        sys.exit(f"dist: {bad}")
    Console().print(table)


def build() -> Path:
    """The wheel, built from the source archive beside it; `dist/` is emptied before."""
    shutil.rmtree(DIST, ignore_errors=True)
    uv("build", "-o", str(DIST), str(REPOSITORY))
    (wheel,) = DIST.glob("*.whl")
    return wheel


def check(room: Room, wheel: Path, home: Path) -> tuple[list[str], int]:
    """The packages that a room's extra brings, and their bytes, 0 if it isn't installed. Raises DistError."""
    home.mkdir()
    needs, pins = home / "needs.txt", home / "pins.txt"
    needs.write_text(f"thalweg[{room.name}] @ {wheel.as_uri()}\n")
    uv("pip", "compile", "--no-header", "--no-annotate", *CONSTRAINED, "-o", str(pins), str(needs))
    others = home / "others.txt"  # the SBOM's component is Thalweg itself, wherever its wheel is
    others.write_text("".join(line for line in pins.read_text().splitlines(True) if not line.startswith("thalweg")))
    names = [line.split("==")[0] for line in others.read_text().splitlines()]
    if unwanted := set(names) & set(room.without):
        raise DistError(f"thalweg[{room.name}] brings {', '.join(sorted(unwanted))}; see pyproject.toml")
    size, source = 0, ("requirements", str(others))
    if room.mb_max:
        size, source = install(room, pins, home), ("environment", str(home / "bin" / "python"))
        use(room, home)
    sbom(source, DIST / f"{wheel.name.split('-py3')[0]}-{room.name}.cdx.json")
    return names, size


def install(room: Room, pins: Path, home: Path) -> int:
    """The bytes of an empty environment's packages after these are installed. Raises DistError."""
    uv("venv", "--allow-existing", "--python", sys.executable, str(home))
    uv("pip", "install", "--python", str(home / "bin" / "python"), "-r", str(pins))
    (packages,) = home.glob("lib/python*/site-packages")
    size = sum(file.stat().st_size for file in packages.rglob("*") if file.is_file())
    if size > room.mb_max * 1e6:
        raise DistError(f"thalweg[{room.name}] takes {size / 1e6:.0f} MB, more than {room.mb_max}")
    return size


def use(room: Room, home: Path) -> None:
    """Import the room's modules and run its commands, in a folder of their own. Raises DistError."""
    folder = home / "empty"
    folder.mkdir()
    run(str(home / "bin" / "python"), "-c", IMPORT_ALL, *room.imports, "-", *room.but, folder=folder)
    for words, code, part in room.runs:
        run(str(home / "bin" / "thalweg"), *words.split(), folder=folder, code=code, part=part)


def sbom(source: tuple[str, str], target: Path) -> None:
    """Write the CycloneDX SBOM of an environment or of a list of pins."""
    about = ("--output-reproducible", "--pyproject", str(REPOSITORY / "pyproject.toml"), "-o", str(target))
    uv("tool", "run", *CONSTRAINED, "--from", "cyclonedx-bom", "cyclonedx-py", *source, *about)


def uv(*words: str) -> None:
    """Run uv. Raises DistError."""
    run(str(Path(sys.executable).with_name("uv")), "-q", *words)


def run(*command: str, folder: Path = REPOSITORY, code: int = 0, part: str = "") -> None:
    """Run a command that must end with this code and print this. Raises DistError."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode != code or part not in said:
        raise DistError(
            f"`{' '.join(command)}` ended with {done.returncode}, expected {code} and {part!r}:\n{said[-3000:]}"
        )


if __name__ == "__main__":
    main()
