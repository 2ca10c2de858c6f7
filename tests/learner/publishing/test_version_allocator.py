"""Version numbers and tokens never come twice."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from learner.publishing.version_allocator import BLOCK, HighWater, VersionAllocator


def test_what_may_have_been_used_is_known_after_a_kill(tmp_path: Path) -> None:
    """Whichever was used last before a kill: the next process knows it or a greater one."""
    path = tmp_path / "numbers" / "m"
    assert VersionAllocator(path).read() == HighWater()
    numbers = VersionAllocator(path)
    for version in range(1, 3 * BLOCK):
        numbers.reserve(version, 7)
        used = VersionAllocator(path).read()
        assert version <= used.version < version + BLOCK
        assert used.token == 7


def test_most_versions_cost_no_writing(tmp_path: Path) -> None:
    """The file is written once a block."""
    path = tmp_path / "m"
    numbers, contents = VersionAllocator(path), set[bytes]()
    for version in range(1, 2 * BLOCK + 1):
        numbers.reserve(version, 1)
        contents.add(path.read_bytes())
    assert len(contents) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_numbers_never_go_back(tmp_path: Path) -> None:
    """An older learner that wakes up takes nothing back of what a younger one has reserved."""
    path = tmp_path / "m"
    VersionAllocator(path).reserve(1_000, 9)
    VersionAllocator(path).reserve(5, 3)
    assert VersionAllocator(path).read() == HighWater(1_000 + BLOCK - 1, 9)


@pytest.mark.parametrize("garbage", [b"", b"\xff\xfe", b'{"version": "x"}', b"[1", b"\x00" * 5_000])
def test_a_garbled_file_stops_nobody(tmp_path: Path, garbage: bytes) -> None:
    """It reads as none, and the next use mends it."""
    path = tmp_path / "m"
    path.write_bytes(garbage)
    numbers = VersionAllocator(path)
    assert numbers.read() == HighWater()
    numbers.reserve(3, 1)
    assert VersionAllocator(path).read() == HighWater(3 + BLOCK - 1, 1)


def test_a_full_disk_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that couldn't be noted goes out all the same, and is noted with the next one."""
    path, numbers = tmp_path / "m", VersionAllocator(tmp_path / "m")

    def full(_handle: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        numbers.reserve(1, 1)
        assert VersionAllocator(path).read() == HighWater()
    numbers.reserve(2, 1)
    assert VersionAllocator(path).read() == HighWater(2 + BLOCK - 1, 1)
