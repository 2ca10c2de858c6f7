"""Installs in the store by what is retrieved: the world's own candidates, popular apps, quotas of `specs/store.toml`.

In closed loop what is retrieved decides what is learned, and what is learned decides what is retrieved. All users are
served by Wide & Deep; a hundred candidates a page. `installs` are those to be expected by the store's truth of what was
shown, which differs by chance of the first hours; `best`, of the best ten candidates of each page, is about retrieval
alone. A twentieth of the catalogue is new each day, ten times the store's usual rate; of the apps that were launched,
`tried`, in %, had ten impressions by the end.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Final

import msgspec
import numpy as np
from rich.progress import track
from rich.table import Table

from benchmarks.explore_store import ARM, NEW_A_DAY, PRESET, TRIED
from producers.store import names
from producers.store.pages import PageBatch
from producers.store.parameters import preset
from producers.store.storefront import PAGE_ITEMS
from producers.store.world import StoreWorld
from stream.spec.retrieval import Retrieval
from stream.spec.spec_file import load_spec
from stream.tables.dtypes import F64
from thalweg.experiment.closed_loop import ClosedLoop

STORE: Final = Path("specs/store.toml")


class RetrievedStore(StoreWorld):
    """A world whose pages have the candidates that `retrieve` names by request and user; without it, its own."""

    retrieve: Callable[[str, str], list[str]] | None = None

    def next_pages(self, until_ms: int, pages_max: int = 32) -> PageBatch:
        """See StoreWorld."""
        pages = super().next_pages(until_ms, pages_max)
        if self.retrieve is None or not len(pages.numbers):
            return pages
        found = [self.retrieve(pages.request_id(b), pages.user(b)) for b in range(len(pages.numbers))]
        apps = np.array([[names.app_index(name) for name in of] for of in found])
        return pages._replace(candidates=apps, popularity=self._pools.popularity[apps])

    def probabilities(self, pages: PageBatch) -> F64:
        """See StoreWorld; nothing is installed again while its first install isn't reported yet."""
        taken = self._population.taken[pages.users[:, None], pages.candidates]
        return np.where(taken, 0.0, super().probabilities(pages))


def ways() -> dict[str, Retrieval | None]:
    """What is retrieved, by name; None: the world's own candidates, 60 popular apps, the 15 newest, 25 at random."""
    quotas = load_spec(STORE).retrieval
    without_new = msgspec.structs.replace(quotas, new=0)
    popular = Retrieval(popular_half_life=quotas.popular_half_life)
    return {"world": None, "popular": popular, "quotas_but_new": without_new, "quotas": quotas}


def played(retrieval: Retrieval | None, seed: int, pages: int) -> dict[str, float]:
    """Play the store: expected installs of 1,000 items, as shown and of the best candidates; `tried`."""
    usual = preset(PRESET)
    apps = msgspec.structs.replace(usual.apps, new_a_day=NEW_A_DAY)
    world = RetrievedStore(msgspec.structs.replace(usual, apps=apps), seed)
    spec = msgspec.structs.replace(load_spec(STORE), retrieval=retrieval or Retrieval())
    loop = ClosedLoop(spec, world, [ARM], lambda user: ARM, seed)

    def retrieve(request_id: str, user: str) -> list[str]:
        return loop.served[ARM].retrieved(request_id, loop.histories.newest(user, world.app_count))

    world.retrieve = retrieve if retrieval else None
    traffic = loop.run(pages)
    shown = np.bincount(traffic.items.ravel(), minlength=world.app_count)[apps.count :]
    installs, best = (1_000 * float(of.mean()) / PAGE_ITEMS for of in (traffic.expected, traffic.oracle))
    return {"installs": installs, "best": best, "tried": 100 * float((shown >= TRIED).mean())}


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    seeds, pages = (2, 6_000) if quick else (1, 20_000)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways()}
    for seed, name in track([(seed, name) for seed in range(seeds) for name in found], "stores", transient=True):
        found[name].append(played(ways()[name], seed, pages))
    heads = ("expected installs / 1,000 items", "of the best candidates", "launched apps that were tried, %")
    table = Table("", *heads, title=f"the store by what is retrieved, {seeds} seeds of {pages:,} pages")
    figures = {
        f"{name}_{what}": fmean(one[what] for one in runs) for name, runs in found.items() for what in runs[0]
    }  # fmt: skip
    for name in found:
        table.add_row(name, *(f"{figures[f'{name}_{what}']:.1f}" for what in found[name][0]))
    return table, figures
