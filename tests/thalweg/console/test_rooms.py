"""Which rooms there are, and how they are."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stream.runtime.errors import SettingsError
from stream.runtime.health import Health, run_file
from stream.runtime.settings import Settings
from thalweg.console.rooms import RoomAddress, RoomReader, parse_rooms


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a folder of their own."""
    return Settings(local=tmp_path)


@pytest.fixture
def reader(settings: Settings) -> Iterator[RoomReader]:
    """A reader of the rooms that run here."""
    with closing(RoomReader(settings.local)) as found:
        yield found


def states(reader: RoomReader) -> dict[str, str]:
    """State by room."""
    return {one.room: one.state for one in reader.read()}


def test_rooms_that_were_never_started_are_gone(reader: RoomReader) -> None:
    """All three are listed, and why they are gone."""
    assert states(reader) == {"joiner": "gone", "learner": "gone", "ranker": "gone"}
    assert all("none was found" in one.note for one in reader.read())


def test_a_room_is_up_starting_or_gone(reader: RoomReader, settings: Settings) -> None:
    """It's as ready as it says; one whose process has ended is gone, though its file is left."""
    ready = False
    path = run_file(settings, "joiner")
    with closing(Health("127.0.0.1", 0, lambda: (ready, "as the test wants"), written_to=path)):
        run = path.read_text()
        assert states(reader)["joiner"] == "starting"
        ready = True
        [joiner] = [one for one in reader.read() if one.room == "joiner"]
        assert (joiner.state, joiner.worker, joiner.note) == ("up", "0", "as the test wants")
        assert joiner.samples
    path.write_text(run)
    [joiner] = [one for one in reader.read() if one.room == "joiner"]
    assert joiner.state == "gone"
    assert "doesn't answer" in joiner.note
    path.write_text(json.dumps(json.loads(run) | {"pid": 2**22 + 1}))
    [joiner] = [one for one in reader.read() if one.room == "joiner"]
    assert "has ended" in joiner.note


def test_only_samples_that_are_asked_for_are_parsed(settings: Settings) -> None:
    """They begin with one of the names; a room that exports none of them is up nevertheless."""
    with closing(Health("127.0.0.1", 0, lambda: (True, "ok"), written_to=run_file(settings, "joiner"))):
        for names, found in ((("python_info", "no_such"), {"python_info"}), (("no_such",), set())):
            with closing(RoomReader(settings.local, names=names)) as reader:
                [joiner] = [one for one in reader.read() if one.room == "joiner"]
            assert (joiner.state, {one.name for one in joiner.samples}) == ("up", found)


def test_rooms_elsewhere_are_read_at_their_addresses(settings: Settings) -> None:
    """Run files don't count then; a name that doesn't resolve is a room that is gone."""
    with closing(Health("127.0.0.1", 0, lambda: (True, "ok"))) as health:
        addresses = [RoomAddress("ranker", "127.0.0.1", health.port), RoomAddress("joiner", "no-such-host.invalid", 1)]
        with closing(RoomReader(settings.local, addresses)) as reader:
            assert states(reader) == {"ranker": "up", "joiner": "gone", "learner": "gone"}
            assert reader.read()[0].worker == f"127.0.0.1:{health.port}", "two of a host are told apart"


@pytest.mark.parametrize("text", ["ranker", "kitchen=a:1", "ranker=a", "ranker=a:b"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    """The error says what an address is like."""
    with pytest.raises(SettingsError, match="--rooms takes ROOM=HOST:PORT"):
        parse_rooms(text)
