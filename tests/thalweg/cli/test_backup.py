"""`thalweg backup` and `thalweg restore`, as far as they need no Kafka: the rest is tests/system/test_backup.py."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from learner.backup.local_state import Folders
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.retraining.retrain_files import RetrainFiles
from stream.runtime.settings import Settings
from tests.support.backed_up import NAME, Machine
from thalweg.cli.main import app


@pytest.fixture
def run(local: Path, monkeypatch: pytest.MonkeyPatch) -> "Run":
    """A command on a new machine; what it prints, and the file of --json."""
    monkeypatch.setenv("THALWEG_MODEL", NAME)
    return Run(local)


class Run:
    """Runs commands."""

    def __init__(self, local: Path) -> None:
        self.local, self.file = local, local / "figures.json"

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """What is printed."""
        done = CliRunner().invoke(app, [*arguments, "--json", str(self.file)], catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done.output


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A learner on another machine, with two backups."""
    made = Machine(tmp_path_factory.mktemp("machine"))
    for offset in (20, 30):
        made.learn_until(offset)
        made.life.finish()
        made.back_up()
    return made


def test_the_newest_backup_is_restored_and_a_retrain_of_before_is_forgotten(run: Run, machine: Machine) -> None:
    """It may be of a state that is later than the backup's."""
    verdict = RetrainFiles(Settings(local=run.local), NAME).folder / "verdict.json"
    verdict.parent.mkdir(parents=True)
    verdict.write_text("{}")
    assert "next offset 30; start the learner" in run("restore", str(machine.local.parent / "backups"))
    assert json.loads(run.file.read_text())["offset"] == 30
    found = CheckpointFiles(Folders.of(Settings(local=run.local), NAME).checkpoints, owned=False).newest()
    assert found is not None
    assert found.meta.examples == machine.life.model.examples
    assert not verdict.exists()


def test_another_backup_is_restored_by_its_id(run: Run, machine: Machine) -> None:
    """As the list shows it."""
    target = str(machine.local.parent / "backups")
    first, second = machine.backups.ids()
    listed = run("backup", target, "--list").replace("\n", "")
    assert listed.count("2023-11-14") == 2
    assert json.loads(run.file.read_text()) == {"backups": 2, "newest": second}
    assert "has no backup x" in run("restore", target, "--backup", "x", code=1)
    assert "next offset 20" in run("restore", target, "--backup", first)


def test_a_damaged_backup_is_listed_as_such(run: Run, machine: Machine) -> None:
    """The list is what one looks at then."""
    first, second = machine.backups.ids()
    (machine.local.parent / "backups" / NAME / "backups" / second).write_text("{}")
    listed = run("backup", str(machine.local.parent / "backups"), "--list").replace("\n", "")
    assert "damaged" in listed
    assert listed.count("2023-11-14") == 1
    assert "restore another one" in run("restore", str(machine.local.parent / "backups"), code=1)
    assert "next offset 20" in run("restore", str(machine.local.parent / "backups"), "--backup", first)


def test_old_backups_are_removed_by_hand(run: Run, machine: Machine) -> None:
    """Without writing one."""
    printed = run("backup", str(machine.local.parent / "backups"), "--list", "--keep", "1")
    assert "removed 1 backups" in printed
    assert len(machine.backups.ids()) == 1


def test_what_is_missing_is_said(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target, and a backup in it; THALWEG_BACKUP names one for all commands."""
    assert "set THALWEG_BACKUP" in run("backup", "--list", code=1)
    monkeypatch.setenv("THALWEG_BACKUP", str(tmp_path.parent / "none"))
    assert "has no backup: `thalweg backup --list` says" in run("restore", code=1)
    run("backup", "--list")
    assert json.loads(run.file.read_text())["backups"] == 0
