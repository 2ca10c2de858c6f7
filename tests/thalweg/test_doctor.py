"""The doctor tells what is here, what is missing, and how to get it."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from stream.settings import Settings
from thalweg import stack as local
from thalweg.doctor import checks, render, settings_table
from thalweg.stack import Stack


def test_a_machine_with_everything(stack: Stack) -> None:
    """Beside a stack that is up, everything that is needed is found."""
    found = checks(Settings(kafka=stack.kafka, redis=stack.redis, local=stack.root))
    assert [check for check in found if check.needed and not check.ok] == []
    assert {check.name: check.ok for check in found}.items() >= {
        "local stack": True,
        "Kafka": True,
        "Redis": True,
    }.items()


def test_a_machine_with_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing programs, jars and services each have a remedy, and no check raises."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(local, "JARS", tmp_path / "jars")
    found = {one.name: one for one in checks(Settings(kafka="127.0.0.1:1", redis="", local=tmp_path / "none"))}
    for name in ("java", "maven", "redis-server", "Kafka's jars"):
        assert not found[name].ok
        assert found[name].remedy == "make setup"
    for name in ("local stack", "Kafka", "Redis"):
        assert not found[name].ok
        assert found[name].remedy.startswith("thalweg up")


@pytest.mark.parametrize(("version", "ok"), [('"11.0.2" 2019', False), ('"17.0.15" 2025', True), ('"25" 2025', True)])
def test_old_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, ok: bool) -> None:
    """Java before 17 isn't enough; any later one is."""
    (tmp_path / "java").write_text(f"#!/bin/sh\necho 'openjdk version {version}' >&2\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    (java,) = (one for one in checks(Settings(local=tmp_path)) if one.name == "java")
    assert java.ok == ok


def test_secrets_are_not_shown() -> None:
    """The doctor's tables print every variable's name, and no password of an address."""
    console = Console(width=200, record=True, file=StringIO())
    console.print(settings_table())
    console.print(render(checks(Settings(redis="redis://me:hush@127.0.0.1:1/0"))))
    text = console.export_text()
    for name in Settings.model_fields:
        assert f"THALWEG_{name.upper()}" in text
    assert "hush" not in text
