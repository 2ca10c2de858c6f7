"""Users and apps: how they are made, arrive and leave, and what users have."""

from typing import Final, NamedTuple

import numpy as np

from producers.store import names
from producers.store.draws import Purpose, generator
from producers.store.parameters import HOUR_MS, AppParameters, StoreParameters, UserParameters
from stream.tables.dtypes import F64, I64, Bools

DIMENSIONS: Final = 8  # of latent tastes
TAGS_MAX: Final = 4  # of an app
TAGS_A_CATEGORY: Final = 6  # that most of its apps' tags come from
AGE_MEAN_DAYS: Final = 200.0  # of apps at the start: as if they had always arrived and left at half a percent a day
HISTORY_DAYS: Final = 30.0  # in which users installed what they have at the start
OWNED_MAX: Final = 100  # apps of a user at the start
COUNTRY_PRICE: Final = np.linspace(0.5, 1.5, len(names.COUNTRIES))  # sensitivity to prices, by country
COUNTRY_SHARES: Final = 1 / np.arange(1, len(names.COUNTRIES) + 1)
DEVICE_SHARES: Final = np.array([0.75, 0.15, 0.1])


class Structure(NamedTuple):
    """What users and apps have in common; S segments, K categories, D developers, T tags."""

    category_latents: F64  # (K, 8)
    category_tags: I64  # (K, 6)
    developer_latents: F64  # (D, 8)
    developer_categories: I64  # (D,): most of a developer's apps are of one category
    tag_latents: F64  # (T, 8)
    segment_latents: F64  # (S, 8)
    segment_ages: F64  # (S,) means
    segment_countries: F64  # (S, countries) shares
    segment_devices: F64  # (S, devices) shares


class UserTable(NamedTuple):
    """Users in columns of length U."""

    segments: I64
    ages: F64
    countries: I64
    devices: I64  # the main one
    activity: F64
    intercepts: F64  # standard normal
    latents: F64  # (U, 8), standard normal: the user's own part


class AppTable(NamedTuple):
    """Apps in columns of length A."""

    categories: I64
    developers: I64
    prices: F64
    ratings: I64  # age
    released_days: F64  # in world time since the start; before it negative
    quality: F64  # standard normal
    latents: F64  # (A, 8), components of variance 1
    tags: I64  # (A, 4), -1: none
    words: I64  # (A, 3) of the title


def make_structure(parameters: StoreParameters, seed: int) -> Structure:
    """What users and apps are drawn from."""
    rng = generator(seed, Purpose.STRUCTURE)
    categories, segments = len(names.CATEGORIES), parameters.users.segments
    developers = parameters.apps.developers
    return Structure(
        rng.standard_normal((categories, DIMENSIONS)),
        rng.permuted(np.tile(np.arange(len(names.TAGS)), (categories, 1)), axis=1)[:, :TAGS_A_CATEGORY],
        rng.standard_normal((developers, DIMENSIONS)),
        rng.integers(0, categories, developers),
        rng.standard_normal((len(names.TAGS), DIMENSIONS)),
        rng.standard_normal((segments, DIMENSIONS)),
        np.linspace(17, 60, segments),
        rng.dirichlet(4 * COUNTRY_SHARES, segments),
        rng.dirichlet(12 * DEVICE_SHARES, segments),
    )


def make_users(structure: Structure, parameters: UserParameters, count: int, rng: np.random.Generator) -> UserTable:
    """`count` new users."""
    segments = rng.integers(0, len(structure.segment_ages), count)
    return UserTable(
        segments,
        np.clip(np.round(rng.normal(structure.segment_ages[segments], 8)), 10, 90),
        _choose(structure.segment_countries[segments], rng),
        _choose(structure.segment_devices[segments], rng),
        np.exp(rng.normal(0, parameters.activity_sigma, count)),
        rng.standard_normal(count),
        rng.standard_normal((count, DIMENSIONS)),
    )


def make_apps(
    structure: Structure, parameters: AppParameters, released_days: F64, rng: np.random.Generator
) -> AppTable:
    """An app for each day of release."""
    count = len(released_days)
    developers = rng.integers(0, parameters.developers, count)
    categories = np.where(
        rng.random(count) < 0.7,
        structure.developer_categories[developers],
        rng.integers(0, len(structure.category_latents), count),
    )
    own = rng.permuted(structure.category_tags[categories], axis=1)[:, :TAGS_MAX]
    # A tag in four isn't of the category; it may repeat one that is, and then it's left out.
    tags = np.where(rng.random(own.shape) < 0.75, own, rng.integers(0, len(names.TAGS), own.shape))
    repeated = (np.tril(tags[:, :, None] == tags[:, None, :], -1)).any(axis=2)
    tags[(np.arange(TAGS_MAX) > rng.integers(0, TAGS_MAX, count)[:, None]) | repeated] = -1
    counted = (tags >= 0)[:, :, None]
    of_tags = (structure.tag_latents[tags] * counted).sum(axis=1) / np.sqrt(counted.sum(axis=1))
    return AppTable(
        categories,
        developers,
        np.where(rng.random(count) < parameters.paid, rng.choice([0.99, 1.99, 2.99, 4.99, 9.99], count), 0.0),
        rng.choice(names.AGE_RATINGS, count, p=[0.6, 0.15, 0.15, 0.1]),
        released_days,
        rng.standard_normal(count),
        0.6 * structure.category_latents[categories]
        + 0.4 * structure.developer_latents[developers]
        + 0.4 * of_tags
        + 0.55 * rng.standard_normal((count, DIMENSIONS)),
        tags,
        rng.integers(0, 2**31, (count, 3)),
    )


def _choose(shares: F64, rng: np.random.Generator) -> I64:
    """One column a row, by shares [n, columns]."""
    return np.asarray((rng.random((len(shares), 1)) > shares.cumsum(axis=1)[:, :-1]).sum(axis=1))


class Population:
    """Users and apps that there are and were, by index; who is there; and what users have, want and will have.

    `taken[u, a]`: the user has the app or is loading it. `wants[u, a]`: the user has an app whose target this is.
    Both matrices have spare rows and columns.
    """

    def __init__(self, parameters: StoreParameters, seed: int) -> None:
        self.parameters, self._seed = parameters, seed
        self.structure = make_structure(parameters, seed)
        users, apps = parameters.users, parameters.apps
        self.users = make_users(self.structure, users, users.count, generator(seed, Purpose.USERS))
        rng = generator(seed, Purpose.APPS)
        self.apps = make_apps(self.structure, apps, -rng.exponential(AGE_MEAN_DAYS, apps.count), rng)
        self.users_here = np.ones(users.count, bool)
        self.apps_here = np.ones(apps.count, bool)
        self.taken: Bools = np.zeros((users.count + 256, apps.count + 256), bool)
        self.wants = self.taken.copy()
        self.targets: dict[int, I64] = {}
        self._loading: dict[int, list[tuple[float, int]]] = {}

    def move(self, hour: int) -> tuple[I64, I64]:
        """Arrivals and departures of an hour of world time; indices of new users and new apps."""
        users, apps = self.parameters.users, self.parameters.apps
        rng = generator(self._seed, Purpose.LEAVING, hour)
        self.users_here &= rng.random(len(self.users_here)) >= users.leaving_a_day / 24
        self.apps_here &= rng.random(len(self.apps_here)) >= apps.leaving_a_day / 24
        new_users = np.arange(rng.poisson(users.count * users.new_a_day / 24)) + len(self.users_here)
        new_apps = np.arange(rng.poisson(apps.count * apps.new_a_day / 24)) + len(self.apps_here)
        if len(new_users):
            made = make_users(self.structure, users, len(new_users), generator(self._seed, Purpose.USERS, hour + 1))
            self.users = UserTable._make(map(np.concatenate, zip(self.users, made, strict=True)))
            self.users_here = np.append(self.users_here, np.ones(len(new_users), bool))
        if len(new_apps):
            released = np.full(len(new_apps), hour / 24)
            more = make_apps(self.structure, apps, released, generator(self._seed, Purpose.APPS, hour + 1))
            self.apps = AppTable._make(map(np.concatenate, zip(self.apps, more, strict=True)))
            self.apps_here = np.append(self.apps_here, np.ones(len(new_apps), bool))
        if self.taken.shape[0] < len(self.users_here) or self.taken.shape[1] < len(self.apps_here):
            spare = ((0, len(self.users_here) // 4), (0, len(self.apps_here) // 4))
            self.taken, self.wants = np.pad(self.taken, spare), np.pad(self.wants, spare)
        return new_users, new_apps

    def load(self, user: int, app: int, world_ms: float, lasts: bool) -> None:
        """The user begins to load an app, which is installed at `world_ms`; what it makes them want lasts or not."""
        self.taken[user, app] = True
        if lasts and app in self.targets:
            self._loading.setdefault(user, []).append((world_ms, app))

    def settle(self, user: int, world_ms: float) -> None:
        """What the user has loaded by now has its effect on what they want."""
        loading = self._loading.get(user)
        if not loading:
            return
        for installed_ms, app in loading:
            if installed_ms <= world_ms:
                self.wants[user, self.targets[app]] = True
        waiting = [entry for entry in loading if entry[0] > world_ms]
        if waiting:
            self._loading[user] = waiting
        else:
            del self._loading[user]

    def draw_pairs(self, reach: F64) -> None:
        """Choose sources by reach [A], and targets among the less wanted apps, whatever their categories."""
        pairs = self.parameters.pairs
        if not pairs.sources:
            return
        rng = generator(self._seed, Purpose.OWNED, 1)
        count = min(pairs.sources, len(reach) // 4)
        sources = rng.choice(len(reach), count, replace=False, p=reach / reach.sum())
        plain = np.setdiff1d(np.flatnonzero(self.apps.quality < np.median(self.apps.quality)), sources)
        chosen = rng.choice(plain, (count, min(pairs.targets, len(plain))))
        self.targets = {int(source): np.unique(own) for source, own in zip(sources, chosen, strict=True)}


class Owned(NamedTuple):
    """What users have at the start, in columns: who, which app, how long before the start in world ms."""

    users: I64
    apps: I64
    ages_ms: F64


def draw_reach(population: Population, seed: int) -> F64:
    """[A] Zipf weights by rank; good apps rank higher, with as much luck as merit."""
    rng = generator(seed, Purpose.OWNED)
    quality = population.apps.quality
    ranks = np.argsort(np.argsort(-(quality + rng.standard_normal(len(quality)))))
    return np.asarray((1.0 + ranks) ** -population.parameters.apps.zipf)


def draw_owned(population: Population, reach: F64, tastes: F64, seed: int) -> Owned:
    """Users install apps by reach [A] and tastes [U, A] (log-odds); some have what these make them want, too."""
    rng = generator(seed, Purpose.OWNED, 2)
    counts = np.minimum(rng.geometric(1 / population.parameters.users.owned_mean, len(tastes)), OWNED_MAX)
    # The best of log weight + Gumbel noise are a draw without replacement.
    noisy = tastes + np.log(reach) - np.log(-np.log(rng.random(tastes.shape)))
    best = np.argsort(-noisy, axis=1)[:, :OWNED_MAX]
    taken, wants = population.taken, population.wants
    rows, columns = np.nonzero(np.arange(OWNED_MAX) < counts[:, None])
    taken[rows, best[rows, columns]] = True
    for source, targets in population.targets.items():
        wants[np.flatnonzero(taken[:, source])[:, None], targets] = True
    shape = tastes.shape
    taken[: shape[0], : shape[1]] |= wants[: shape[0], : shape[1]] & (
        rng.random(shape) < population.parameters.pairs.owned
    )
    users, apps = np.nonzero(taken)
    days = np.minimum(-population.apps.released_days[apps], HISTORY_DAYS)
    return Owned(users, apps, rng.random(len(users)) * days * 24 * HOUR_MS)
