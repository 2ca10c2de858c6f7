"""Checks what Thalweg needs on a machine, and names the command that gets what is missing."""

import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from stream.runtime.errors import StackError
from stream.runtime.settings import Settings
from stream.snapshots.redis_memory import redis_memory, redis_problem
from stream.spec.spec_file import load_spec
from thalweg.stack import broker, stack
from thalweg.stack.server import LOOPBACK, free_port, kafka_answers, listens, redis_answers

SETUP = "make setup"
PYTHON_MIN, PYTHON_END = (3, 11), (3, 14)  # as in pyproject.toml
JAVA_MIN = 17
DISK_MIN_GB = 2.0  # for `.local`; the environment, from which this runs, is installed already
MEMORY_GB = 8.0
MEMORY_MIN_GB = 7.0  # the system reports less than is installed
CORES_MIN = 2
TESTED_MACHINES = ("x86_64", "amd64")


@dataclass(frozen=True)
class Requirement:
    """One thing that Thalweg needs, what was found, and, unless it's `ok`, how to get it.

    `needed` is False for what is optional.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""
    needed: bool = True


def requirements(settings: Settings) -> list[Requirement]:
    """Check everything that a machine needs to run Thalweg, then whether Kafka and Redis answer.

    The needs of a local stack are checked in a clone, unless the settings name both addresses. An unreadable stack
    file is one of the findings.
    """
    alone = not broker.IN_CLONE  # a package without a stack to start
    local = not alone and not (settings.kafka and settings.redis)
    try:
        found = stack.read(settings.local)
    except StackError:
        found = None  # _stack reports it
    kafka, redis = settings.kafka or (found.kafka if found else ""), settings.redis or (found.redis if found else "")
    # Behind TLS or SASL only the port is probed: the services themselves report a wrong password.
    plain, tls = settings.kafka_security == "PLAINTEXT", redis.startswith("rediss")
    return [
        _python(),
        _packages(needed=local),
        *(_stack_needs(settings.local) if local else []),
        *_machine(settings.local, runs_everything=local),
        _port(),
        _service("Kafka", kafka.split(","), kafka_answers if plain else listens, bool(settings.kafka) or alone),
        _service("Redis", _host_ports(redis), listens if tls else redis_answers, bool(settings.redis) or alone),
        *_redis_memory(settings.model_copy(update={"redis": redis})),
    ]


def _redis_memory(settings: Settings) -> list[Requirement]:
    """Whether Redis has memory for the versions of THALWEG_SPEC's model, if it says."""
    spec = load_spec(settings.spec) if settings.spec else None
    memory = redis_memory(settings, spec.name if spec else settings.model) if settings.redis else None
    if memory is None:
        return []
    problem = redis_problem(memory, spec)
    found = f"{memory.used / 1e6:.0f} MB used of {f'{memory.most / 1e6:.0f}' if memory.most else 'all there is'}"
    return [Requirement("Redis's memory", not problem, found, problem, needed=False)]


def requirements_table(found: list[Requirement]) -> Table:
    """The requirements for a person: state, name, what was found, what to do."""
    table = Table("", "what", "found", "what to do", title="thalweg doctor", title_justify="left")
    for one in found:
        mark = "[green]ok[/]" if one.ok else "[red]missing[/]" if one.needed else "[yellow]not now[/]"
        table.add_row(mark, one.name, one.found, "" if one.ok else one.remedy)
    return table


def settings_table() -> Table:
    """Every environment variable that Thalweg reads, with its default and description."""
    table = Table("variable", "default", "takes", "says", title="settings (environment)", title_justify="left")
    for name, field in Settings.model_json_schema()["properties"].items():
        default = "" if "password" in name else str(field["default"])
        table.add_row(f"THALWEG_{name.upper()}", default, _allowed_values(field), field["description"])
    return table


def _allowed_values(field: Mapping[str, Any]) -> str:
    """The values that a setting may have, by its JSON schema; empty: any text."""
    least, most = field.get("minimum"), field.get("maximum")
    if least is not None:
        return f"{least:g} to {most:g}" if most is not None else f"{least:g} or more"
    return escape(  # [a-z] would be read as markup
        " | ".join(field.get("enum", [])) or field.get("pattern", "")
    )


def _python() -> Requirement:
    version = ".".join(map(str, sys.version_info[:3]))
    remedy = "install Python 3.11, 3.12 or 3.13, then make setup"
    return Requirement("python", PYTHON_MIN <= sys.version_info[:2] < PYTHON_END, version, remedy)


def _packages(*, needed: bool) -> Requirement:
    """All packages in pyproject.toml, optional and development ones included; the image of one room has fewer."""
    if not broker.IN_CLONE:
        return _extras()
    project = tomllib.loads((broker.REPOSITORY / "pyproject.toml").read_text())
    lists = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    lists += project["dependency-groups"].values()
    wanted = {re.split(r"[\[<>=!~; ]", line)[0] for part in lists for line in part}
    missing = sorted(name for name in wanted if not _installed(name))
    found = f"missing: {', '.join(missing)}" if missing else f"{len(wanted)} of {len(wanted)}"
    return Requirement("packages", not missing, found, SETUP, needed)


def _extras() -> Requirement:
    """The extras of the installed package whose own packages are all here: one service needs no more than its own."""
    wanted: dict[str, list[str]] = {}
    for line in metadata.requires("thalweg") or []:
        if extra := re.search(r"extra == ['\"]([\w-]+)", line):
            wanted.setdefault(extra[1], []).append(re.split(r"[\[<>=!~; ]", line)[0])
    complete = [extra for extra, names in wanted.items() if all(map(_installed, names))]
    found = f"complete extras: {', '.join(complete) or 'none'}"
    return Requirement("packages", bool(complete), found, "pip install 'thalweg[EXTRA]'", needed=False)


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _program(name: str, command: list[str], at_least: int = 0) -> Requirement:
    """Whether a program is on the PATH and runs; `at_least`: the lowest major version."""
    if shutil.which(command[0]) is None:
        return Requirement(name, False, "not on the PATH", SETUP)
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as bad:
        return Requirement(name, False, f"doesn't run: {bad}", SETUP)
    version = re.search(r"(?:version \"|Maven |v=)((\d+)[\d.]*)", run.stdout + run.stderr)
    if run.returncode or version is None:
        return Requirement(name, False, f"`{' '.join(command)}` ended with {run.returncode}", SETUP)
    return Requirement(name, int(version[2]) >= at_least, version[1], f"{name} {at_least} or newer: {SETUP}")


def _stack_needs(local: Path) -> list[Requirement]:
    """What a local stack needs, and its state."""
    return [
        _program("java", ["java", "-version"], JAVA_MIN),
        _program("maven", ["mvn", "--version"]),
        _program("redis-server", ["redis-server", "--version"]),
        _jars(),
        _stack(local),
    ]


def _jars() -> Requirement:
    kafka = sorted(broker.JARS.glob("kafka_*.jar"))
    return Requirement("Kafka's jars", bool(kafka), kafka[-1].stem if kafka else f"none in {broker.JARS}", SETUP)


def _machine(local: Path, *, runs_everything: bool) -> list[Requirement]:
    """Disk where `.local` is or will be, memory, cores. `runs_everything`: all services and the stack run here."""
    folder = local.resolve()
    while not os.path.exists(folder):  # unlike Path.exists, it doesn't raise without permission
        folder = folder.parent
    usable = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    disk_gb = shutil.disk_usage(folder).free / 1e9
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = os.cpu_count() or 1
    disk = f"free {DISK_MIN_GB:g} GB, or name another folder with THALWEG_LOCAL"
    return [
        Requirement("disk", disk_gb >= DISK_MIN_GB, f"{disk_gb:.1f} GB free at {folder}", disk),
        Requirement(
            f"{local} writable", usable, str(folder), "make it a folder that you may write, or set THALWEG_LOCAL"
        ),
        Requirement(
            "memory", memory_gb >= MEMORY_MIN_GB, f"{memory_gb:.1f} GB", f"{MEMORY_GB:g} GB", needed=runs_everything
        ),
        Requirement(
            "processor",
            platform.machine().lower() in TESTED_MACHINES,
            platform.machine() or "unknown",
            "x86-64: it's the only one that Thalweg was run on; others should do, but nobody has tried",
            needed=False,
        ),
        Requirement(
            "cores", cores >= CORES_MIN, str(cores), f"{CORES_MIN} or more: with fewer, figures are worse", needed=False
        ),
    ]


def _port() -> Requirement:
    try:
        return Requirement("loopback ports", True, f"for example {free_port()}")
    except StackError as bad:
        return Requirement("loopback ports", False, str(bad), f"allow this user to listen on {LOOPBACK}")


def _stack(local: Path) -> Requirement:
    try:
        unreadable, found = stack.is_unreadable(local), stack.status(local)
    except StackError as bad:
        return Requirement("local stack", False, str(bad), stack.REMEDY)
    if unreadable:
        remedy = "thalweg down, then thalweg up"
        return Requirement("local stack", False, f"{local / 'stack.json'} can't be read", remedy, needed=False)
    states = ", ".join(f"{one.name} {one.state} (pid {one.pid})" for one in found)
    up = bool(found) and all(one.state == "up" for one in found)
    return Requirement("local stack", up, states or "not started", "thalweg up", needed=False)


def _host_ports(url: str) -> list[str]:
    """Each host and port of a Redis URL, without its login; none for none.

    >>> _host_ports("redis://me:hush@cache:1/0"), _host_ports("redis+sentinel://a:2,b/main/0"), _host_ports("")
    (['cache:1'], ['a:2', 'b:26379'], [])
    """
    scheme, _, rest = url.partition("://")
    port = 26379 if scheme.endswith("sentinel") else 6379
    hosts = re.split("[/?]", rest)[0].rpartition("@")[2]
    return [host if re.search(r":\d+$", host) else f"{host}:{port}" for host in hosts.split(",") if host]


def _service(name: str, addresses: list[str], answers: Callable[[str, int], bool], needed: bool) -> Requirement:
    """Whether a service answers at one of its addresses. It's needed where the environment names it or must name it."""
    variable = f"THALWEG_{name.upper()}"
    remedy = f"start it, or correct {variable}" if needed else f"thalweg up, or set {variable}"
    tried = [one.strip() for one in addresses if one.strip()]
    for one in tried:
        host, _, port = one.rpartition(":")
        if port.isdigit() and answers(host.strip("[]"), int(port)):
            return Requirement(name, True, f"answers at {one}")
    found = f"no answer at {', '.join(tried)}" if tried else "no address known"
    return Requirement(name, False, found, remedy, needed=needed)
