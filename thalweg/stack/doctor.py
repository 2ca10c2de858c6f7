"""What is here, what is missing, and the command that gets it."""

import os
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
from thalweg.stack import stack
from thalweg.stack.server import LOOPBACK, free_port, kafka_answers, listens, redis_answers

SETUP = "make setup"
PYTHON_MIN, PYTHON_END = (3, 11), (3, 14)  # as in pyproject.toml
JAVA_MIN = 17
DISK_MIN_GB = 2.0  # for `.local`: the environment, in which this runs, has its place already
MEMORY_GB = 8.0
MEMORY_MIN_GB = 7.0  # the system shows less than is built in
CORES_MIN = 2


@dataclass(frozen=True)
class Check:
    """One thing that Thalweg needs: what was found of it and, unless it's `ok`, how to get it.

    `needed` is False for what may be missing without harm.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""
    needed: bool = True


def checks(settings: Settings) -> list[Check]:
    """Everything a machine needs to run Thalweg, then whether its services answer: the local stack's, if none's named.

    What a local stack needs is asked for unless the settings name both addresses. A stack file that can't be read is
    one of the findings.
    """
    local = not (settings.kafka and settings.redis)
    try:
        was = stack.read(settings.local)
    except StackError:
        was = None  # _stack tells
    kafka, redis = settings.kafka or (was.kafka if was else ""), settings.redis or (was.redis if was else "")
    # Behind TLS or SASL only the port is tried: the services themselves say what's wrong with a password.
    plain, tls = settings.kafka_security == "PLAINTEXT", redis.startswith("rediss:")
    return [
        _python(),
        _packages(needed=local),
        *(_of_a_stack(settings.local) if local else []),
        *_machine(settings.local, all_of_it=local),
        _port(),
        _service("Kafka", kafka.split(","), kafka_answers if plain else listens, named=bool(settings.kafka)),
        _service("Redis", [_host_port(redis)], listens if tls else redis_answers, named=bool(settings.redis)),
    ]


def render(found: list[Check]) -> Table:
    """The checks as a table: name, state, what was found, what to do."""
    table = Table("", "what", "found", "what to do", title="thalweg doctor", title_justify="left")
    for check in found:
        mark = "[green]ok[/]" if check.ok else "[red]missing[/]" if check.needed else "[yellow]not now[/]"
        table.add_row(mark, check.name, check.found, "" if check.ok else check.remedy)
    return table


def settings_table() -> Table:
    """Every environment variable that Thalweg reads, its default, and what it says."""
    table = Table("variable", "default", "takes", "says", title="settings (environment)", title_justify="left")
    for name, field in Settings.model_json_schema()["properties"].items():
        default = "" if "password" in name else str(field["default"])
        table.add_row(f"THALWEG_{name.upper()}", default, _takes(field), field["description"])
    return table


def _takes(field: Mapping[str, Any]) -> str:
    """Which values a setting may have, by its JSON schema; empty: any text."""
    least, most = field.get("minimum"), field.get("maximum")
    if least is not None:
        return f"{least:g} to {most:g}" if most is not None else f"{least:g} or more"
    return escape(  # [a-z] would be taken for markup
        " | ".join(field.get("enum", [])) or field.get("pattern", "")
    )


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    remedy = "install Python 3.11, 3.12 or 3.13, then make setup"
    return Check("python", PYTHON_MIN <= sys.version_info[:2] < PYTHON_END, version, remedy)


def _packages(*, needed: bool) -> Check:
    """The packages that pyproject.toml names, all rooms' and the developers': the image of one room has fewer."""
    project = tomllib.loads((stack.HOUSE / "pyproject.toml").read_text())
    lists = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    lists += project["dependency-groups"].values()
    wanted = {re.split(r"[\[<>=!~; ]", line)[0] for part in lists for line in part}
    missing = sorted(name for name in wanted if not _installed(name))
    found = f"missing: {', '.join(missing)}" if missing else f"{len(wanted)} of {len(wanted)}"
    return Check("packages", not missing, found, SETUP, needed)


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _program(name: str, command: list[str], at_least: int = 0) -> Check:
    """Whether a program is on the PATH and runs; `at_least` is the smallest first number of its version."""
    if shutil.which(command[0]) is None:
        return Check(name, False, "not on the PATH", SETUP)
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as bad:
        return Check(name, False, f"doesn't run: {bad}", SETUP)
    version = re.search(r"(?:version \"|Maven |v=)((\d+)[\d.]*)", run.stdout + run.stderr)
    if run.returncode or version is None:
        return Check(name, False, f"`{' '.join(command)}` ended with {run.returncode}", SETUP)
    return Check(name, int(version[2]) >= at_least, version[1], f"{name} {at_least} or newer: {SETUP}")


def _of_a_stack(local: Path) -> list[Check]:
    """What a local stack needs, and how it is."""
    return [
        _program("java", ["java", "-version"], JAVA_MIN),
        _program("maven", ["mvn", "--version"]),
        _program("redis-server", ["redis-server", "--version"]),
        _jars(),
        _stack(local),
    ]


def _jars() -> Check:
    kafka = sorted(stack.JARS.glob("kafka_*.jar"))
    return Check("Kafka's jars", bool(kafka), kafka[-1].stem if kafka else f"none in {stack.JARS}", SETUP)


def _machine(local: Path, *, all_of_it: bool) -> list[Check]:
    """Disk where `.local` is or will be, memory, cores. `all_of_it`: all services and their stack run here."""
    place = local.resolve()
    while not os.path.exists(place):  # unlike Path's, it doesn't raise where one may not look
        place = place.parent
    usable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    disk_gb = shutil.disk_usage(place).free / 1e9
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = os.cpu_count() or 1
    disk = f"free {DISK_MIN_GB:g} GB, or name another place with THALWEG_LOCAL"
    return [
        Check("disk", disk_gb >= DISK_MIN_GB, f"{disk_gb:.1f} GB free at {place}", disk),
        Check(f"{local} writable", usable, str(place), "make it a folder that you may write, or set THALWEG_LOCAL"),
        Check("memory", memory_gb >= MEMORY_MIN_GB, f"{memory_gb:.1f} GB", f"{MEMORY_GB:g} GB", needed=all_of_it),
        Check(
            "cores", cores >= CORES_MIN, str(cores), f"{CORES_MIN} or more: with fewer, figures are worse", needed=False
        ),
    ]


def _port() -> Check:
    try:
        return Check("loopback ports", True, f"for example {free_port()}")
    except StackError as bad:
        return Check("loopback ports", False, str(bad), f"allow this user to listen on {LOOPBACK}")


def _stack(local: Path) -> Check:
    try:
        garbled, found = stack.garbled(local), stack.status(local)
    except StackError as bad:
        return Check("local stack", False, str(bad), stack.REMEDY)
    if garbled:
        remedy = "thalweg down, then thalweg up"
        return Check("local stack", False, f"{local / 'stack.json'} can't be read", remedy, needed=False)
    told = ", ".join(f"{one.server.name} {one.state} (pid {one.server.pid})" for one in found)
    up = bool(found) and all(one.state == "up" for one in found)
    return Check("local stack", up, told or "not started", "thalweg up", needed=False)


def _host_port(url: str) -> str:
    """Where a Redis URL leads, without login; empty for none.

    >>> _host_port("redis://me:hush@cache:1/0"), _host_port("rediss://cache?db=1"), _host_port("")
    ('cache:1', 'cache:6379', '')
    """
    where = re.split("[/?]", url.partition("//")[2])[0].rpartition("@")[2]
    return f"{where}:6379" if where and not re.search(r":\d+$", where) else where


def _service(name: str, addresses: list[str], answers: Callable[[str, int], bool], *, named: bool) -> Check:
    """Whether a service answers at one of its addresses; it is needed where the environment names them."""
    variable = f"THALWEG_{name.upper()}"
    remedy = f"start it, or correct {variable}" if named else f"thalweg up, or set {variable}"
    tried = [one.strip() for one in addresses if one.strip()]
    for one in tried:
        host, _, port = one.rpartition(":")
        if port.isdigit() and answers(host.strip("[]"), int(port)):
            return Check(name, True, f"answers at {one}")
    found = f"no answer at {', '.join(tried)}" if tried else "no address known"
    return Check(name, False, found, remedy, needed=named)
