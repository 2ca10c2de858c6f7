"""The candidates of pages: popular, new and random apps that the user doesn't have. The same for every ranking."""

import numpy as np

from producers.store.draws import Draws, Purpose, generator
from producers.store.parameters import HOUR_MS, PageParameters
from stream.runtime.errors import DataError
from stream.tables.dtypes import F64, I64, Bools

SPARE = 40  # entries of a pool beyond the wanted ones, tried before all are


class CandidatePools:
    """What the store has seen installed, and the pools that candidates come from.

    `popularity` [A] counts installs that the store has seen, decayed; it's refreshed once an hour of world time.
    """

    def __init__(self, page: PageParameters, compress: float, draws: Draws) -> None:
        self._page, self._draws = page, draws
        self._decay = 0.5 ** (1 / (24 * page.popularity_half_life_days))  # an hour
        self._hour_ms = HOUR_MS / compress
        self.popularity: F64 = np.empty(0)
        self._seen: list[tuple[int, int, int]] = []  # event time at which the store sees it, from then on, of an app
        self._popular = self._newest = self._all = np.empty(0, np.int64)
        self._prime = 2

    def see(self, seen_ms: int, app: int, retracted_ms: int | None = None) -> None:
        """The store sees an install of the app at this event time, and its retraction, if any, at the other."""
        self._seen.append((seen_ms, seen_ms, app))
        if retracted_ms is not None:
            self._seen.append((retracted_ms, seen_ms, ~app))

    def refresh(self, now_ms: int, released_days: F64, here: Bools) -> None:
        """Count what the store has seen before `now_ms` and order the apps that are there. Once an hour."""
        new = len(here) - len(self.popularity)
        self.popularity = np.append(self.popularity * self._decay, np.zeros(new))
        waiting = []
        for entry in self._seen:
            seen_ms, since_ms, app = entry
            if seen_ms >= now_ms:
                waiting.append(entry)
                continue
            weight = self._decay ** ((now_ms - since_ms) / self._hour_ms)
            self.popularity[max(app, ~app)] += weight if app >= 0 else -weight
        self._seen = waiting
        self._all = np.flatnonzero(here)
        self._popular = self._all[np.argsort(-self.popularity[self._all], kind="stable")]
        self._newest = self._all[np.argsort(-released_days[self._all], kind="stable")]
        self._prime = _prime_from(len(self._all))

    def candidates(self, numbers: I64, taken: Bools) -> I64:
        """[B, C] candidates of pages [B]: popular ones in order, new ones from the youngest, random ones.

        `taken` [B, A], a copy, is what each user has; it's overwritten. Raises DataError when a user has too many.
        """
        page, rows = self._page, np.arange(len(numbers))[:, None]
        popular = _first(self._popular, taken, page.popular)
        taken[rows, popular] = True
        new = _first(self._newest, taken, page.new)
        taken[rows, new] = True
        return np.concatenate([popular, new, self._random(numbers, taken)], axis=1)

    def _random(self, numbers: I64, taken: Bools) -> I64:
        """Distinct by construction: steps of a random size, modulo a prime, from a random start."""
        wanted, prime, count, rows = self._page.random, self._prime, len(self._all), np.arange(len(numbers))[:, None]
        start, step = (self._draws.hashes(Purpose.CANDIDATES, numbers, 2) >> np.uint64(2)).astype(np.int64).T
        for length in (min(2 * wanted + SPARE, prime), prime):
            places = (start[:, None] % prime + (step % (prime - 1) + 1)[:, None] * np.arange(length)) % prime
            pool = self._all[np.minimum(places, count - 1)]
            free = (places < count) & ~taken[rows, pool]
            if (chosen := _columns(free, wanted)) is not None:
                return np.asarray(pool[rows, chosen])
        raise _too_few(count)


def middling_apps(popularity: F64, count: int, seed: int) -> list[int]:
    """Apps for hits that name none: neither among the most popular tenth nor the lower half."""
    ranked = np.argsort(-popularity, kind="stable")[len(popularity) // 10 : len(popularity) // 2]
    return [int(app) for app in generator(seed, Purpose.SCENARIO).choice(ranked, count, replace=False)]


def _first(pool: I64, taken: Bools, wanted: int) -> I64:
    """[B, wanted] first apps of a pool that aren't taken."""
    for part in (pool[: 2 * wanted + SPARE], pool):
        if (chosen := _columns(~taken[:, part], wanted)) is not None:
            return part[chosen]
    raise _too_few(len(pool))


def _columns(free: Bools, wanted: int) -> I64 | None:
    """[B, wanted] first columns that are free in each row; None if a row has too few."""
    ranks = free.cumsum(axis=1)
    if not wanted or not len(free):
        return np.empty((len(free), wanted), np.int64)
    if ranks[:, -1].min() < wanted:
        return None
    return np.nonzero(free & (ranks <= wanted))[1].reshape(len(free), wanted)


def _too_few(count: int) -> DataError:
    return DataError(f"of {count} apps a user has so many that a page can't be filled: give the store more apps")


def _prime_from(number: int) -> int:
    """The least prime that isn't below `number`, nor below 3."""
    number = max(number, 3)
    while any(number % divisor == 0 for divisor in range(2, int(number**0.5) + 1)):
        number += 1
    return number
