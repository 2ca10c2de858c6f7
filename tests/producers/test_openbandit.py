"""The Open Bandit sample: read in an order that never differs, and true to its rows."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from producers.features import FeatureBuilder
from producers.openbandit import DEFAULT, SHA256, fetch_openbandit, part_of, read_openbandit
from producers.source import WorldEvent
from stream.events.checks import check_source
from stream.events.types import Impression, Install, Item, User
from stream.runtime.errors import DataError
from stream.runtime.settings import Settings
from stream.spec.spec_file import load_spec

CLICKS = {"random/all": 38, "random/men": 46, "random/women": 46, "bts/all": 42, "bts/men": 69, "bts/women": 46}
SPEC = Path(__file__).parents[2] / "specs" / "openbandit.toml"


@pytest.fixture(scope="module")
def folder() -> Path:
    """The data set, from the data folder or fetched into it."""
    return fetch_openbandit(Settings().data, print)


@pytest.fixture(scope="module")
def events(folder: Path) -> list[WorldEvent]:
    """The part that is played by default."""
    return list(read_openbandit(folder))


@pytest.mark.parametrize("part", SHA256)
def test_the_whole_of_a_part(part: str, folder: Path) -> None:
    """Each part has 10,000 pages of one item and its clicks; items and users come first, every event is sound."""
    events = list(read_openbandit(folder, part))
    kinds = Counter(type(event) for event in events)
    assert (kinds[Impression], kinds[Install]) == (10_000, CLICKS[part])
    known: set[str] = set()
    for event in events:
        if isinstance(event, Item | User):
            known.add(event.item if isinstance(event, Item) else event.user)
        else:
            assert isinstance(event, Impression | Install)
            check_source(event)
            assert known.issuperset([event.user, *(event.items if isinstance(event, Impression) else [event.item])])


@pytest.mark.parametrize("part", SHA256)
def test_users_are_told_apart(part: str, folder: Path) -> None:
    """Shortened hashes lose nothing: as many users as there are combinations of features and items clicked before."""
    users = [event for event in read_openbandit(folder, part) if isinstance(event, User)]
    assert len({user.user for user in users}) == len(users) == len({repr(user.attributes) for user in users})
    rows = [line.rstrip().split(",")[6:] for line in (folder / f"{part.replace('/', '-')}.csv").open()][1:]
    assert len(users) == len({(*row[:4], *(float(clicks) > 0 for clicks in row[4:])) for row in rows})


def test_the_order_is_by_time_and_installs_first(events: list[WorldEvent]) -> None:
    """Event time never falls, and in the same millisecond installs stand before pages."""
    order = [(e.time_ms, isinstance(e, Impression)) for e in events if isinstance(e, Impression | Install)]
    assert all(one <= other for one, other in pairwise(order))
    assert [e.request_id for e in events if isinstance(e, Impression)] == [f"ob-{n}" for n in range(10_000)]


def test_a_page_is_a_row(events: list[WorldEvent]) -> None:
    """Time, item, slot and propensity are the row's; under the policy `random` one item of 80 is drawn."""
    first = next(event for event in events if isinstance(event, Impression))
    assert (first.time_ms, first.items, first.context) == (1_574_553_634_762, ["14"], {"slot": "3"})
    pages = [event for event in events if isinstance(event, Impression)]
    assert {tuple(page.propensities) for page in pages} == {(1 / 80,)}
    assert Counter(page.context["slot"] for page in pages) == {"1": 3_322, "2": 3_412, "3": 3_266}


def test_an_install_follows_its_page_by_a_second(events: list[WorldEvent]) -> None:
    """Each click is an install of its page's item, one second later."""
    pages = {event.request_id: event for event in events if isinstance(event, Impression)}
    for event in events:
        if isinstance(event, Install):
            page = pages.pop(event.request_id)
            assert (page.user, page.items, page.time_ms) == (event.user, [event.item], event.time_ms - 1_000)


def test_it_reads_the_same_twice(events: list[WorldEvent], folder: Path) -> None:
    """Two readings give the same events in the same order."""
    assert list(read_openbandit(folder)) == events


def test_its_spec_reads_every_column(events: list[WorldEvent]) -> None:
    """specs/openbandit.toml takes the pages, and names each attribute that there is."""
    spec = load_spec(SPEC)
    given = {f"user.{name}" for event in events if isinstance(event, User) for name in event.attributes}
    given |= {f"item.{name}" for event in events if isinstance(event, Item) for name in event.attributes}
    assert set(spec.columns()) == given | {"user.id", "item.id", "context.slot"}
    builder = FeatureBuilder(spec, 1)
    labels = [label for event in events for said in builder.process(event).examples for label in said.labels]
    assert sum(labels) == CLICKS[DEFAULT]


@pytest.mark.parametrize("source", ["openbandit/", "openbandit/random/all"])
def test_a_part_by_its_name(source: str) -> None:
    """The set's name means the part shown by lot; a part has policy and campaign behind it."""
    assert part_of(source) == "random/all"


def test_a_part_that_is_not_there_is_refused() -> None:
    """A wrong part is answered with the right ones."""
    with pytest.raises(DataError, match="openbandit/bts/men"):
        part_of("openbandit/bts/children")


def test_reading_what_is_not_there_names_the_remedy(tmp_path: Path) -> None:
    """Without the data set, reading says how to get it, at once."""
    with pytest.raises(DataError, match="thalweg data openbandit"):
        read_openbandit(tmp_path)
