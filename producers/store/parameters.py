"""What the world is made of. Each number has its reason in docs/store.md; none was chosen by a model's outcome."""

from typing import Annotated, Final, Literal, get_args

import msgspec
import numpy as np
from msgspec import Meta

from stream.runtime.errors import DataError
from stream.spec.suggestions import near
from stream.tables.dtypes import F64

START_MS: Final = 1_767_571_200_000  # 2026-01-05T00:00Z, a Monday
DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000

Preset = Literal["common", "usual", "rare"]
BASE_RATES: Final[dict[Preset, float]] = {"common": 0.05, "usual": 0.01, "rare": 0.001}

Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Whole = Annotated[int, Meta(ge=1)]


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the groups of parameters."""


class UserParameters(Group, frozen=True):
    """Users: how many, how active, what they own. Shares a day are of the users at the start."""

    count: Whole = 4_000
    segments: Whole = 6
    new_a_day: NotNegative = 0.01
    leaving_a_day: Share = 0.01
    activity_sigma: NotNegative = 1.0  # of the log of a user's sessions
    owned_mean: Positive = 12.0  # apps that a user has at the start
    main_device: Share = 0.85  # of sessions; the others are on another device


class AppParameters(Group, frozen=True):
    """Apps: how many, by whom, how unequal. Shares a day are of the apps at the start."""

    count: Whole = 2_000
    developers: Whole = 400
    new_a_day: NotNegative = 0.005
    leaving_a_day: Share = 0.005
    zipf: NotNegative = 1.0  # exponent of the installs at the start, by rank
    paid: Share = 0.1


class TasteParameters(Group, frozen=True):
    """Standard deviations of the terms of the log-odds, and how fast tastes drift."""

    segment: NotNegative = 0.6  # segment × category
    latent: NotNegative = 0.7  # user · app, 8 dimensions
    intercept: NotNegative = 0.5  # the user's own
    quality: NotNegative = 0.7  # the app's own
    hour: NotNegative = 0.25  # hour × category, weekday × category
    device: NotNegative = 0.2  # device × category
    price: NotNegative = 0.8  # log-odds lost per log(1 + price), times the country's sensitivity
    too_young: NotNegative = 2.0  # log-odds lost by an age rating above the user's age
    novelty: NotNegative = 0.3  # log-odds gained on the day of release, a week later a third of it
    half_life_days: Positive = 60.0  # after which a taste's correlation with what it was is 1/2


class PairParameters(Group, frozen=True):
    """Specific pairs: whoever has the source wants the target, which others want less than the average app."""

    sources: Annotated[int, Meta(ge=0)] = 100
    targets: Whole = 2  # of each source
    weight: NotNegative = 3.0  # log-odds gained
    owned: Share = 0.3  # of the wanted targets, already had at the start


class TrafficParameters(Group, frozen=True):
    """When users come, and how long they stay."""

    pages_a_day: Positive = 10_000.0
    session_pages: Annotated[float, Meta(ge=1)] = 3.0  # mean, geometric
    gap_s: Positive = 60.0  # median between a session's pages, lognormal
    gap_sigma: NotNegative = 0.8
    daily_wave: Share = 0.6  # amplitude, highest at 20 h
    weekend: Positive = 1.15  # times as much traffic as on other days


class PageParameters(Group, frozen=True):
    """What a page shows and is chosen from, and how far down users look."""

    items: Whole = 10
    examination: NotNegative = 0.5  # position k (from 1) is examined with probability k^-examination
    popular: Annotated[int, Meta(ge=0)] = 60
    new: Annotated[int, Meta(ge=0)] = 15
    random: Annotated[int, Meta(ge=0)] = 25
    popularity_half_life_days: Positive = 7.0

    @property
    def candidates(self) -> int:
        """Candidates of a page."""
        return self.popular + self.new + self.random


class ReportParameters(Group, frozen=True):
    """How installs are reported: delays, retractions, duplicates, late events. In world time."""

    delay_shares: tuple[float, ...] = (0.0, 0.29, 0.59, 0.73, 0.93, 1.0)  # of the installs ...
    delay_s: tuple[float, ...] = (1.0, 60.0, 600.0, 3_600.0, 21_600.0, 172_800.0)  # ... within so long
    retracted: Share = 0.02
    retracted_after_s: tuple[float, float] = (3_600.0, 86_400.0)  # log-uniform
    duplicated: Share = 0.01  # half of them at once
    duplicate_after_s: tuple[float, float] = (60.0, 600.0)  # the other half, log-uniform
    late: Share = 0.01
    late_by_s: tuple[float, float] = (2.0, 60.0)  # log-uniform
    named: Share = 0.9  # of the installs name their page

    def delays_s(self, shares: F64) -> F64:
        """Within how many s of world time these shares of the installs come; log-linear between those declared."""
        return np.asarray(np.exp(np.interp(shares, self.delay_shares, np.log(self.delay_s))))


class StoreParameters(Group, frozen=True):
    """All parameters. World time runs `compress` times faster than event time.

    `base_rate` is the share of installs among shown items of pages of random candidates in random order, at the start.
    """

    base_rate: Annotated[float, Meta(gt=0, lt=0.5)] = BASE_RATES["usual"]
    compress: Positive = 864.0  # a day in 100 s
    users: UserParameters = UserParameters()
    apps: AppParameters = AppParameters()
    tastes: TasteParameters = TasteParameters()
    pairs: PairParameters = PairParameters()
    traffic: TrafficParameters = TrafficParameters()
    page: PageParameters = PageParameters()
    reports: ReportParameters = ReportParameters()

    def __post_init__(self) -> None:
        if self.page.items > self.page.candidates:
            raise ValueError(f"a page of {self.page.items} items needs as many candidates")
        if self.apps.count < 3 * self.page.candidates:
            raise ValueError(f"{self.apps.count} apps are too few for pages of {self.page.candidates} candidates: "
                             f"at least {3 * self.page.candidates}")  # fmt: skip


def preset(name: str) -> StoreParameters:
    """The parameters of a base rate by name: common 5 %, usual 1 %, rare 0.1 %. Raises DataError."""
    if name not in get_args(Preset):
        raise DataError(f"no preset {name!r}; {near(name, list(get_args(Preset)))}")
    return StoreParameters(base_rate=BASE_RATES[name])  # type: ignore[index]  # checked above
