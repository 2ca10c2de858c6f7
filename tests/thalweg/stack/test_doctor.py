"""The doctor reports what is here, what is missing, and how to get it."""

import sys
import tomllib
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from stream.runtime.settings import Settings
from thalweg.cli.main import app
from thalweg.stack import broker
from thalweg.stack.broker import REPOSITORY
from thalweg.stack.doctor import PYTHON_END, PYTHON_MIN, requirements, requirements_table, settings_table
from thalweg.stack.server import free_port
from thalweg.stack.stack import Stack


def test_a_machine_with_everything(stack: Stack) -> None:
    """Beside a stack that is up, everything that is needed is found."""
    found = requirements(Settings(local=stack.root))
    assert [check for check in found if check.needed and not check.ok] == []
    assert {check.name: check.ok for check in found}.items() >= {
        "local stack": True,
        "Kafka": True,
        "Redis": True,
    }.items()


def test_a_machine_with_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing programs, jars and services each have a remedy, and no check raises."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(broker, "JARS", tmp_path / "jars")
    found = {one.name: one for one in requirements(Settings(kafka="127.0.0.1:1", redis="", local=tmp_path / "none"))}
    for name in ("java", "maven", "redis-server", "Kafka's jars"):
        assert not found[name].ok
        assert found[name].remedy == "make setup"
    for name in ("local stack", "Redis"):
        assert not found[name].ok
        assert not found[name].needed
        assert found[name].remedy.startswith("thalweg up")
    assert (found["Kafka"].ok, found["Kafka"].needed) == (False, True)


@pytest.mark.parametrize(("machine", "ok"), [("x86_64", True), ("AMD64", True), ("aarch64", False), ("", False)])
def test_a_processor_that_nobody_has_tried(
    machine: str, ok: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It's said, and keeps nobody from trying."""
    monkeypatch.setattr("platform.machine", lambda: machine)
    found = {one.name: one for one in requirements(Settings(kafka="127.0.0.1:1", redis="redis://x:1", local=tmp_path))}
    assert (found["processor"].ok, found["processor"].needed) == (ok, False)
    assert "x86-64" in found["processor"].remedy


@pytest.mark.parametrize(("silent", "scheme"), [("KAFKA", ""), ("REDIS", "redis://")])
def test_a_configured_server_that_is_silent_fails(
    stack: Stack, local: Path, monkeypatch: pytest.MonkeyPatch, silent: str, scheme: str
) -> None:
    """The exit code is 0 while both servers that the environment names answer, else 1 with the address tried."""
    addresses = {"KAFKA": stack.kafka, "REDIS": stack.redis}
    nobody = f"127.0.0.1:{free_port()}"
    for named, code in ((addresses, 0), (addresses | {silent: scheme + nobody}, 1)):
        for name, value in named.items():
            monkeypatch.setenv(f"THALWEG_{name}", value)
        said = CliRunner().invoke(app, ["doctor"])
        assert said.exit_code == code, said.output
    assert f"no answer at {nobody}" in said.stdout
    assert f"start it, or correct THALWEG_{silent}" in said.stdout


def test_any_of_the_brokers_is_enough(stack: Stack, local: Path) -> None:
    """Of several bootstrap servers one that answers will do, however the list is spaced."""
    settings = Settings(kafka=f"127.0.0.1:{free_port()} , {stack.kafka}", redis=stack.redis, local=local)
    assert {one.name: one.ok for one in requirements(settings)}["Kafka"]


def test_a_machine_that_has_services_elsewhere(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both addresses are named, as in a container, nothing is missing that only a stack of one's own needs."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(broker, "JARS", tmp_path / "jars")
    monkeypatch.setattr("thalweg.stack.doctor._installed", lambda name: name != "torch")
    monkeypatch.setattr("thalweg.stack.doctor.MEMORY_MIN_GB", 1e9)
    found = requirements(Settings(kafka=stack.kafka, redis=stack.redis, local=tmp_path))
    assert [check.name for check in found if not check.ok] == ["packages", "memory"]
    assert [check.name for check in found if not check.ok and check.needed] == []
    alone = requirements(Settings(local=tmp_path))
    assert {check.name for check in alone if not check.ok and check.needed} == {
        "packages", "memory", "java", "maven", "redis-server", "Kafka's jars",
    }  # fmt: skip


def test_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a clone the extras that are complete are named, and Kafka and Redis are needed: no stack can start."""
    monkeypatch.setattr(broker, "IN_CLONE", False)
    monkeypatch.setattr(broker, "REPOSITORY", tmp_path)
    needs = [
        "msgspec",
        "numba>=0.61; extra == 'stream'",
        "thalweg[stream]; extra == 'ranker'",
        "none; extra == 'ranker'",
    ]
    monkeypatch.setattr("thalweg.stack.doctor.metadata.requires", lambda name: needs)
    found = {one.name: one for one in requirements(Settings(local=tmp_path))}
    assert (found["packages"].ok, found["packages"].found) == (True, "complete extras: stream")
    assert not {"java", "maven", "redis-server", "Kafka's jars", "local stack"} & set(found)
    assert {name for name, one in found.items() if one.needed and not one.ok} == {"Kafka", "Redis"}


@pytest.mark.parametrize(("version", "ok"), [((3, 10), False), ((3, 11), True), ((3, 13), True), ((3, 14), False)])
def test_pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], ok: bool) -> None:
    """Those that pyproject.toml takes, and no other."""
    (least, end) = (".".join(map(str, one)) for one in (PYTHON_MIN, PYTHON_END))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={least},<{end}"
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))
    (python,) = (one for one in requirements(Settings(local=tmp_path)) if one.name == "python")
    assert python.ok == ok


def test_a_place_that_may_not_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `.local` that is closed to us, or a file, is a finding that says what to do."""
    (tmp_path / "file").touch()
    found = {one.name: one for one in requirements(Settings(local=tmp_path / "file"))}
    assert not found[f"{tmp_path / 'file'} writable"].ok

    def closed(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    for name in ("read_bytes", "exists"):
        monkeypatch.setattr(Path, name, closed)
    found = {one.name: one for one in requirements(Settings(local=tmp_path / "local"))}
    assert "Permission denied" in found["local stack"].found
    assert "THALWEG_LOCAL" in found["local stack"].remedy


@pytest.mark.parametrize(("version", "ok"), [('"11.0.2" 2019', False), ('"17.0.15" 2025', True), ('"25" 2025', True)])
def test_old_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, ok: bool) -> None:
    """Java before 17 isn't enough; any later one is."""
    (tmp_path / "java").write_text(f"#!/bin/sh\necho 'openjdk version {version}' >&2\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    (java,) = (one for one in requirements(Settings(local=tmp_path)) if one.name == "java")
    assert java.ok == ok


def test_secrets_are_not_shown() -> None:
    """The doctor's tables print every variable's name, and no password of an address."""
    console = Console(width=200, record=True, file=StringIO())
    console.print(settings_table())
    console.print(requirements_table(requirements(Settings(redis="redis://me:hush@127.0.0.1:1/0"))))
    text = console.export_text()
    for name in Settings.model_fields:
        assert f"THALWEG_{name.upper()}" in text
    for values in ("PLAIN | SCRAM-SHA-256 | SCRAM-SHA-512", "0 to 65535", "1 or more", "^[A-Za-z0-9._-]*$"):
        assert values in text
    assert "hush" not in text
