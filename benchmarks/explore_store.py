"""The store in closed loop with one way to explore: what that costs and earns within a day.

All users are served by Wide & Deep of `specs/store.toml`; worlds are the same but for what is shown. A twentieth of the
catalogue is new each day, ten times the store's usual rate, so that a short run sees enough of them. Candidates are
the world's own: 60 popular apps, the 15 newest, 25 random ones.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from producers.store.parameters import HOUR_MS, preset
from producers.store.storefront import PAGE_ITEMS, ShownPages
from producers.store.world import StoreWorld
from stream.spec.explore import Explore
from stream.spec.spec_file import load_spec
from stream.tables.dtypes import F64
from thalweg.experiment.closed_loop import ClosedLoop

PRESET: Final = "common"
NEW_A_DAY: Final = 0.05
ARM: Final = "wide_deep"
TRIED, TRIED_HOURS = 10, 6  # impressions of an app that was tried, and within how long


@dataclass
class NewApps:
    """Apps from index `first` on: when each was a candidate first, and when it was shown."""

    first: int
    seen_ms: dict[int, int] = field(default_factory=dict)
    shown_ms: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    now_ms: int = 0

    def add(self, shown: ShownPages) -> None:
        """Take pages that were shown."""
        pages, self.now_ms = shown.pages, int(shown.pages.times_ms[-1])
        for app in np.unique(pages.candidates[pages.candidates >= self.first]):
            self.seen_ms.setdefault(int(app), int(pages.times_ms[0]))
        for time_ms, apps in zip(pages.times_ms, np.take_along_axis(pages.candidates, shown.shown, 1), strict=True):
            for app in apps[apps >= self.first]:
                self.shown_ms[int(app)].append(int(time_ms))

    def tried_share(self, within_ms: float) -> float:
        """Of the apps that came this long before the end, or earlier, the % that had TRIED impressions within it."""
        old = {app: seen for app, seen in self.seen_ms.items() if seen <= self.now_ms - within_ms}
        tried = [sum(t <= seen + within_ms for t in self.shown_ms[app]) >= TRIED for app, seen in old.items()]
        return 100 * float(np.mean(tried)) if tried else math.nan


@dataclass(frozen=True)
class Explored:
    """A run's figures.

    What a page earns makes the next ones poorer, for the oracle too: who has what they want wants less. So `gap_closed`
    of a page's own candidates isn't quite comparable between runs; `installs` of a whole run are.
    """

    installs: float  # expected, of 1,000 shown items
    installs_late: float  # in the second half
    gap_closed: float  # of the gap between popularity and the oracle, %
    tried: float  # % of new apps


def explored(explore: Explore, seed: int, pages: int) -> Explored:
    """Play the store by this way to explore."""
    usual = preset(PRESET)
    apps = msgspec.structs.replace(usual.apps, new_a_day=NEW_A_DAY)
    parameters = msgspec.structs.replace(usual, apps=apps)
    spec = msgspec.structs.replace(load_spec(Path("specs/store.toml")), explore=explore)
    new = NewApps(apps.count)
    loop = ClosedLoop(
        spec, StoreWorld(parameters, seed=seed), [ARM], lambda user: ARM, seed, on_shown=new.add
    )  # fmt: skip
    traffic = loop.run(pages)
    whole, late = traffic.expected, traffic.expected[len(traffic.expected) // 2 :]
    gap_closed = (whole - traffic.popular).mean() / (traffic.oracle - traffic.popular).mean()
    tried = new.tried_share(TRIED_HOURS * HOUR_MS / parameters.compress)
    return Explored(_by_1_000(whole), _by_1_000(late), 100 * float(gap_closed), tried)


def _by_1_000(expected: F64) -> float:
    return 1_000 * float(expected.mean()) / PAGE_ITEMS
