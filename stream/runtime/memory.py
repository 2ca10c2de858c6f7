"""How much memory a process has, by its container or machine; the bounds that rooms derive from it or refuse.

Linux's kernel ends a container that reaches its limit, whatever it was doing; a bound above the limit is never reached.
What a joiner may take is derived from the limit. What a model may take is the spec's: bounds decide what is evicted, so
they are the same at each start, in replays and in retrains, and are refused where they can't fit (`check_bounds`).
"""

import os
from pathlib import Path
from typing import Final

from stream.runtime.errors import SettingsError
from stream.runtime.settings import Settings

MB: Final = 1_000_000
NO_LIMIT: Final = 2**60  # cgroup v1 writes about 2^63 where there's none
JOINER_SHARE: Final = 0.75  # the rest: tables that grow have two copies, clients have buffers
JOINER_MB_MAX: Final = 2_048  # that a joiner takes by default
JOINER_MB_MIN: Final = 384  # numba, numpy and Faust are half of it


def memory_bytes(settings: Settings, root: Path = Path("/")) -> int:
    """THALWEG_MEMORY_MB, else the least limit of this process's control groups (v2, v1), else the machine's memory.

    `root`: where `proc` and `sys` are.
    """
    if settings.memory_mb:
        return settings.memory_mb * MB
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_limits(root)])


def with_joiner_memory(settings: Settings, memory: int) -> Settings:
    """These settings with `joiner_memory_mb` as asked or derived from `memory`, bytes. Raises SettingsError."""
    asked, most = settings.joiner_memory_mb, int(memory * JOINER_SHARE) // MB
    if most < JOINER_MB_MIN:
        raise SettingsError(
            f"a joiner needs {JOINER_MB_MIN / JOINER_SHARE:.0f} MB of memory, and there are {memory // MB}: raise the "
            "container's limit (or THALWEG_MEMORY_MB, where that is wrong)"
        )
    if 0 < asked < JOINER_MB_MIN:
        raise SettingsError(
            f"THALWEG_JOINER_MEMORY_MB is {asked}, in MB, and a joiner takes {JOINER_MB_MIN} at least: with less it "
            "would close pages as they come. Set that or more, or 0 to have it derived"
        )
    if asked > most:
        raise SettingsError(
            f"THALWEG_JOINER_MEMORY_MB is {asked}, but of {memory // MB} MB of memory a joiner can use {most}: "
            f"the system would end it before it evicts pages. Set {most} or less, 0 to have it derived, or raise the "
            "container's limit"
        )
    return settings.model_copy(update={"joiner_memory_mb": asked or min(most, JOINER_MB_MAX)})


def _limits(root: Path) -> list[int]:
    """The limits of this process's control groups and of those around them; inside a container often just its own."""
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []  # no Linux
    found = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        mount = root / "sys" / "fs" / "cgroup" / ("memory" if controllers else "")
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        # A container often sees the host's path, but its own group at the mount.
        group = mount / path.lstrip("/")
        folders = [folder for folder in (group, *group.parents) if folder.is_relative_to(mount)]
        found += [_limit(folder / name) for folder in folders]
    return [limit for limit in found if limit]


def _limit(file: Path) -> int:
    """The limit in this file; 0 for none."""
    try:
        text = file.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() and int(text) < NO_LIMIT else 0
