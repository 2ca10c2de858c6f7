"""The world: its rates are the declared ones, its draws are common, and its truth is what decides."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from producers.store.parameters import BASE_RATES, START_MS, StoreParameters, preset
from producers.store.population import Population, draw_reach
from producers.store.traffic import Traffic
from producers.store.world import StoreWorld
from stream.events.checks import check_source
from stream.events.codec import encode_record
from stream.events.types import Impression, Install, Item, User
from stream.runtime.errors import DataError
from stream.spec.spec_file import load_spec
from stream.tables.dtypes import F64, Bools
from tests.support.store_worlds import DAY, SMALL, Played, at_random, by_popularity, by_truth, changed, play


@pytest.fixture(scope="module")
def random_day() -> Played:
    """A day of pages in random order."""
    return play(StoreWorld(SMALL, seed=1), at_random)


def z(drawn: Bools, probabilities: F64) -> float:
    """How many standard deviations a count is from its expectation."""
    return float((drawn.sum() - probabilities.sum()) / np.sqrt((probabilities * (1 - probabilities)).sum()))


@pytest.mark.parametrize("name", BASE_RATES)
def test_a_random_page_has_installs_at_the_base_rate(name: str) -> None:
    """Of random items in random order, the declared share is installed."""
    rate = preset(name).base_rate
    played = play(StoreWorld(changed(base_rate=rate), seed=2), at_random)
    assert played.expected.mean() / 10 == pytest.approx(rate, rel=0.15)  # users and apps move away from the start
    installs = int(played.outcomes.installed.sum())
    assert abs(installs - played.expected.sum()) < 4 * np.sqrt(played.expected.sum())


def test_an_unknown_preset_is_named() -> None:
    """A preset that doesn't exist is rejected with the closest one."""
    with pytest.raises(DataError, match="did you mean 'common'"):
        preset("comon")


def test_too_few_apps_are_rejected() -> None:
    """Pages can't be filled from a store that is too small."""
    with pytest.raises(ValueError, match="at least 300"):
        changed(StoreParameters(), apps={"count": 200})


def test_positions_are_examined_as_declared(random_day: Played) -> None:
    """Each position is examined with its known probability."""
    world = StoreWorld(SMALL, seed=1)
    assert world.examination == pytest.approx(np.arange(1, 11) ** -0.5)
    assert random_day.outcomes.examined[:, 0].all()
    for position in range(1, 10):
        looked = random_day.outcomes.examined[:, position]
        assert abs(z(looked, np.full(len(looked), world.examination[position]))) < 4


def test_probabilities_are_exact(random_day: Played) -> None:
    """Among examined items of each band of probability, so many are installed; what isn't examined never is."""
    examined, installed = random_day.outcomes.examined, random_day.outcomes.installed
    assert not (installed & ~examined).any()
    bands = np.digitize(random_day.probabilities, [0.02, 0.05, 0.1, 0.2, 0.4])
    for band in range(6):
        chosen = examined & (bands == band)
        assert chosen.sum() > 200
        assert abs(z(installed[chosen], random_day.probabilities[chosen])) < 4


def test_examination_is_recovered_from_random_pages(random_day: Played) -> None:
    """On random pages the rate of installs by position, relative to the first, is the examination."""
    rates = random_day.outcomes.installed.mean(axis=0)
    errors = np.sqrt(rates / len(random_day.shown)) / rates[0] * np.sqrt(2)
    assert (np.abs(rates / rates[0] - np.arange(1, 11) ** -0.5) < 4 * errors).all()


def test_wants_are_recovered_by_inverse_weighting() -> None:
    """Weighted by 1 / examination, installs of ranked pages give the mean probability; the plain rate doesn't."""
    played = play(StoreWorld(SMALL, seed=3), by_truth)
    truth, examination = played.probabilities.mean(), np.arange(1, 11) ** -0.5
    weighted = played.outcomes.installed / examination
    assert abs(weighted.mean() - truth) < 4 * weighted.std() / np.sqrt(weighted.size)
    assert played.outcomes.installed.mean() < 0.8 * truth


def test_no_ranking_beats_the_oracle(random_day: Played) -> None:
    """Page by page, in the order of the truth the expected installs are the most that any order gives."""
    world = StoreWorld(SMALL, seed=1)
    while len((pages := world.next_pages(START_MS + DAY // 8)).numbers):
        probabilities = world.probabilities(pages)
        best = world.expected_installs(probabilities, by_truth(pages, probabilities))
        for ranking in (at_random, by_popularity):
            assert (world.expected_installs(probabilities, ranking(pages, probabilities)) <= best + 1e-12).all()
        world.show(pages, by_truth(pages, probabilities))
    assert play(StoreWorld(SMALL, seed=1), by_truth).expected.sum() > 1.5 * random_day.expected.sum()


def test_batches_and_calls_change_nothing() -> None:
    """Pages one by one or in batches, events asked for often or seldom: the same events in the same order."""
    big, single = (play(StoreWorld(SMALL, 4), at_random, START_MS + DAY // 5, pages_max) for pages_max in (64, 1))
    assert single.batches > 2 * big.batches
    assert big.events == single.events
    assert np.array_equal(big.pages.candidates, single.pages.candidates)


def test_all_that_is_due_is_sent_when_no_page_is_left() -> None:
    """Events wait for the pages before them; once there are none, everything before the time is out."""
    world, until_ms = StoreWorld(SMALL, 4), START_MS + DAY // 10
    pages = world.next_pages(until_ms)
    world.show(pages, by_truth(pages, world.probabilities(pages)))
    for b, time_ms in enumerate(pages.times_ms.tolist()):
        world.post(Impression(pages.request_id(b), time_ms, pages.user(b), ["a"]), time_ms)
    early = [event for event in world.due(until_ms) if isinstance(event, Impression | Install)]
    after_ms = int(world.next_pages(until_ms, 1).times_ms[0])
    assert early
    assert all(event.time_ms < after_ms for event in early)
    while len((pages := world.next_pages(until_ms)).numbers):
        world.show(pages, by_truth(pages, world.probabilities(pages)))
    assert max(event.time_ms for event in world.due(until_ms) if isinstance(event, Install)) > until_ms - 200
    assert all(event.time_ms > until_ms - 100 for event in world.drain() if isinstance(event, Install))


def test_seeds_give_different_worlds() -> None:
    """Another seed is another world; the same seed is the same one."""
    first, again, other = (play(StoreWorld(SMALL, seed), at_random, START_MS + DAY // 10).events for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_random_numbers_are_common_to_rankings(random_day: Played) -> None:
    """Under another ranking, pages have the same users and times, and positions are examined or not alike."""
    popular = play(StoreWorld(SMALL, seed=1), by_popularity)
    assert np.array_equal(popular.pages.users, random_day.pages.users)
    assert np.array_equal(popular.pages.times_ms, random_day.pages.times_ms)
    assert np.array_equal(popular.outcomes.examined, random_day.outcomes.examined)
    same = popular.apps == random_day.apps
    # Where both show the same app at the same position, it's installed in both or in neither; but users' pasts differ.
    assert (popular.outcomes.installed[same] == random_day.outcomes.installed[same]).mean() > 0.99


def test_candidates_are_distinct_and_not_installed(random_day: Played) -> None:
    """A page has a hundred different candidates, none of which its user has, and none twice."""
    world = StoreWorld(SMALL, seed=1)
    has = {(one.user, one.item) for one in world.past_installs()}
    while len((pages := world.next_pages(START_MS + DAY // 8)).numbers):
        assert pages.candidates.shape[1] == 100
        assert (np.diff(np.sort(pages.candidates, axis=1), axis=1) > 0).all()
        for b, user in enumerate(pages.users.tolist()):
            assert not has & {(pages.user(b), item) for item in pages.items(b)}, user
        shown = by_truth(pages, world.probabilities(pages))
        outcomes = world.show(pages, shown)
        has |= {(pages.user(b), pages.items(b)[shown[b, k]]) for b, k in np.argwhere(outcomes.installed)}


def test_popular_candidates_come_first_and_in_order(random_day: Played) -> None:
    """The first sixty are the most popular ones in order, as counted at the full hour; then new ones, then any."""
    popularity = random_day.pages.popularity
    assert (np.diff(popularity[:, :60], axis=1) <= 0).all()
    assert popularity[:, 60:].max(axis=1).mean() < popularity[:, 0].mean()
    drawn = np.bincount(random_day.pages.candidates[:, 75:].ravel(), minlength=400)[:400]
    assert (drawn > 0).mean() > 0.8


def test_a_batch_has_each_user_once_and_pages_in_order() -> None:
    """Users appear once in a batch, times never fall, and an empty batch means that there are no more pages."""
    world, last = StoreWorld(SMALL, seed=7), 0
    until_ms = START_MS + DAY // 4
    count = 0
    while len((pages := world.next_pages(until_ms)).numbers):
        assert len(set(pages.users.tolist())) == len(pages.users)
        assert (np.diff(pages.times_ms) >= 0).all()
        assert last <= pages.times_ms[0] <= pages.times_ms[-1] < until_ms
        last = int(pages.times_ms[-1])
        count += len(pages.numbers)
        world.show(pages, at_random(pages, world.probabilities(pages)))
    assert count > 500
    assert len(world.next_pages(until_ms).numbers) == 0
    assert len(world.next_pages(until_ms + DAY).numbers) > 0


def test_traffic_has_the_declared_volume_and_wave() -> None:
    """A week has about as many pages as declared, more in the evening than at night, more at weekends."""
    parameters = StoreParameters()
    users = Population(parameters, seed=8).users
    traffic, here = Traffic(parameters, seed=8), np.ones(len(users.ages), bool)
    asked = [traffic.ask(hour, hour, users, here, times=1.0) for hour in range(168)]
    hours = np.array([len(one.numbers) for one in asked])
    assert hours.sum() == pytest.approx(70_000, rel=0.03)
    assert hours.reshape(7, 24)[:, 18:23].mean() > 2 * hours.reshape(7, 24)[:, 5:10].mean()
    assert hours[120:].mean() > 1.05 * hours[24:120].mean()
    pages = np.bincount(np.concatenate([one.users for one in asked]), minlength=len(here))
    assert np.corrcoef(pages, users.activity)[0, 1] > 0.9
    devices = np.concatenate([one.devices == users.devices[one.users] for one in asked])
    assert devices.mean() == pytest.approx(0.85, abs=0.02)


def test_events_are_what_the_log_takes(random_day: Played) -> None:
    """Every event is valid and can be encoded; the first that name a user, an app or a page describe them before."""
    for event in random_day.events:
        if not isinstance(event, Item | User):
            check_source(event)
            encode_record([event])
    world = StoreWorld(SMALL, seed=1)
    known = {entity.item if isinstance(entity, Item) else entity.user for entity in world.entities()}
    for event in random_day.events:
        if isinstance(event, Item | User):
            known.add(event.item if isinstance(event, Item) else event.user)
        elif isinstance(event, Impression):
            assert {event.user, *event.items} <= known


def test_entities_have_readable_attributes() -> None:
    """Items and users carry what a spec can name."""
    entities = StoreWorld(SMALL, seed=1).entities()
    items, users = entities[:400], entities[400:]
    assert all(isinstance(item, Item) for item in items)
    assert all(isinstance(user, User) for user in users)
    item, user = items[0], users[0]
    assert isinstance(item, Item)
    assert isinstance(user, User)
    assert list(item.attributes) == ["category", "developer", "price", "age_rating", "released", "tags"]
    assert len(item.title.split()) == 3
    assert list(user.attributes) == ["age", "country", "device"]
    for one in items:
        tags = one.attributes["tags"]
        assert isinstance(tags, list)
        assert 1 <= len(tags) == len(set(tags)) <= 4


def test_numbers_of_the_spec_are_numbers() -> None:
    """What `specs/store.toml` declares as a number of items and users is sent as one: a text would count as missing."""
    columns = load_spec(Path("specs/store.toml")).columns()
    numbers = {name for name, column in columns.items() if column.type == "number"}
    for entity in StoreWorld(SMALL, seed=1).entities():
        origin = "item" if isinstance(entity, Item) else "user"
        for name, value in entity.attributes.items():
            assert (f"{origin}.{name}" in numbers) == isinstance(value, float), name


def test_past_installs_come_before_the_start_and_explain_popularity() -> None:
    """What users have at the start was installed before it, in time order, once; popular items are had by more."""
    world = StoreWorld(SMALL, seed=1)
    past = world.past_installs()
    assert all(first.time_ms <= second.time_ms < START_MS for first, second in pairwise(past))
    assert len({(one.user, one.item) for one in past}) == len(past) > 400
    popular = {e.item: e.popularity for e in world.entities() if isinstance(e, Item)}
    counts = dict.fromkeys(popular, 0)
    for one in past:
        counts[one.item] += 1
    assert np.corrcoef(list(popular.values()), list(counts.values()))[0, 1] > 0.9


def test_new_users_and_apps_arrive_and_old_ones_leave() -> None:
    """Arrivals are described by events before they appear on pages, and departures stop to appear."""
    parameters = changed(users={"new_a_day": 1.0, "leaving_a_day": 1.0}, apps={"new_a_day": 0.4, "leaving_a_day": 0.4})
    played = play(StoreWorld(parameters, seed=9), by_popularity)
    new_users = sum(isinstance(event, User) for event in played.events)
    new_apps = sum(isinstance(event, Item) for event in played.events)
    assert 600 < new_users < 1_000
    assert 120 < new_apps < 200
    last = played.pages.times_ms > START_MS + 0.9 * DAY
    assert (played.pages.users[last] >= 800).mean() > 0.4
    assert (played.pages.candidates[last] >= 400).any()
    assert (~np.isin(np.arange(400), played.pages.candidates[last])).sum() > 60


def test_whoever_has_the_source_wants_the_target() -> None:
    """A specific pair raises the target's probability far above what the same user would give it otherwise."""
    plain, paired = (StoreWorld(changed(pairs={"weight": weight}), seed=10) for weight in (0.0, 3.0))
    pages = paired.next_pages(START_MS + DAY, 4_096)
    plain.next_pages(START_MS + DAY, 4_096)

    def odds(world: StoreWorld) -> F64:
        probabilities = world.probabilities(pages)
        return np.asarray(np.log(probabilities / (1 - probabilities)))

    gained = odds(paired) - odds(plain)
    gained -= np.median(gained)  # both worlds have the same base rate
    wanted = paired.wanted(pages)
    assert gained[wanted] == pytest.approx(3.0)
    assert gained[~wanted] == pytest.approx(0.0)
    assert 0.001 < wanted.mean() < 0.2
    assert odds(plain)[wanted].mean() < odds(plain)[~wanted].mean()  # against the general trend


def test_an_installed_source_makes_its_owner_want_the_target() -> None:
    """An app's pair has its effect from when it's installed, not from when it's chosen; never if it's retracted."""
    population = Population(SMALL, seed=1)
    population.draw_pairs(draw_reach(population, seed=1))
    source, targets = next(iter(population.targets.items()))
    population.load(0, source, world_ms=1_000.0, lasts=True)
    population.load(1, source, world_ms=1_000.0, lasts=False)
    assert population.taken[:2, source].all()
    population.settle(0, 999.0)
    assert not population.wants[0].any()
    for user in (0, 1):
        population.settle(user, 1_000.0)
    assert np.flatnonzero(population.wants[0]).tolist() == targets.tolist()
    assert not population.wants[1].any()
