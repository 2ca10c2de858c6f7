"""`learn`: a backtest of the shop, whole, with our model or with Vowpal Wabbit in its place."""

import time
from collections import deque
from collections.abc import Iterator
from typing import Final

import numpy as np

from benchmarks.learn_world import BASE_RATE, ITEMS, USERS, items_of, users_of
from producers.source import WorldEvent
from stream.events.types import Impression, Install, User
from stream.spec.spec import Spec
from thalweg.backtest.backtest import Backtest
from thalweg.backtest.entrants import Entrant, ExampleLog, ModelEntrant
from thalweg.backtest.peers import PeerRates, VowpalWabbit

START_MS: Final = 1_700_000_000_000
PAGE_MS: Final = 5_000  # between two pages: 360 are open in a window of 30 minutes
PAGE_ITEMS: Final = 10
DELAY_PAGES: Final = 12  # an install comes a minute after its page


def source(spec: Spec, pages: int, seed: int = 9) -> Iterator[WorldEvent]:
    """All items and users, then pages without features, and installs of one shown item in a hundred."""
    yield from items_of(spec)
    attributes, _ = users_of(spec)
    yield from (User(f"u{u}", attributes[u]) for u in range(USERS))
    random, installs = np.random.default_rng(seed), deque[Install]()
    for n in range(pages):
        time_ms, user = START_MS + n * PAGE_MS, f"u{random.integers(USERS)}"
        while installs and installs[0].time_ms <= time_ms:
            yield installs.popleft()
        shown = np.unique((ITEMS * random.random(4 * PAGE_ITEMS) ** 2).astype(np.int64))
        names = [f"i{i}" for i in random.permutation(shown)[:PAGE_ITEMS].tolist()]
        yield Impression(f"r{n}", time_ms, user, names)
        for position in np.flatnonzero(random.random(PAGE_ITEMS) < BASE_RATE).tolist():
            late_ms = time_ms + DELAY_PAGES * PAGE_MS
            installs.append(Install(user, names[position], late_ms, f"{n}-{position}", f"r{n}"))
    yield from installs


def ours(spec: Spec) -> ModelEntrant:
    """The learner's model."""
    return ModelEntrant(spec, spec.parts, 0)


def wabbit(spec: Spec) -> VowpalWabbit:
    """Vowpal Wabbit in this process, with lines of text made of the same features; FTRL's rates are the spec's."""
    wide = spec.wide
    return VowpalWabbit(spec, PeerRates(wide.alpha, wide.beta, wide.l1, wide.l2))


def backtest_ex_s(spec: Spec, entrant: Entrant, events: list[WorldEvent], pack: int) -> float:
    """Examples learned per second of the whole backtest: entities, features, join, statistics, predicting, learning."""
    backtest = Backtest(spec, [entrant], ExampleLog(), pack)
    begun = time.perf_counter()
    scores = backtest.run(events)
    seconds = time.perf_counter() - begun
    assert not scores.rejected, "an event was rejected"
    return scores.learned / seconds
