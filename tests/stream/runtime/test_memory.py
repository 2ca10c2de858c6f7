"""What memory there is, and the bounds that follow from it."""

import os
from pathlib import Path

import pytest

from stream.runtime.errors import SettingsError
from stream.runtime.memory import MB, memory_bytes, with_joiner_memory
from stream.runtime.settings import Settings

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("groups", "limits", "found"),
    [
        ("0::/\n", {"memory.max": "1073741824\n"}, 2**30),
        ("0::/a/b\n", {"a/memory.max": "1000000", "a/b/memory.max": "max"}, 1_000_000),
        ("0::/host/path\n", {"memory.max": "2000000"}, 2_000_000),
        ("5:cpu:/\n4:memory:/x\n", {"memory/x/memory.limit_in_bytes": "3000000"}, 3_000_000),
        ("4:hugetlb,memory:/\n", {"memory/memory.limit_in_bytes": str(2**63 - 4096)}, MACHINE),
        ("0::/\n", {"memory.max": "max"}, MACHINE),
        ("0::/\n", {"memory.max": str(4 * MACHINE)}, MACHINE),
        (None, {}, MACHINE),
    ],
)
def test_the_least_limit_counts(groups: str | None, limits: dict[str, str], found: int, tmp_path: Path) -> None:
    """Of the limits of a process's control groups, v2 or v1, and the machine's memory the least one counts."""
    if groups is not None:
        (tmp_path / "proc" / "self").mkdir(parents=True)
        (tmp_path / "proc" / "self" / "cgroup").write_text(groups)
    for name, text in limits.items():
        file = tmp_path / "sys" / "fs" / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert memory_bytes(Settings(), tmp_path) == found
    assert memory_bytes(Settings(memory_mb=7), tmp_path) == 7 * MB


@pytest.mark.parametrize(
    ("memory_mb", "asked", "used"), [(1_074, 0, 805), (1_074, 800, 800), (64_000, 0, 2_048), (64_000, 9_000, 9_000)]
)
def test_a_joiners_bound_is_within_its_memory(memory_mb: int, asked: int, used: int) -> None:
    """A joiner takes three quarters of what there is, up to a bound, or what is asked for if that fits."""
    assert with_joiner_memory(Settings(joiner_memory_mb=asked), memory_mb * MB).joiner_memory_mb == used


@pytest.mark.parametrize(
    ("memory_mb", "asked", "why"),
    [(1_074, 2_048, "Set 805 or less"), (400, 0, "needs 512 MB"), (8_000, 2, "is 2, in MB, and a joiner takes 384")],
)
def test_a_bound_over_the_memory_is_refused(memory_mb: int, asked: int, why: str) -> None:
    """What can't fit is refused with one line, not ended by the system in the middle of its work."""
    with pytest.raises(SettingsError, match=why):
        with_joiner_memory(Settings(joiner_memory_mb=asked), memory_mb * MB)
