"""A version in a folder."""

from pathlib import Path

import pytest

from stream.errors import BadSnapshot
from stream.memory_store import MemoryStore
from stream.version_files import VersionFiles
from tests.stream.snapshots import put, version_of


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


@pytest.mark.parametrize("name", ["version", "blobs"])
@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
def test_garbled_files_are_refused(store: MemoryStore, tmp_path: Path, name: str, how: str) -> None:
    """Not one changed bit is taken for a version."""
    files = VersionFiles(tmp_path)
    files.save(store, store.manifest(2))
    path = tmp_path / name
    if path.is_dir():
        path = sorted(path.iterdir())[0]
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes({"flip": bytes(raw), "cut": bytes(raw[:-1]), "empty": b""}[how])
    with pytest.raises(BadSnapshot):
        files.blobs(files.load() or store.manifest(2))
