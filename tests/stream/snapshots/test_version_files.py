"""A version in a folder."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from stream.runtime.errors import BadSnapshot
from stream.snapshots.manifest import UNDECIDED, Decision, named_blobs
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.version_files import VersionFiles
from tests.support.small_versions import put, version_of


@pytest.fixture
def store() -> MemoryStore:
    """Two versions with a base in common."""
    store = MemoryStore("m")
    token, base = store.take_token(), put(store, 0)
    for version in (1, 2):
        store.publish(version_of(version, version - 1, token, base, put(store, version)))
    return store


def test_what_is_saved_is_loaded(store: MemoryStore, tmp_path: Path) -> None:
    """Manifest and blobs come back as they were; what no version needs any more is gone."""
    files = VersionFiles(tmp_path / "m")
    assert files.load() is None
    files.save(store, store.manifest(1))
    files.save(store, store.manifest(2))
    again = VersionFiles(tmp_path / "m")
    assert again.load() == store.manifest(2)
    blobs = again.blobs(store.manifest(2))
    assert blobs == {digest: store.get_blob(digest) for digest in blobs}
    assert {path.name for path in (tmp_path / "m" / "blobs").iterdir()} == set(blobs)


def test_save_that_fails_leaves_the_old_version(store: MemoryStore, tmp_path: Path) -> None:
    """A store that goes away in the middle of a save costs nothing that was there."""
    files = VersionFiles(tmp_path)
    files.save(store, store.manifest(1))
    manifest = store.manifest(2)
    store.wipe()
    with pytest.raises(BadSnapshot, match="is missing"):
        files.save(store, manifest)
    loaded = VersionFiles(tmp_path).load()
    assert loaded is not None
    assert loaded.version == 1
    VersionFiles(tmp_path).blobs(loaded)


def test_a_decision_is_kept(tmp_path: Path) -> None:
    """The decision comes back as it was, with or without a version; one changed byte and it isn't believed."""
    files = VersionFiles(tmp_path / "m")
    assert files.decision() == UNDECIDED
    for decision in (Decision(7, 1_700_000_000_000_000), Decision(0, 1_700_000_000_000_001)):
        files.save_decision(decision)
        assert VersionFiles(tmp_path / "m").decision() == decision
    raw = (tmp_path / "m" / "decision").read_bytes()
    for place in range(len(raw)):
        changed = bytearray(raw)
        changed[place] ^= 1
        (tmp_path / "m" / "decision").write_bytes(changed)
        with pytest.raises(BadSnapshot, match="delete it"):
            files.decision()


def garble(path: Path) -> None:
    """Change a bit in the middle of a file."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


class Asked(MemoryStore):
    """Remembers which blobs were fetched, and does `meanwhile` before it gives one."""

    def __init__(self, blobs: dict[str, bytes], meanwhile: Callable[[], None] = lambda: None) -> None:
        super().__init__("m")
        self.put_blobs(blobs)
        self.asked: list[str] = []
        self.meanwhile = meanwhile

    def get_blob(self, digest: str) -> bytes:
        """See VersionReader."""
        self.asked.append(digest)
        self.meanwhile()
        return super().get_blob(digest)


def test_a_damaged_copy_heals(store: MemoryStore, tmp_path: Path) -> None:
    """The first save of a process fetches what isn't whole in the folder, later ones only what is new."""
    manifest = store.manifest(2)
    VersionFiles(tmp_path).save(store, manifest)
    blobs = VersionFiles(tmp_path).blobs(manifest)
    damaged = sorted(blobs)[0]
    garble(tmp_path / "blobs" / damaged)
    asked = Asked(blobs)
    again = VersionFiles(tmp_path)
    again.save(asked, manifest)
    assert asked.asked == [damaged]
    assert VersionFiles(tmp_path).blobs(manifest) == blobs
    again.save(asked, manifest)
    assert asked.asked == [damaged]


def test_two_who_write_into_one_folder_leave_a_whole_version(store: MemoryStore, tmp_path: Path) -> None:
    """While one writes, the other is refused with the remedy, and what is there afterwards is whole."""
    one, other = store.manifest(2), store.manifest(1)
    refused: list[str] = []

    def write_too() -> None:
        with pytest.raises(OSError, match="THALWEG_WORKER of its own") as bad:
            VersionFiles(tmp_path).save(store, other)
        refused.append(str(bad.value))

    asked = Asked({digest: store.get_blob(digest) for digest in named_blobs(one)}, write_too)
    VersionFiles(tmp_path).save(asked, one)
    assert len(refused) == len(asked.asked) == 2
    kept = VersionFiles(tmp_path).load()
    assert kept == one
    VersionFiles(tmp_path).blobs(one)
    VersionFiles(tmp_path).save(store, other)
    VersionFiles(tmp_path).blobs(other)


def test_names_are_synced_before_anything_is_removed(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut leaves a whole version: each new name is on the disk before an old blob goes."""
    files = VersionFiles(tmp_path)
    files.save(store, store.manifest(1))
    said: list[str] = []
    fsync, unlink, replace = os.fsync, Path.unlink, Path.replace

    def synced(number: int) -> None:
        said.append("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file")
        fsync(number)

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        if path.exists():
            said.append("removed")
        unlink(path, missing_ok=missing_ok)

    def renamed(path: Path, target: Path) -> Path:
        said.append("renamed")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "unlink", unlinked)
    monkeypatch.setattr(Path, "replace", renamed)
    files.save(store, store.manifest(2))
    assert said == [*["file", "renamed", "folder"] * 2, "removed"]


@pytest.mark.parametrize("name", ["version", "blobs"])
@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
def test_garbled_files_are_refused(store: MemoryStore, tmp_path: Path, name: str, how: str) -> None:
    """Not one changed bit is taken for a version."""
    files = VersionFiles(tmp_path)
    files.save(store, store.manifest(2))
    path = tmp_path / name
    if path.is_dir():
        path = sorted(path.iterdir())[0]
    garble(path)
    raw = path.read_bytes()
    path.write_bytes({"flip": raw, "cut": raw[:-1], "empty": b""}[how])
    with pytest.raises(BadSnapshot):
        files.blobs(files.load() or store.manifest(2))
