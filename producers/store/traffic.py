"""When users ask for pages: sessions of several pages, in a daily and a weekly wave."""

from typing import Final, NamedTuple

import numpy as np

from producers.store import names
from producers.store.draws import Purpose, generator
from producers.store.parameters import HOUR_MS, StoreParameters
from producers.store.population import UserTable
from stream.tables.dtypes import F64, I64, Bools


class Asked(NamedTuple):
    """Requests of an hour in time order, in columns."""

    numbers: I64
    world_ms: F64
    users: I64
    devices: I64


NOBODY: Final = Asked(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))


class Traffic:
    """Requests by hour of world time. They don't depend on what was shown."""

    def __init__(self, parameters: StoreParameters, seed: int) -> None:
        self._parameters, self._seed = parameters, seed
        wave = 1 + parameters.traffic.daily_wave * np.cos(2 * np.pi * (np.arange(24) - 20) / 24)
        week = np.outer(np.where(np.arange(7) < 5, 1.0, parameters.traffic.weekend), wave).ravel()
        self.wave: F64 = week / week.mean()  # (168,) by hour of the week
        self._later = NOBODY
        self._next = 0

    def ask(self, hour: int, hour_of_week: int, users: UserTable, here: Bools, times: float) -> Asked:
        """The requests of this hour; `times` as much traffic as usual. Call it for each hour, in order."""
        traffic = self._parameters.traffic
        rng = generator(self._seed, Purpose.TRAFFIC, hour)
        mean = traffic.pages_a_day / 24 / traffic.session_pages * self.wave[hour_of_week] * times
        sessions = rng.poisson(mean) if here.any() else 0
        weights = np.cumsum(users.activity * here)
        who = np.minimum(np.searchsorted(weights, rng.random(sessions) * weights[-1], "right"), len(here) - 1)
        main = rng.random(sessions) < self._parameters.users.main_device
        other = (users.devices[who] + rng.integers(1, len(names.DEVICES), sessions)) % len(names.DEVICES)
        devices = np.where(main, users.devices[who], other)
        pages = rng.geometric(1 / traffic.session_pages, sessions)
        of = np.repeat(np.arange(sessions), pages)
        gaps = 1_000 * traffic.gap_s * np.exp(rng.normal(0, traffic.gap_sigma, len(of)))
        firsts = np.cumsum(pages) - pages
        gaps[firsts] = (hour + rng.random(sessions)) * HOUR_MS
        passed = np.cumsum(gaps)
        times_ms = passed - np.repeat(passed[firsts] - gaps[firsts], pages)
        times_ms = np.maximum(times_ms, hour * HOUR_MS)  # differences of large sums aren't exact
        return self._release(hour, Asked(of, times_ms, who[of], devices[of]))

    def _release(self, hour: int, more: Asked) -> Asked:
        """The requests of this hour, numbered; later ones wait for theirs."""
        merged = Asked._make(map(np.concatenate, zip(self._later, more, strict=True)))
        order = np.argsort(merged.world_ms, kind="stable")
        count = int((merged.world_ms < (hour + 1) * HOUR_MS).sum())
        self._later = Asked._make(column[order[count:]] for column in merged)
        numbers = np.arange(self._next, self._next + count)
        self._next += count
        return Asked._make(column[order[:count]] for column in merged)._replace(numbers=numbers)
