"""Recall of retrieval on MovieLens-100k: is a user's next install among the 100 candidates of a request?

Progressive: each install is looked for among candidates from what came in strictly earlier seconds, without what the
user installed by then (what they were shown stays); then it is learned. Our candidates are those of a version, which
is published every hundred installs, and oftener while there are few (`thalweg/backtest/local_retrieval.py`); peers are
refitted every 10,000 ratings (`retrieve_peers.py`), and know popularity as of now. An install of an item that
the user has already counts as missed.

`alone`: the source's own hundred, not filled up. `adds`: recall with all sources less recall without this one, its
quota left to the others. Both on every fifth install.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from rich.console import Group
from rich.progress import track
from rich.table import Table

from benchmarks import retrieve_latency
from benchmarks.retrieve_peers import PEERS, RefittedPeers
from producers.movielens import fetch_movielens, read_movielens
from producers.source import WorldEvent
from stream.events.types import Impression, Install, Item
from stream.runtime.settings import Settings
from stream.spec.retrieval import SOURCES, Retrieval
from stream.spec.spec_file import load_spec
from thalweg.backtest.local_retrieval import LocalRetrieval

COUNT: Final = 100
REFIT: Final = 10_000  # ratings
SAMPLE: Final = 5
QUICK: Final = 10  # times as few installs are looked for
ALL: Final = Retrieval(together=70, neighbours=30, same_by=["item.genres"])
KEPT: Final = msgspec.structs.replace(ALL, same=1)  # what the service keeps: `same` needs lists
TITLES: Final = {
    "popular": "popular",
    "item_knn": "item-kNN, cosine",
    "recent_knn": "item-kNN, recent items first",
    "ease": "EASE",
    "recent_ease": "EASE, recent items first",
}


class Rating(NamedTuple):
    """What a user was shown, when (s), and whether they installed it."""

    user: str
    item: str
    time_s: int
    is_install: bool


def ratings_of(events: Sequence[WorldEvent]) -> list[Rating]:
    """Pages of one item, in order; a page's install counts at the page's second."""
    installed = {event.request_id for event in events if isinstance(event, Install)}
    return [
        Rating(event.user, event.items[0], event.time_ms // 1_000, event.request_id in installed)
        for event in events
        if isinstance(event, Impression)
    ]


def only(source: str) -> Retrieval:
    """A single source."""
    return msgspec.structs.replace(Retrieval(same_by=ALL.same_by), **{source: COUNT})


def without(source: str) -> Retrieval:
    """All sources but one, whose quota the first of the others has."""
    quotas: dict[str, int] = {one: quota for one, quota in ALL.quotas().items() if quota and one != source}
    first = next(iter(quotas))
    return msgspec.structs.replace(ALL, **{source: 0, first: quotas[first] + getattr(ALL, source)})


class Recall:
    """Shares of hits by name."""

    def __init__(self) -> None:
        self._hits: dict[str, int] = defaultdict(int)
        self._tries: dict[str, int] = defaultdict(int)

    def add(self, name: str, is_hit: bool) -> None:
        """Count a try."""
        self._hits[name] += is_hit
        self._tries[name] += 1

    def shares(self) -> dict[str, float]:
        """Hits over tries."""
        return {name: self._hits[name] / tries for name, tries in self._tries.items()}


def measured(items: Sequence[Item], ratings: Sequence[Rating], every: int) -> Recall:
    """Recall of everyone, of every `every`-th install."""
    spec, recall = load_spec(Path("specs/movielens.toml")), Recall()
    retrieval, peers = LocalRetrieval(spec, KEPT), RefittedPeers(len(items))
    for item in items:
        retrieval.describe(item)
    numbers = {item.item: n for n, item in enumerate(items)}
    histories: dict[str, list[str]] = defaultdict(list)
    seen = installs = 0
    seconds = [list(same) for _, same in groupby(ratings, key=lambda rating: rating.time_s)]
    for second in track(seconds, "MovieLens"):
        retrieval.publish(1_000 * second[0].time_s)
        for rating in second:
            installs += rating.is_install
            if rating.is_install and installs % every == 0:
                look_for(rating, histories[rating.user], retrieval, recall, is_sampled=installs // every % SAMPLE == 0)
                own = [numbers[item] for item in histories[rating.user]]
                for peer, rank in peers.ranks(own, numbers[rating.item]).items():
                    recall.add(peer, rank < COUNT and rating.item not in histories[rating.user])
        for rating in second:
            if rating.is_install:
                histories[rating.user].append(rating.item)
                peers.installs[numbers[rating.item]] += 1
        learn(second, retrieval)
        if (seen + len(second)) // REFIT > seen // REFIT:
            peers.refit([[numbers[item] for item in history] for history in histories.values()])
        seen += len(second)
    return recall


def learn(ratings: Sequence[Rating], retrieval: LocalRetrieval) -> None:
    """Learn what was shown and installed."""
    retrieval.show([rating.item for rating in ratings])
    for rating in ratings:
        if rating.is_install:
            retrieval.install(Install(rating.user, rating.item, 1_000 * rating.time_s, ""))


def look_for(
    rating: Rating, history: list[str], retrieval: LocalRetrieval, recall: Recall, *, is_sampled: bool
) -> None:
    """Count whether the installed item is among our candidates; of a sampled install, by source."""
    recall.add("ours", rating.item in retrieval.candidates(history, settings=ALL).names)
    if not is_sampled:
        return
    recall.add("ours, sampled", rating.item in retrieval.candidates(history, settings=ALL).names)
    for source in SOURCES:
        found = retrieval.candidates(history, settings=only(source))
        own = {name for name, by in zip(found.names, found.sources, strict=True) if by == source}
        recall.add(f"{source}, alone", rating.item in own)
        recall.add(f"{source}, filled up", rating.item in found.names)
    for left_out in used():
        recall.add(
            f"without {left_out}", rating.item in retrieval.candidates(history, settings=without(left_out)).names
        )


def used() -> Iterator[str]:
    """Sources with a quota."""
    return (source for source, quota in ALL.quotas().items() if quota)


def run(*, quick: bool) -> tuple[Group, dict[str, float]]:
    """The tables and the figures: recall, and how long retrieval takes."""
    events = list(read_movielens(fetch_movielens(Settings.load(with_stack=False).data, print)))
    items = [event for event in events if isinstance(event, Item)]
    found = measured(items, ratings_of(events), QUICK if quick else 1).shares()
    figures = {"recall_100": found["ours"], "recall_100_peer": max(found[peer] for peer in PEERS)}
    figures |= {f"recall_100_{peer}": found[peer] for peer in ("popular", *PEERS)}
    figures |= {f"recall_100_{source}": found[f"{source}, alone"] for source in SOURCES if source != "popular"}
    figures |= {f"recall_100_{source}_filled": found[f"{source}, filled up"] for source in SOURCES}
    figures |= {f"recall_100_{source}_adds": found["ours, sampled"] - found[f"without {source}"] for source in used()}
    latency, taken = retrieve_latency.run(quick=quick)
    return Group(_table(found), latency), figures | taken


def _table(found: dict[str, float]) -> Table:
    table = Table(title="a user's next install among 100 candidates, MovieLens-100k")
    for column in ("retrieved by", "recall@100", "filled up by popular", "adds"):
        table.add_column(column, justify="left" if column == "retrieved by" else "right")
    quotas = " + ".join(f"{source} {quota}" for source, quota in ALL.quotas().items() if quota)
    table.add_row(f"ours: {quotas}", "", f"[bold]{found['ours']:.3f}[/bold]", "")
    for source in SOURCES:
        adds = found["ours, sampled"] - found[f"without {source}"] if source in used() else None
        table.add_row(
            f"  {source}",
            f"{found[f'{source}, alone']:.3f}",
            f"{found[f'{source}, filled up']:.3f}",
            "" if adds is None else f"{adds:+.3f}",
        )
    table.add_section()
    for peer, title in TITLES.items():
        refitted = "" if peer == "popular" else ", refitted every 10,000 ratings"
        table.add_row(title + refitted, "", f"{found[peer]:.3f}", "")
    return table
