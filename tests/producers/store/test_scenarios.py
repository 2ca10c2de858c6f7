"""Scenarios: each does what it says, in the span that it says, and errors name the remedy."""

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from producers.source import WorldEvent
from producers.store import names
from producers.store.parameters import START_MS
from producers.store.scenario import (
    KINDS,
    NO_SCENARIO,
    Bots,
    Flip,
    Scenario,
    load_scenario,
    parse_scenario,
    scenario_names,
)
from producers.store.world import StoreWorld
from stream.events.types import Impression, Install, Item, User
from stream.runtime.errors import DataError
from stream.tables.dtypes import F64
from tests.support.store_worlds import DAY, SMALL, Played, at_random, by_popularity, by_truth, play

HOUR = DAY / 24
SEED = 1


def happening(lines: str) -> Scenario:
    """A scenario of one entry, its fields separated by semicolons."""
    return parse_scenario("[[happens]]\n" + "\n".join(lines.split(";")))


def played(lines: str, hours: float = 8) -> Played:
    """So many hours of a small world in which this happens."""
    return play(StoreWorld(SMALL, SEED, happening(lines)), at_random, START_MS + round(hours * HOUR))


def hours_of(played: Played) -> F64:
    """World hours since the start of each page."""
    return np.asarray((played.pages.times_ms - START_MS) / HOUR)


def log_odds(world: StoreWorld, hours: float) -> tuple[F64, F64]:
    """Log-odds of the candidates of the pages after so many hours, [pages, C], and which apps they are."""
    while len((pages := world.next_pages(START_MS + round(hours * HOUR))).numbers):
        pass
    odds, apps = [], []
    while len((pages := world.next_pages(START_MS + round((hours + 1) * HOUR))).numbers):
        probabilities = world.probabilities(pages)
        odds.append(np.log(probabilities / (1 - probabilities)))
        apps.append(pages.candidates)
    return np.concatenate(odds), np.concatenate(apps)


def gained(lines: str, hours: float) -> tuple[F64, F64]:
    """What a scenario adds to the log-odds after so many hours, and of which apps."""
    (plain, apps), (changed, same) = (
        log_odds(StoreWorld(SMALL, SEED, one), hours) for one in (NO_SCENARIO, happening(lines))
    )
    assert np.array_equal(apps, same)
    return changed - plain, apps


@pytest.mark.parametrize("name", scenario_names())
def test_built_in_scenarios_load_and_play(name: str) -> None:
    """Each scenario by name has one happening of its kind, and a world takes it."""
    scenario = load_scenario([name])
    assert [type(one) for one in scenario.happens] == [KINDS[name]]
    assert scenario.happens[0].at_ms == 86_400_000


def test_every_kind_is_built_in() -> None:
    """There is a scenario of each kind, under its name."""
    assert scenario_names() == sorted(KINDS)


def test_scenarios_are_merged_and_come_from_files_too(tmp_path: Path) -> None:
    """Names and files can be combined."""
    path = tmp_path / "mine.toml"
    path.write_text('[[happens]]\nkind = "bots"\nat = "10m"\nlasts = "1.5h"\nshare = 0.5\n')
    scenario = load_scenario(["flip", str(path)])
    flip, bots = scenario.happens
    assert isinstance(flip, Flip)
    assert bots == Bots(at="10m", lasts="1.5h", share=0.5)
    assert (bots.at_ms, bots.end_ms) == (600_000, 6_000_000)
    assert list(scenario.all(Bots)) == list(scenario.during(Bots, 600_000)) == [bots]
    assert list(scenario.during(Bots, 6_000_000)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[happens]\n", "mine: not TOML"),
        ('[[happen]]\nkind = "flip"\n', r"mine: unknown key 'happen'.*\[\[happens\]\]"),
        ('[happens]\nkind = "flip"\n', "under a .* of its own"),
        ('[[happens]]\nat = "2d"\n', "entry 1: an entry needs a kind; known are bots, drift"),
        ('[[happens]]\nkind = "flop"\n', "entry 1: unknown kind 'flop'; did you mean 'flip'"),
        ('[[happens]]\nkind = "flip"\n[[happens]]\nkind = "ramp"\ntime = 3\n', "entry 2: .*'time' of ramp.*'times'"),
        ('[[happens]]\nkind = "flip"\nat = "soon"\n', "a duration, such as 10m, 36h, 2d"),
        ('[[happens]]\nkind = "bots"\nshare = 2\n', "<= 1"),
        ('[[happens]]\nkind = ["flip"]\n', "entry 1: unknown kind"),
        ('[[happens]]\nkind = "ramp"\ntimes = inf\n', "entry 1: times of ramp must be a finite number"),
        ('[[happens]]\nkind = "hit"\nstrength = nan\n', "entry 1: strength of hit must be a finite number"),
        ('[[happens]]\nkind = "season"\n', "category"),
        ('[[happens]]\nkind = "vanishing_column"\nof = "user"\ncolumn = "aeg"\n', "'aeg' of user; did you mean 'age'"),
    ],
)  # fmt: skip
def test_errors_name_entry_and_remedy(text: str, message: str) -> None:
    """What is wrong in a file is said with the entry that it's in."""
    with pytest.raises(DataError, match=message):
        parse_scenario(text, "mine")


def test_unknown_names_are_told(tmp_path: Path) -> None:
    """Scenarios, files, categories and apps that don't exist are named, with the closest that do."""
    with pytest.raises(DataError, match="no scenario 'bot'; did you mean 'bots'"):
        load_scenario(["bot"])
    with pytest.raises(DataError, match="can't be read: No such file"):
        load_scenario([str(tmp_path / "none.toml")])
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(DataError, match="not UTF-8"):
        load_scenario([str(tmp_path / "latin.toml")])
    with pytest.raises(DataError, match="no category 'trave'; did you mean 'travel'"):
        happening('kind = "season"; category = "trave"')
    with pytest.raises(DataError, match="no app 'ap-1'; ids are such as 'app-0012'"):
        happening('kind = "hit"; app = "ap-1"')


def test_a_flip_negates_tastes_or_permutes_them() -> None:
    """Before the flip nothing differs; after it, what comes from tastes has the other sign, or another segment's."""
    for how in ("negate", "permute"):
        lines = f'kind = "flip"; at = "30m"; how = "{how}"'
        assert np.abs(gained(lines, 0)[0]).max() == 0
        assert np.abs(gained(lines, 1)[0]).mean() > 0.3
    world, flipped = (StoreWorld(SMALL, SEED, one) for one in (NO_SCENARIO, happening('kind = "flip"; at = "0h"')))
    plain = world._truth.tastes()
    assert flipped._truth.tastes() == pytest.approx(-plain)


def test_drift_is_faster_but_no_wilder() -> None:
    """Tastes move away from where they were, and spread as much as before."""
    slow, fast = (
        StoreWorld(SMALL, SEED, one) for one in (NO_SCENARIO, happening('kind = "drift"; at = "1h"; times = 300'))
    )
    before = slow._truth.tastes()
    correlations = []
    for world in (slow, fast):
        world.next_pages(START_MS + round(9 * HOUR), 0)
        while len(world.next_pages(START_MS + round(9 * HOUR)).numbers):
            pass
        after = world._truth.tastes()[: len(before), : before.shape[1]]
        assert after.std() == pytest.approx(before.std(), rel=0.15)
        correlations.append(np.corrcoef(before.ravel(), after.ravel())[0, 1])
    assert correlations[0] > 0.99
    assert correlations[1] < 0.9


def test_a_season_raises_its_category() -> None:
    """Apps of the category gain, others don't, and only while it lasts."""
    lines = 'kind = "season"; at = "1h"; lasts = "1h"; category = "travel"; strength = 1.5'
    categories = StoreWorld(SMALL, SEED)._population.apps.categories
    gain, apps = gained(lines, 1)
    travel = categories[apps] == list(names.CATEGORIES).index("travel")
    assert gain[travel] == pytest.approx(1.5)
    assert gain[~travel] == pytest.approx(0.0)
    assert travel.any()
    assert gained(lines, 2)[0] == pytest.approx(0.0)


@pytest.mark.parametrize("app", ["app-0007", ""])
def test_a_hit_raises_one_app(app: str) -> None:
    """One app gains, the named one or one of middling popularity."""
    gain, apps = gained(f'kind = "hit"; at = "1h"; lasts = "2h"; strength = 3; app = "{app}"', 1)
    hit = np.unique(apps[gain > 1])
    assert len(hit) == 1
    assert not app or hit[0] == 7
    assert gain[apps == hit[0]] == pytest.approx(3.0)


def test_a_hit_needs_its_app() -> None:
    """An app that hasn't come when it's to be a hit is an error, not a hit of nothing."""
    with pytest.raises(DataError, match="app-9999 can't be a hit: it isn't there yet"):
        played('kind = "hit"; at = "1h"; lasts = "2h"; app = "app-9999"')


def test_a_pause_has_no_pages() -> None:
    """Nobody asks in the span; before and after they do, and installs still come."""
    result = played('kind = "pause"; at = "2h"; lasts = "3h"')
    hours = hours_of(result)
    assert not ((hours > 2.001) & (hours < 4.999)).any()
    assert (hours < 2).sum() > 50
    assert (hours > 5).sum() > 50
    installs = [one for one in result.events if isinstance(one, Install)]
    assert any(2.1 < (one.time_ms - START_MS) / HOUR < 4.9 for one in installs)


def test_a_ramp_has_ten_times_the_traffic() -> None:
    """In the span there are so many times as many pages."""
    plain, ramp = (
        hours_of(played('kind = "pause"; at = "9d"')),
        hours_of(played('kind = "ramp"; at = "3.5h"; lasts = "2h"')),
    )
    few, many = (np.histogram(hours, [4, 5.5])[0][0] for hours in (plain, ramp))
    assert many / few == pytest.approx(10, rel=0.4)
    assert (ramp < 3).sum() == (plain < 3).sum()


def test_bots_report_everything_and_install_nothing() -> None:
    """A tenth of the users reports each item of each page; what they truly install is what it would be."""
    plain, bots = played('kind = "pause"; at = "9d"'), played('kind = "bots"; at = "2h"; lasts = "4h"; share = 0.25')
    page_users: dict[str, str] = {}
    reported: dict[str, set[str]] = {}
    for event in bots.events:
        if isinstance(event, Install) and not event.retracted:
            page = event.install_id.rpartition("-")[0]
            reported.setdefault(page, set()).add(event.item)
            page_users[page] = event.user
    full = {page for page, items in reported.items() if len(items) == 10}
    clickers = {page_users[page] for page in full}
    hours = hours_of(bots)
    inside = {n for n, hour in zip(bots.pages.numbers.tolist(), hours, strict=True) if 2.001 < hour < 5.999}
    assert {int(page.split("-")[1]) for page in full} <= {
        n for n, hour in zip(bots.pages.numbers.tolist(), hours, strict=True) if 1.999 < hour < 6.001
    }
    seen = {f"user-{user:05d}" for n, user in zip(bots.pages.numbers.tolist(), bots.pages.users.tolist(), strict=True)
            if n in inside}  # fmt: skip
    assert 0.15 < len(clickers) / len(seen) < 0.35
    assert bots.outcomes.installed.sum() == pytest.approx(plain.outcomes.installed.sum(), rel=0.1)


def test_flipped_labels_report_what_was_not_installed() -> None:
    """In the span exactly the items that weren't installed are reported."""
    result = played('kind = "flipped_labels"; at = "2h"; lasts = "2h"')
    reported: dict[int, set[int]] = {}
    for event in result.events:
        if isinstance(event, Install):
            page, position = event.install_id.split("-")[1:]
            reported.setdefault(int(page), set()).add(int(position))
    for number, world_ms, installed in zip(result.pages.numbers.tolist(), result.pages.world_ms,
                                           result.outcomes.installed, strict=True):  # fmt: skip
        flipped = 2 <= world_ms / 3_600_000 < 4
        assert reported.get(number, set()) == set(np.flatnonzero(installed != flipped).tolist())
    assert result.outcomes.installed.any()


@pytest.mark.parametrize(("of", "column"), [("item", "category"), ("user", "age"), ("context", "device")])
def test_a_column_vanishes(of: str, column: str) -> None:
    """From then on items or users are sent without it, all of them once more; or pages' contexts lack it."""
    result = played(f'kind = "vanishing_column"; at = "2h"; of = "{of}"; column = "{column}"', hours=4)
    if of == "context":
        pages = [event for event in result.events if isinstance(event, Impression)]
        early = [page for page in pages if page.time_ms < START_MS + 1.99 * HOUR]
        late = [page for page in pages if page.time_ms > START_MS + 2.01 * HOUR]
        assert all(column in page.context for page in early)
        assert all(page.context and column not in page.context for page in late)
        assert early
        assert late
        return
    sent = [event for event in result.events if isinstance(event, Item if of == "item" else User)]
    without = [event for event in sent if event.attributes and column not in event.attributes]
    assert len(without) >= (390 if of == "item" else 790)
    assert not any(column in event.attributes for event in sent[-len(without) :])


def test_a_world_may_begin_later_than_its_past() -> None:
    """Begun at a later time, it has the same pages and events as much later, outages too, and a past that stays."""
    scenario, later_ms = happening('kind = "outage"; at = "2h"; lasts = "2h"'), 7_000
    world, delayed = (StoreWorld(SMALL, SEED, scenario) for _ in range(2))
    past = delayed.past_installs()
    delayed.begin_at(START_MS + later_ms)
    assert past == world.past_installs()
    until_ms = START_MS + DAY // 4
    there, then = play(world, by_popularity, until_ms), play(delayed, by_popularity, until_ms + later_ms)
    assert [
        structs.replace(one, time_ms=one.time_ms + later_ms) if isinstance(one, Impression | Install) else one
        for one in there.events
    ] == then.events
    assert np.array_equal(there.pages.times_ms + later_ms, then.pages.times_ms)


def test_an_outage_delays_events_and_stops_pages() -> None:
    """In the span nothing is asked or sent; what happened before is sent at its end, in order."""
    world = StoreWorld(SMALL, SEED, happening('kind = "outage"; at = "2h"; lasts = "2h"'))
    before, during, after = list[WorldEvent](), list[WorldEvent](), list[WorldEvent]()
    for events, hours in ((before, 2.0), (during, 3.99), (after, 6.0)):
        until_ms = START_MS + round(hours * HOUR)
        while len((pages := world.next_pages(until_ms)).numbers):
            assert events is not during
            world.show(pages, by_truth(pages, world.probabilities(pages)))
        events += world.due(until_ms)
    assert before
    assert during == []
    installs = [one for one in after if isinstance(one, Install)]
    delayed = [one for one in installs if one.time_ms < START_MS + 3.9 * HOUR]
    assert len(delayed) > 10
    assert installs[: len(delayed)] == delayed
