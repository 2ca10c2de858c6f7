"""Backups: consistent while learning goes on, incremental, verified; a restored learner ends in the same bits."""

from itertools import count
from pathlib import Path

import fsspec
import pytest

from learner.backup.backup_manifest import BLOB_BYTES
from learner.backup.backups import Backups
from learner.backup.local_state import opened_state
from learner.backup.restore import restore_files
from learner.backup.target import BackupTarget
from learner.checkpoints.checkpoint_files import ANCHORED, PASSED, CheckpointFiles
from learner.checkpoints.checkpointer import Checkpointer
from learner.publishing.version_allocator import HighWater, VersionAllocator
from stream.runtime.errors import BackupError
from tests.support.backed_up import NAME, Clock, Machine, folders_in, new_backups
from tests.support.checkpointed_life import SPEC, Life, resumed
from tests.support.learned_models import assert_same

END = 100


@pytest.fixture(autouse=True)
def rare_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models are mostly small arrays, which each increment has."""
    monkeypatch.setattr("learner.checkpoints.checkpointer.REBASE_SHARE", 2.5)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A learner with a base and an increment."""
    made = Machine(tmp_path)
    for offset in (40, 60):
        made.learn_until(offset)
        made.life.finish()
    return made


def restored(machine: Machine, local: Path, backup: str = "") -> Life:
    """A learner on a new machine, from the newest backup or this one."""
    backups, folders = machine.backups, folders_in(local)
    restore_files(backups, backups.read(backup or backups.ids()[-1]), folders, machine.clock)
    life = Life(folders.checkpoints)
    life.restart()
    return life


def ended(life: Life) -> Life:
    """It has learned up to END."""
    life.learn_until(END, sweeps=False)
    return life


def test_after_a_lost_disk_learning_ends_bit_equal(machine: Machine, tmp_path: Path) -> None:
    """The learner goes on from the backup's offset as if it had never stopped."""
    assert machine.back_up().manifest.offset == 60
    life = restored(machine, tmp_path / "new")
    assert life.offset == 60
    assert_same(ended(life).model, ended(machine.life).model)


def test_a_bucket_is_a_target(tmp_path: Path) -> None:
    """Any filesystem of fsspec will do: here one in memory."""
    machine = Machine(
        tmp_path, BackupTarget(fsspec.filesystem("memory", skip_instance_cache=True), f"/{tmp_path.name}")
    )
    machine.learn_until(40)
    machine.life.finish()
    machine.back_up()
    assert_same(ended(restored(machine, tmp_path / "new")).model, ended(machine.life).model)
    assert machine.backups.prune(1).backups == 0


def test_a_backup_is_of_one_checkpoint_whatever_is_deleted_meanwhile(machine: Machine, tmp_path: Path) -> None:
    """The learner writes on and deletes what the backup reads: its files are open."""
    folders = machine.folders
    with machine.backups.writing() as writer, opened_state(folders) as state:
        for offset in (80, 100):
            machine.learn_until(offset)
            machine.life.finish()
        for path in CheckpointFiles(folders.checkpoints, owned=False).paths():
            path.unlink()
        files = [file.store(writer, {}) for file in state.files]
    assert state.meta.offset == 60
    for number, one in enumerate(files):
        (tmp_path / f"{number}").write_bytes(b"".join(machine.backups.fetch(one.blobs)))
    assert len(files) == 2, "a base and an increment"


def test_the_next_backup_writes_what_is_new(machine: Machine) -> None:
    """An increment adds its own blobs; without one nothing is written but the manifest. Files are read once."""
    first = machine.back_up()
    assert first.bytes == sum(blob.size for blob in first.manifest.blobs().values())
    again = machine.back_up()
    assert (again.blobs, again.bytes) == (0, 0)
    assert again.manifest.files == first.manifest.files
    machine.learn_until(62)
    machine.life.finish()
    for path in machine.folders.checkpoints.glob("*1.checkpoint"):
        raw = bytearray(path.read_bytes())
        raw[100] ^= 1  # whoever read it again would find another digest
        path.write_bytes(raw)
    third = machine.back_up()
    assert third.manifest.offset == 62
    assert {one.path for one in third.manifest.files} > {one.path for one in first.manifest.files}
    known = first.manifest.blobs()
    assert third.bytes == sum(blob.size for digest, blob in third.manifest.blobs().items() if digest not in known)
    assert 0 < third.bytes < first.bytes / 2


def test_large_files_are_cut(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No blob is larger than its bound; cuts lie between arrays, so equal arrays are stored once."""
    for module in ("local_state", "backups", "backup_manifest"):
        monkeypatch.setattr(f"learner.backup.{module}.BLOB_BYTES", 10_000)
    monkeypatch.setattr("learner.backup.local_state.PIECE", 1_000)
    done = machine.back_up()
    assert max(blob.size for blob in done.manifest.blobs().values()) <= 10_000 < BLOB_BYTES
    machine.life.writer = Checkpointer(machine.life.model, machine.life.files, 60)  # so the next is a base
    machine.life.finish()
    assert machine.back_up().bytes < done.bytes / 2
    assert_same(ended(restored(machine, tmp_path / "new")).model, ended(machine.life).model)


def test_what_is_pinned_is_restored(machine: Machine, tmp_path: Path) -> None:
    """Pinned checkpoints come back with their files, to roll back to."""
    files = machine.life.files
    files.pin(files.paths()[0].name, PASSED)
    files.pin(files.paths()[1].name, ANCHORED)
    for offset in (80, 100):
        machine.learn_until(offset)
        machine.life.writer = Checkpointer(machine.life.model, files, offset)
        machine.life.finish()
    machine.back_up()
    back = restored(machine, tmp_path / "new").files
    for kind in (PASSED, ANCHORED):
        name = files.pinned(kind)
        assert name is not None
        assert back.pinned(kind) == name
        assert back.named(name).meta == files.named(name).meta


def test_version_numbers_go_on_above_all_that_were_used(machine: Machine, tmp_path: Path) -> None:
    """Also above those that were used since the backup: one a millisecond at most."""
    VersionAllocator(machine.folders.numbers).reserve(5_000, 77)
    machine.back_up()
    machine.clock.ms += 3_600_000
    restored(machine, tmp_path / "new")
    used = VersionAllocator(folders_in(tmp_path / "new").numbers).read()
    assert used.version > 5_000 + 3_600_000
    assert used.token == 77
    assert isinstance(used, HighWater)


def test_numbers_that_cannot_be_read_stop_no_restore(machine: Machine, tmp_path: Path) -> None:
    """The checkpoint knows most of them."""
    machine.folders.numbers.parent.mkdir(parents=True)
    machine.folders.numbers.write_bytes(b'{"version":"\xff"}')
    machine.back_up()
    assert restored(machine, tmp_path / "new").offset == 60


def test_pruning_removes_what_no_backup_names(machine: Machine, tmp_path: Path) -> None:
    """Blobs of those that stay are left; each of them can be restored."""
    done = [machine.back_up()]
    for offset in (70, 80):
        machine.learn_until(offset)
        machine.life.writer = Checkpointer(machine.life.model, machine.life.files, offset)
        machine.life.finish()
        done.append(machine.back_up())
    assert machine.backups.prune(3) == (0, 0, 0)
    pruned = machine.backups.prune(2)
    assert (pruned.backups, machine.backups.ids()) == (1, [one.id for one in done[1:]])
    kept = done[1].manifest.blobs() | done[2].manifest.blobs()
    assert machine.backups.target.sizes("blobs") == {digest: blob.size for digest, blob in kept.items()}
    assert pruned.blobs == len(done[0].manifest.blobs().keys() - kept.keys())
    for number, one in enumerate(done[1:]):
        assert restored(machine, tmp_path / f"new{number}", one.id).offset == 70 + 10 * number


def flip(path: Path) -> None:
    """Damage a file."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("damage", ["blob", "longer blob", "missing blob", "manifest"])
def test_a_damaged_backup_is_refused(machine: Machine, tmp_path: Path, damage: str) -> None:
    """Restore says what is damaged, and leaves no checkpoints."""
    machine.back_up()
    root = tmp_path / "backups" / NAME
    blob = max((root / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    if damage == "manifest":
        flip(next((root / "backups").iterdir()))
    elif damage == "blob":
        flip(blob)
    elif damage == "longer blob":
        blob.write_bytes(blob.read_bytes() + b"!")
    else:
        blob.unlink()
    with pytest.raises(BackupError, match=r"digest|other bytes|more than|failed"):
        restored(machine, tmp_path / "new")
    assert not folders_in(tmp_path / "new").checkpoints.exists()


def test_a_blob_that_was_cut_off_is_written_again(machine: Machine, tmp_path: Path) -> None:
    """A blob of another size isn't the blob."""
    machine.back_up()
    blob = next((tmp_path / "backups" / NAME / "blobs").iterdir())
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1])
    assert machine.back_up().bytes == len(whole)
    assert blob.read_bytes() == whole


def test_a_restore_that_is_killed_is_begun_again(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it ends, there are no checkpoints or all of them."""
    machine.back_up()
    folders, real = folders_in(tmp_path / "new"), Backups.blob
    for life in count(1):
        calls = count()

        def dying(self: Backups, blob: object, calls: "count[int]" = calls, life: int = life) -> bytes:
            if next(calls) == life:
                raise KeyboardInterrupt
            return real(self, blob)  # type: ignore[arg-type]  # as it was called

        monkeypatch.setattr(Backups, "blob", dying)
        try:
            restore_files(machine.backups, machine.backups.read(machine.backups.ids()[-1]), folders, machine.clock)
        except KeyboardInterrupt:
            assert not folders.checkpoints.exists()
            continue
        break
    assert life > 1
    assert_same(resumed(CheckpointFiles(folders.checkpoints))[0], machine.life.model)


def test_checkpoints_are_never_overwritten(machine: Machine) -> None:
    """Those of this machine may be newer than the backup."""
    machine.back_up()
    with pytest.raises(BackupError, match="move them away"):
        restore_files(machine.backups, machine.backups.read(machine.backups.ids()[0]), machine.folders, machine.clock)


def test_there_is_nothing_to_back_up_before_the_first_checkpoint(tmp_path: Path) -> None:
    """The error says what to do."""
    with pytest.raises(BackupError, match="start the learner"):
        Machine(tmp_path).back_up()
    assert new_backups(tmp_path / "backups", Clock()).newest() is None
    assert SPEC.name == NAME
