"""The store in closed loop with one way to explore: what it earns, and how soon new apps are known.

All users are served by Wide & Deep of `specs/store.toml`; worlds are the same but for what is shown. A twentieth of the
catalogue is new each day, ten times the store's usual rate, so that a short run sees enough of them. Candidates are
the world's own: 60 popular apps, the 15 newest, 25 random ones.

*Rank error* of a new app: its mean rank by the live model less its mean rank by the true probabilities, on pages whose
candidates it is one of, in percent of the candidates; pages are grouped by the impressions that it had by then.
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
from stream.features.page_features import words_of
from stream.spec.explore import Explore
from stream.spec.spec_file import load_spec
from stream.tables.dtypes import F64, I64
from thalweg.experiment.closed_loop import ClosedLoop
from thalweg.experiment.traffic_scores import ScoredTraffic

PRESET: Final = "common"
NEW_A_DAY: Final = 0.05
ARM: Final = "wide_deep"
EDGES: Final = (0, 1, 3, 10, 30, 100, 300)  # impressions from which groups begin
PAGES_MIN: Final = 10  # of an app in a group
KNOWN: Final = 10.0  # rank error in %
TRIED, TRIED_HOURS = 10, 6  # impressions of an app that was tried, and within how long


@dataclass
class NewApps:
    """New apps of a run: their impressions, and the rank errors of pages that have them as candidates."""

    loop: ClosedLoop
    first: int  # the first new app's index
    impressions: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))  # event times, by app
    seen_ms: dict[int, int] = field(default_factory=dict)  # when it first was a candidate
    errors: dict[tuple[int, int], list[float]] = field(default_factory=lambda: defaultdict(list))  # by app and group

    def add(self, shown: ShownPages) -> None:
        """Take pages that were shown."""
        for app in np.unique(shown.pages.candidates[shown.pages.candidates >= self.first]):
            self.seen_ms.setdefault(int(app), int(shown.pages.times_ms[0]))
        for b, page in shown.whole.items():
            words = words_of(page.features, self.loop.served[ARM].model.layout, len(page.candidates)).copy()
            ranked = self.loop.served[ARM].score(words).astype(np.float64)
            apps = shown.pages.candidates[b, page.candidates]
            true = shown.probabilities[b, page.candidates]
            error = 100 * (_ranks(ranked) - _ranks(true)) / len(apps)
            for i in np.flatnonzero(apps >= self.first):
                group = int(np.searchsorted(EDGES, len(self.impressions[int(apps[i])]), side="right")) - 1
                self.errors[int(apps[i]), group].append(float(error[i]))
        items = np.take_along_axis(shown.pages.candidates, shown.shown, 1)
        for time_ms, page_items in zip(shown.pages.times_ms, items, strict=True):
            for app in page_items[page_items >= self.first]:
                self.impressions[int(app)].append(int(time_ms))

    def rank_errors(self) -> F64:
        """By group, the median over apps of their mean rank error's size; NaN of fewer than five apps. [len(EDGES)]."""
        found = np.full(len(EDGES), np.nan)
        for group in range(len(EDGES)):
            means = [abs(np.mean(e)) for (_, g), e in self.errors.items() if g == group and len(e) >= PAGES_MIN]
            if len(means) >= 5:
                found[group] = np.median(means)
        return found

    def tried_share(self, within_ms: float) -> float:
        """Of the apps that came this long before the end, or earlier, the % that had TRIED impressions within it."""
        old = {app: seen for app, seen in self.seen_ms.items() if seen <= self.loop.clock.time_ms - within_ms}
        tried = [sum(t <= seen + within_ms for t in self.impressions[app]) >= TRIED for app, seen in old.items()]
        return 100 * float(np.mean(tried)) if tried else math.nan


@dataclass(frozen=True)
class Explored:
    """A run's figures. `gap_closed`: of the gap from popularity to the oracle, %; `late`: in the second half alone."""

    gap_closed: float
    gap_closed_late: float
    regret: float  # expected installs a 1,000 items below the oracle's
    tried: float  # % of new apps
    rank_errors: F64
    known_after: float  # impressions, the beginning of a group; NaN: in none


def explored(explore: Explore, seed: int, pages: int) -> Explored:
    """Play the store by this way to explore."""
    usual = preset(PRESET)
    apps = msgspec.structs.replace(usual.apps, new_a_day=NEW_A_DAY)
    parameters = msgspec.structs.replace(usual, apps=apps)
    spec = msgspec.structs.replace(load_spec(Path("specs/store.toml")), explore=explore)
    loop = ClosedLoop(spec, StoreWorld(parameters, seed=seed), [ARM], lambda user: ARM, seed)
    new = NewApps(loop, parameters.apps.count)
    loop.on_shown = new.add
    traffic = loop.run(pages)
    errors = new.rank_errors()
    known = [edge for edge, error in zip(EDGES, errors, strict=True) if error <= KNOWN]
    half = slice(len(traffic.arm) // 2, None)
    return Explored(
        _gap_closed(traffic, slice(None)), _gap_closed(traffic, half),
        1_000 * float((traffic.oracle - traffic.expected).mean()) / PAGE_ITEMS,
        new.tried_share(TRIED_HOURS * HOUR_MS / parameters.compress), errors, float(known[0]) if known else math.nan,
    )  # fmt: skip


def _gap_closed(traffic: ScoredTraffic, part: slice) -> float:
    popular, oracle = traffic.popular[part].sum(), traffic.oracle[part].sum()
    return float(100 * (traffic.expected[part].sum() - popular) / (oracle - popular))


def _ranks(scores: F64) -> I64:
    """Of each, how many score higher."""
    return np.argsort(np.argsort(-scores, kind="stable"), kind="stable")
