"""Golden files of a release, unpacked into a folder where tests may write."""

import shutil
from pathlib import Path
from typing import Final

from tests.support.golden_files import ARCHIVED, GOLDEN

RELEASES: Final = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())


def unpacked(release: str, folder: Path) -> Path:
    """A copy of the release's golden files, archives unpacked."""
    target = folder / release
    shutil.copytree(GOLDEN / release, target)
    for name in ARCHIVED:
        shutil.unpack_archive(target / f"{name}.zip", target / name)
    return target
