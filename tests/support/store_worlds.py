"""Small app stores that tests play, and rankings to play them with."""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np

from producers.source import WorldEvent
from producers.store.pages import Outcomes, PageBatch
from producers.store.parameters import (
    START_MS,
    AppParameters,
    PairParameters,
    StoreParameters,
    TrafficParameters,
    UserParameters,
)
from producers.store.world import StoreWorld
from stream.events.types import Impression
from stream.tables.dtypes import F64, I64

Ranking = Callable[[PageBatch, F64], I64]
SMALL = StoreParameters(
    base_rate=0.05,
    users=UserParameters(count=800),
    apps=AppParameters(count=400, developers=80),
    pairs=PairParameters(sources=30),
    traffic=TrafficParameters(pages_a_day=6_000, gap_s=600),
)
DAY = 100_000  # ms of event time


def changed(parameters: StoreParameters = SMALL, **groups: Any) -> StoreParameters:
    """These parameters with other values: a dict changes fields of a group."""
    new = {
        name: msgspec.structs.replace(getattr(parameters, name), **value) if isinstance(value, dict) else value
        for name, value in groups.items()
    }
    return msgspec.structs.replace(parameters, **new)


def at_random(pages: PageBatch, probabilities: F64) -> I64:
    """Ten random candidates in random order; the same for a page in whatever batch."""
    return np.array([np.random.default_rng(n).permutation(probabilities.shape[1])[:10] for n in pages.numbers.tolist()],
                    np.int64).reshape(-1, 10)  # fmt: skip


def by_popularity(pages: PageBatch, probabilities: F64) -> I64:
    """The ten that the store has seen installed most."""
    return np.argsort(-pages.popularity, axis=1, kind="stable")[:, :10]


def by_truth(pages: PageBatch, probabilities: F64) -> I64:
    """The ten that the user wants most: the oracle."""
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :10]


class Played(NamedTuple):
    """What was asked, what came of it, and the events; columns over all pages."""

    pages: PageBatch
    shown: I64  # [pages, 10]
    probabilities: F64  # [pages, 10] of what was shown
    outcomes: Outcomes
    expected: F64  # [pages] installs
    events: list[WorldEvent]
    batches: int

    @property
    def apps(self) -> I64:
        """[pages, 10] what was shown."""
        return np.take_along_axis(self.pages.candidates, self.shown, axis=1)


def play(world: StoreWorld, ranking: Ranking, until_ms: int = START_MS + DAY, pages_max: int = 32) -> Played:
    """Play the world until this event time; the events include those that are on their way then."""
    steps, events = [], list[WorldEvent]()
    while len((pages := world.next_pages(until_ms, pages_max)).numbers):
        probabilities = world.probabilities(pages)
        shown = ranking(pages, probabilities)
        outcomes = world.show(pages, shown)
        steps.append((pages, shown, np.take_along_axis(probabilities, shown, axis=1), outcomes,
                      world.expected_installs(probabilities, shown)))  # fmt: skip
        for b in range(len(pages.numbers)):
            items = pages.items(b)
            world.post(
                Impression(pages.request_id(b), int(pages.times_ms[b]), pages.user(b), [items[i] for i in shown[b]],
                           context=pages.context(b)),
                int(pages.times_ms[b]),
            )  # fmt: skip
        events += world.due(until_ms)
    events += world.drain()
    all_pages, shown_all, probabilities_all, outcomes_all, expected = zip(*steps, strict=True)
    columns: list[Any] = [np.concatenate(column) for column in zip(*(page[:-1] for page in all_pages), strict=True)]
    return Played(
        PageBatch(*columns),
        np.concatenate(shown_all),
        np.concatenate(probabilities_all),
        Outcomes(*(np.concatenate(column) for column in zip(*outcomes_all, strict=True))),
        np.concatenate(expected),
        events,
        len(steps),
    )
