"""The truth: log-odds that a user who looks at an app installs it."""

from typing import Final, NamedTuple

import numpy as np

from producers.store import names
from producers.store.draws import Purpose, generator
from producers.store.population import COUNTRY_PRICE, DIMENSIONS, Population
from stream.tables.dtypes import F64, I64

HOURS_A_WEEK: Final = 168
SEGMENT_SHARE: Final = 0.5  # of a user's latent tastes (as standard deviation): what their segment has in common
BISECTIONS: Final = 40


class Visits(NamedTuple):
    """Who looks at pages, on what and when: columns of length B."""

    users: I64
    devices: I64
    hours: I64  # of the week, from Monday 0 h


class Truth:
    """Log-odds of installs. `advance` it once an hour of world time; in between it doesn't change."""

    def __init__(self, population: Population, seed: int) -> None:
        self._population, self._seed = population, seed
        tastes = population.parameters.tastes
        rng = generator(seed, Purpose.STRUCTURE, 1)
        categories = len(names.CATEGORIES)
        self._segment_tastes = tastes.segment * rng.standard_normal(
            (len(population.structure.segment_ages), categories)
        )
        self._segment_latents = population.structure.segment_latents.copy()
        self._latents = np.empty((0, DIMENSIONS))  # (U, 8) of users
        self._own = np.empty((0, DIMENSIONS))  # (U, 8), their own part
        context = _waves(rng, tastes.hour)[None] + tastes.device * rng.standard_normal(
            (len(names.DEVICES), 1, categories)
        )
        self._context = context.reshape(-1, categories)  # (devices × 168, K)
        self._groups: I64 = np.empty(0, np.int64)  # (U,) segment and country
        self._table = np.empty((0, 0))  # (groups, A)
        self._intercept = 0.0
        self.refresh(0.0, np.zeros(categories), {})

    def drift(self, hour: int, rate: float) -> None:
        """Tastes of users and segments drift for an hour; a `rate` above 1 is faster. Their spread stays the same."""
        tastes = self._population.parameters.tastes
        kept = 0.5 ** (rate / (tastes.half_life_days * 24))
        rng, moved = generator(self._seed, Purpose.DRIFT, hour), np.sqrt(1 - kept**2)
        self._own = kept * self._own + moved * rng.standard_normal(self._own.shape)
        noise = tastes.segment * rng.standard_normal(self._segment_tastes.shape)
        self._segment_tastes = kept * self._segment_tastes + moved * noise

    def flip(self, permuted: bool) -> None:
        """What users liked they dislike from now on; or `permuted`, each segment has the tastes of the next."""
        if permuted:
            self._segment_tastes = np.roll(self._segment_tastes, 1, axis=0)
            self._segment_latents = np.roll(self._segment_latents, 1, axis=0)
        else:
            self._segment_tastes, self._segment_latents = -self._segment_tastes, -self._segment_latents
            self._own = -self._own

    def refresh(self, day: float, season: F64, hits: dict[int, float]) -> None:
        """Bring the tables up to date with users, apps and the day; `season` [K] and `hits` (by app) add log-odds."""
        users, apps, tastes = self._population.users, self._population.apps, self._population.parameters.tastes
        self._own = np.concatenate([self._own, users.latents[len(self._own) :]])
        shared = self._segment_latents[users.segments]
        self._latents = SEGMENT_SHARE * shared + np.sqrt(1 - SEGMENT_SHARE**2) * self._own
        self._latents *= tastes.latent / np.sqrt(DIMENSIONS)
        appeal = tastes.quality * apps.quality + tastes.novelty * np.exp(-(day - apps.released_days) / 7)
        appeal += season[apps.categories]
        for app, strength in hits.items():
            appeal[app] += strength
        segments = self._segment_tastes[:, apps.categories] + appeal
        price = tastes.price * np.log1p(apps.prices) * COUNTRY_PRICE[:, None]
        self._table = (segments[:, None] - price).reshape(-1, len(appeal)) + self._intercept
        self._groups = users.segments * len(COUNTRY_PRICE) + users.countries

    def tastes(self) -> F64:
        """[U, A] log-odds that come from tastes alone."""
        users, apps = self._population.users, self._population.apps
        return np.asarray(self._segment_tastes[:, apps.categories][users.segments] + self._latents @ apps.latents.T)

    def log_odds(self, visits: Visits, apps: I64) -> F64:
        """[B, n] log-odds of apps [B, n] for visits [B], if examined."""
        population = self._population
        tastes, users = population.parameters.tastes, population.users
        of = visits.users[:, None]
        logits = self._table[self._groups[visits.users][:, None], apps]
        logits += self._context[
            (visits.devices * HOURS_A_WEEK + visits.hours)[:, None], population.apps.categories[apps]
        ]
        logits += (self._latents[of] * population.apps.latents[apps]).sum(axis=-1)
        logits += tastes.intercept * users.intercepts[of]
        logits += population.parameters.pairs.weight * population.wants[of, apps]
        logits -= tastes.too_young * (population.apps.ratings[apps] > users.ages[of])
        return logits

    def calibrate(self, visits: Visits, apps: I64, rate: float) -> None:
        """Set the common intercept such that the mean probability of these apps [B, n] is `rate`, by bisection."""
        logits = self.log_odds(visits, apps) - self._intercept
        low, high = -30.0, 30.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if sigmoid(logits + middle).mean() < rate else (low, middle)
        self._table += middle - self._intercept
        self._intercept = middle


def sigmoid(logits: F64) -> F64:
    """Probabilities of log-odds."""
    return np.asarray(1 / (1 + np.exp(-logits)))


def _waves(rng: np.random.Generator, size: float) -> F64:
    """[168, K] log-odds by hour of the week and category: a daily wave and a level by weekday, without a mean."""
    hours, categories = np.arange(HOURS_A_WEEK), len(names.CATEGORIES)
    peaks = rng.uniform(0, 24, categories)
    daily = np.sqrt(2) * np.cos(2 * np.pi * (hours[:, None] % 24 - peaks) / 24)
    weekdays = rng.standard_normal((7, categories))
    return np.asarray(size * (daily + (weekdays - weekdays.mean(axis=0))[hours // 24]) / np.sqrt(2))
