"""The world of the app store: asks for pages, decides what users install of what they're shown, and reports it.

Pure: no clock, no I/O; the same seed gives the same events. A loop that plays it:

    pages = world.next_pages(until_ms)           # who asks, and for which candidates
    shown = ...                                  # [B, k] indices of candidates, in shown order
    world.show(pages, shown)                     # users look, and install
    world.post(impression, time_ms)              # for each page
    log.send(world.due(until_ms))                # impressions, installs, retractions, changed items and users
"""

from typing import Final

import numpy as np

from producers.source import WorldEvent
from producers.store import names
from producers.store.candidate_pools import CandidatePools, middling_apps
from producers.store.draws import Draws, Purpose, generator
from producers.store.entities import describe_app, describe_user
from producers.store.outgoing_queue import OutgoingQueue, event_time
from producers.store.pages import Outcomes, PageBatch
from producers.store.parameters import DAY_MS, HOUR_MS, START_MS, StoreParameters
from producers.store.population import Population, draw_owned, draw_reach
from producers.store.reporter import Reported, Reporter, within
from producers.store.scenario import (
    NO_SCENARIO,
    Drift,
    Flip,
    Hit,
    Outage,
    Ramp,
    Scenario,
    TrafficPause,
    VanishingColumn,
)
from producers.store.traffic import NOBODY, Asked, Traffic
from producers.store.truth import HOURS_A_WEEK, Truth, Visits, sigmoid
from stream.events.types import Install, Item, SourceEvent, User
from stream.tables.dtypes import F64, I64, Bools

SAMPLE_PAGES: Final = 2_048  # that the base rate is set on


class StoreWorld:
    """The store's users, apps and truth. Pages come from `next_pages`; `show` each batch before the next one.

    If it isn't shown by then, a user may be offered again what they are loading; it isn't installed twice.
    `examination` [k] is the probability that a position is examined.
    """

    def __init__(
        self, parameters: StoreParameters, seed: int, scenario: Scenario = NO_SCENARIO, start_ms: int = START_MS
    ) -> None:
        self.parameters, self.scenario, self.start_ms = parameters, scenario, start_ms
        self._draws, self._seed = Draws(seed), seed
        self._first_hour = (start_ms // HOUR_MS + 72) % HOURS_A_WEEK  # 1970 began on a Thursday
        self._population = Population(parameters, seed)
        reach = draw_reach(self._population, seed)
        self._population.draw_pairs(reach)
        self._truth = Truth(self._population, seed)
        self._owned = draw_owned(self._population, reach, self._truth.tastes(), seed)
        self._pools = CandidatePools(parameters.page, parameters.compress, self._draws)
        self._pools.popularity = self._popularity_at_start()
        self._middling = middling_apps(self._pools.popularity, len(list(scenario.all(Hit))), seed)
        self._traffic = Traffic(parameters, seed)
        self._queue = OutgoingQueue(parameters.reports, parameters.compress, self._draws, self._outages())
        self._reporter = Reporter(parameters, scenario, self._draws, start_ms, self._queue)
        self._hidden = {of: frozenset[str]() for of in ("item", "user", "context")}
        positions = np.arange(1, parameters.page.candidates + 1)
        self._examination: F64 = np.asarray(positions**-parameters.page.examination, np.float64)
        self.examination: F64 = self._examination[: parameters.page.items]
        self._hour, self._cursor = -1, 0
        self._asked, self._times_ms, self._previous = NOBODY, NOBODY.numbers, NOBODY.numbers
        self._begin_hour()
        self._calibrate()

    # What there is.

    def entities(self) -> list[Item | User]:
        """All items and users at the start; new and changed ones come from `due`."""
        popularity = self._popularity_at_start()
        items = [self._item(app, float(popularity[app])) for app in range(self.parameters.apps.count)]
        return [*items, *(self._user(user) for user in range(self.parameters.users.count))]

    def past_installs(self) -> list[Install]:
        """Installs before the start, in time order and without a page: what users have. Sent first, if at all."""
        order = np.argsort(-self._owned.ages_ms, kind="stable")
        columns = (column[order].tolist() for column in self._owned)
        return [
            Install(names.user_name(user), names.app_name(app), self._event_ms(-age_ms) - 1, f"past-{user}-{app}")
            for user, app, age_ms in zip(*columns, strict=True)
        ]

    @property
    def app_count(self) -> int:
        """How many apps there have been so far, those that left among them."""
        return len(self._population.apps_here)

    def begin_at(self, start_ms: int) -> None:
        """Let the world begin at a later event time; before its first page. What was before the start stays there."""
        assert start_ms >= self.start_ms, "what was before the start would come after it"
        assert self._hour == self._cursor == 0, "it has begun"
        self._times_ms = self._times_ms + (start_ms - self.start_ms)
        self.start_ms = self._reporter.start_ms = start_ms
        self._queue.outages = self._outages()

    # The loop.

    def next_pages(self, until_ms: int, pages_max: int = 32) -> PageBatch:
        """The next requests in time order, before `until_ms` (event time); empty only if there are none before it.

        A batch ends before a user's second page, and at a full hour of world time.
        """
        self._advance(until_ms)
        first, times_ms = self._cursor, self._times_ms
        end = min(first + pages_max, int(np.searchsorted(times_ms, until_ms)))
        again = np.flatnonzero(self._previous[first:end] >= first)
        if len(again):
            end = first + int(again[0])
        self._cursor = end
        return self._batch(first, end)

    @property
    def next_page_ms(self) -> int | None:
        """Event time of the next request; None if there's none in this hour of world time."""
        return int(self._times_ms[self._cursor]) if self._cursor < len(self._times_ms) else None

    def probabilities(self, pages: PageBatch) -> F64:
        """[B, C] P(install | examined) of all candidates: the oracle. Ask before the next call of `next_pages`."""
        return sigmoid(self._truth.log_odds(pages.visits(), pages.candidates))

    def wanted(self, pages: PageBatch) -> Bools:
        """[B, C] whether the user has an app whose target the candidate is: what must be memorised."""
        return self._population.wants[pages.users[:, None], pages.candidates]

    def expected_installs(self, probabilities: F64, shown: I64) -> F64:
        """[B] expected installs of pages that show these candidates [B, k], by probabilities [B, C]."""
        return np.asarray(probabilities[np.arange(len(shown))[:, None], shown] @ self._examination[: shown.shape[1]])

    def show(self, pages: PageBatch, shown: I64) -> Outcomes:
        """Users look at candidates [B, k], by index in shown order, and install; events of it are queued."""
        apps, numbers = pages.candidates[np.arange(len(shown))[:, None], shown], pages.numbers
        draws, k = self._draws, shown.shape[1]
        probabilities = sigmoid(self._truth.log_odds(pages.visits(), apps))
        examined = draws.pages(Purpose.EXAMINATION, numbers, k) < self._examination[:k]
        installed = examined & (draws.pages(Purpose.INSTALL, numbers, k) < probabilities)
        installed &= ~self._population.taken[pages.users[:, None], apps]
        reported = self._reporter.reported(pages, installed)
        retracted = self._reporter.retracted(pages, installed | reported)
        if retracted is None:
            return Outcomes(examined, installed, np.zeros_like(installed))
        self._reporter.report(pages, apps, Reported(installed, reported, retracted), self._population, self._pools)
        return Outcomes(examined, installed, installed & retracted)

    def post(self, event: SourceEvent, time_ms: int) -> None:
        """Queue someone else's event, such as a page's impression: as all, it may be late, a duplicate, or waits."""
        self._queue.put(event, time_ms)

    def due(self, until_ms: int) -> list[WorldEvent]:
        """Events that are sent before `until_ms`, in order; none after the next page that `next_pages` will give.

        So call it once more when `next_pages` has no page left.
        """
        waiting = self._times_ms[self._cursor :]
        next_ms = int(waiting[0]) if len(waiting) else self._event_ms((self._hour + 1) * HOUR_MS)
        return self._queue.take(min(until_ms, next_ms))

    def drain(self) -> list[WorldEvent]:
        """All events that are still queued, in order of sending: nothing is shown any more."""
        return self._queue.take(None)

    # Time.

    def _outages(self) -> list[tuple[int, int]]:
        return sorted((self._event_ms(one.at_ms), self._event_ms(one.end_ms)) for one in self.scenario.all(Outage))

    def _event_ms(self, world_ms: float) -> int:
        return event_time(self.start_ms, world_ms, self.parameters.compress)

    def _advance(self, until_ms: int) -> None:
        """Begin hours until there is a page, or none before `until_ms`."""
        while self._cursor == len(self._times_ms) and self._event_ms((self._hour + 1) * HOUR_MS) < until_ms:
            self._begin_hour()

    def _begin_hour(self) -> None:
        self._hour += 1
        hour, world_ms, population, scenario = self._hour, self._hour * HOUR_MS, self._population, self.scenario
        new_users, new_apps = population.move(hour) if hour else (NOBODY.users, NOBODY.users)
        if hour:
            rate = np.prod([one.times for one in scenario.during(Drift, world_ms)])
            self._truth.drift(hour, float(rate))
        for flip in scenario.all(Flip):
            if self._begins(flip.at_ms):
                self._truth.flip(permuted=flip.how == "permute")
        season = scenario.season(world_ms)
        self._truth.refresh(world_ms / DAY_MS, season, scenario.hits(world_ms, self._middling, self.app_count))
        time_ms = self._event_ms(world_ms)
        changed = self._vanish()
        self._send_entities(
            time_ms,
            np.flatnonzero(population.apps_here) if "item" in changed else new_apps,
            np.flatnonzero(population.users_here) if "user" in changed else new_users,
        )
        self._pools.refresh(time_ms, population.apps.released_days, population.apps_here)
        self._ask()

    def _begins(self, at_ms: int) -> bool:
        """Whether this is the first full hour that isn't before `at_ms`."""
        return (self._hour - 1) * HOUR_MS < at_ms <= self._hour * HOUR_MS

    def _ask(self) -> None:
        hour, scenario = self._hour, self.scenario
        begin_ms, end_ms = hour * HOUR_MS, (hour + 1) * HOUR_MS
        times = 1.0
        for ramp in scenario.all(Ramp):
            overlap_ms = max(0, min(end_ms, ramp.end_ms) - max(begin_ms, ramp.at_ms))
            times *= 1 + (ramp.times - 1) * overlap_ms / HOUR_MS
        asked = self._traffic.ask(hour, (self._first_hour + hour) % HOURS_A_WEEK, self._population.users,
                                  self._population.users_here, times)  # fmt: skip
        quiet = within(asked.world_ms, [*scenario.all(TrafficPause), *scenario.all(Outage)])
        asked = Asked._make(column[~quiet] for column in asked)
        self._asked, self._cursor = asked, 0
        self._times_ms = self.start_ms + np.floor(asked.world_ms / self.parameters.compress).astype(np.int64)
        # [pages] index of the same user's page before, -1 if there's none in this hour.
        order = np.argsort(asked.users, kind="stable")
        same = asked.users[order[1:]] == asked.users[order[:-1]]
        self._previous = np.full(len(order), -1)
        self._previous[order[1:][same]] = order[:-1][same]

    def _batch(self, first: int, end: int) -> PageBatch:
        asked = Asked._make(column[first:end] for column in self._asked)
        for user, world_ms in zip(asked.users.tolist(), asked.world_ms.tolist(), strict=True):
            self._population.settle(user, world_ms)
        taken = self._population.taken[asked.users]
        candidates = self._pools.candidates(asked.numbers, taken)
        hours = np.full(end - first, (self._first_hour + self._hour) % HOURS_A_WEEK)
        return PageBatch(
            asked.numbers,
            self._times_ms[first:end],
            asked.users,
            candidates,
            self._pools.popularity[candidates],
            asked.devices,
            hours,
            asked.world_ms,
            self._hidden["context"],
        )

    # What changes.

    def _vanish(self) -> set[str]:
        """Columns that vanish now; returns what has lost one: item, user, context."""
        gone = [one for one in self.scenario.all(VanishingColumn) if self._begins(one.at_ms)]
        for one in gone:
            self._hidden[one.of] |= {one.column}
        return {one.of for one in gone}

    def _send_entities(self, time_ms: int, apps: I64, users: I64) -> None:
        known = self._pools.popularity
        for app in apps.tolist():
            item = self._item(app, float(known[app]) if app < len(known) else 0.0)
            self._queue.put_entity(item, item.item, time_ms)
        for user in users.tolist():
            described = self._user(user)
            self._queue.put_entity(described, described.user, time_ms)

    def _item(self, app: int, popularity: float) -> Item:
        return describe_app(self._population.apps, app, popularity, self._hidden["item"])

    def _user(self, user: int) -> User:
        return describe_user(self._population.users, user, self._hidden["user"])

    # The start.

    def _popularity_at_start(self) -> F64:
        """[A] decayed counts of what users have at the start."""
        half_life_ms = self.parameters.page.popularity_half_life_days * DAY_MS
        weights = 0.5 ** (self._owned.ages_ms / half_life_ms)
        return np.bincount(self._owned.apps, weights, self.parameters.apps.count).astype(np.float64)

    def _calibrate(self) -> None:
        """Set the base rate: on pages of the week, by users as active as they are, with candidates in random order."""
        parameters, population = self.parameters, self._population
        rng = generator(self._seed, Purpose.BASE_RATE)
        activity = population.users.activity * population.users_here
        users = rng.choice(len(activity), SAMPLE_PAGES, p=activity / activity.sum())
        hours = rng.choice(HOURS_A_WEEK, SAMPLE_PAGES, p=self._traffic.wave / HOURS_A_WEEK)
        candidates = self._pools.candidates(np.arange(SAMPLE_PAGES), population.taken[users])
        visits = Visits(users, population.users.devices[users], hours)
        self._truth.calibrate(visits, candidates, parameters.base_rate / float(self.examination.mean()))
