"""MovieLens-100k: read in an order that never differs."""

from itertools import pairwise
from pathlib import Path

import pytest

from producers.movielens import fetch_movielens, read_movielens
from producers.source import WorldEvent
from stream.events.checks import check_source
from stream.events.types import Impression, Install, Item, User
from stream.runtime.errors import DataError
from stream.runtime.settings import Settings


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
    order = [(e.time_ms, isinstance(e, Impression)) for e in events if isinstance(e, Impression | Install)]
    assert all(one <= other for one, other in pairwise(order))
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
