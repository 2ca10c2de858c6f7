"""Writing a backup and removing blobs exclude each other, and what is in the target is complete."""

from itertools import count
from pathlib import Path

import pytest

from learner.backup.backups import PRUNE, WRITE, Backups
from stream.runtime.errors import BackupError
from tests.support.backed_up import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A learner with a checkpoint."""
    made = Machine(tmp_path)
    made.learn_until(60)
    made.life.finish()
    return made


@pytest.mark.parametrize(("begun", "wants"), [(WRITE, PRUNE), (PRUNE, WRITE)])
def test_no_blob_is_removed_while_a_backup_is_written(machine: Machine, begun: str, wants: str) -> None:
    """Who comes second is refused, for as long as a process that was killed may live."""
    machine.back_up()
    machine.backups.target.write(f"locks/{begun}-{machine.clock():013d}-0", b"")

    def begin() -> object:
        return machine.backups.prune(1) if wants == PRUNE else machine.back_up()

    with pytest.raises(BackupError, match="is in use"):
        begin()
    machine.clock.ms += 6 * 3_600_000 if begun == WRITE else 1_800_000
    begin()
    assert machine.backups.target.sizes("locks") == {}


def test_removing_stops_before_its_lock_ends(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left goes the next time."""
    machine.back_up()
    for number in range(3):
        machine.backups.target.write(f"blobs/{number}", b"x")
    real = machine.backups.target.remove

    def slow(name: str) -> None:
        machine.clock.ms += 200_000
        real(name)

    monkeypatch.setattr(machine.backups.target, "remove", slow)
    assert machine.backups.prune(1).blobs == 2
    assert machine.backups.prune(1).blobs == 1


def test_no_blob_is_removed_until_the_backup_that_needs_it_is_there(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is written under the lock, once all blobs are."""
    target, real, seen = machine.backups.target, machine.backups.target.write, list[str]()

    def write(name: str, raw: bytes) -> None:
        if name.startswith("backups/"):
            with pytest.raises(BackupError, match="is in use"):
                Backups(target, machine.clock).prune(1)
            seen.extend(target.sizes("blobs"))
        real(name, raw)

    monkeypatch.setattr(target, "write", write)
    done = machine.back_up()
    assert {*seen} == done.manifest.blobs().keys()


def test_a_blob_that_fails_in_any_way_is_in_no_backup(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by an error that no target should raise."""
    real, calls = machine.backups.target.write, count()

    def write(name: str, raw: bytes) -> None:
        if name.startswith("blobs/") and next(calls) == 1:
            raise MemoryError
        real(name, raw)

    monkeypatch.setattr(machine.backups.target, "write", write)
    with pytest.raises(MemoryError):
        machine.back_up()
    assert machine.backups.ids() == []


def test_a_backup_is_later_than_the_one_before_whatever_the_clock_says(machine: Machine) -> None:
    """A machine whose clock is behind doesn't write the oldest one, which would be removed first."""
    machine.back_up()
    machine.clock.ms -= 3_600_000
    machine.learn_until(70)
    machine.life.finish()
    done = machine.back_up()
    assert machine.backups.prune(1).backups == 1
    assert machine.backups.ids() == [done.id]
