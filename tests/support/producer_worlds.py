"""What the tests of this room share: a small spec, hand-made events, random worlds, a clock that only sleep moves."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from producers.clock import Clock
from producers.source import WorldEvent
from stream.events.types import Examples, Impression, Install, Item, Tick, User
from stream.features.encoder import Batch
from stream.features.item_similarity import Outcomes
from stream.features.page_features import Layout
from stream.features.statistics import Statistics, StatisticsProgram
from stream.spec.spec import Spec
from stream.spec.spec_file import parse_spec

START_MS = 1_700_000_000_000
TEXT = """
name = "tiny"
[user]
id = "category"
age = { type = "number", bands = [30] }
history = { of = "item.id", last = 3 }
[item]
id = "category"
genres = "categories"
[context]
device = "category"
[statistics]
user_rate = { kind = "rate", by = ["user.id"] }
item_rate = { kind = "rate", by = ["item.id"] }
item_seen = { kind = "count", by = ["item.id"] }
user_last = { kind = "since", by = ["user.id"] }
taste = { kind = "residual", by = ["user.id", "item.genres"] }
alike = { kind = "affinity", of = "item.id", to = "user.history", prior = 1 }
[wide]
features = ["user.id"]
[deep]
features = ["statistics.*"]
[label]
policy = "POLICY"
window = "2s"
"""


def tiny_spec(policy: str = "eager") -> Spec:
    """A spec with each kind of statistic and a history of three."""
    return parse_spec(TEXT.replace("POLICY", policy))


def page(name: str, at_ms: int, items: str = "a", user: str = "u", device: str = "") -> Impression:
    """A page `at_ms` after the start; `items` one letter each."""
    context: dict[str, str | float] = {"device": device} if device else {}
    return Impression(name, START_MS + at_ms, user, list(items), context=context)


def install(
    name: str, at_ms: int, item: str = "a", user: str = "u", request_id: str = "", retracted: bool = False
) -> Install:
    """An install `at_ms` after the start."""
    return Install(user, item, START_MS + at_ms, name, request_id, retracted)


def tick(at_ms: int) -> Tick:
    """A tick `at_ms` after the start."""
    return Tick(START_MS + at_ms)


def statistics_of(spec: Spec, emitted: Sequence[Examples]) -> Statistics:
    """Statistics that have learned these examples in one go, each once."""
    statistics, seen = Statistics(StatisticsProgram(spec, Layout(spec))), set()
    words, starts, pages, positions, labels, weights, reasons, times = ([] for _ in range(8))
    at = 0
    for examples in emitted:
        starts.append(at)
        words.append(np.frombuffer(examples.page.features, np.uint64))
        at += len(words[-1])
        for row, example in enumerate(examples.ids):
            if example not in seen:
                seen.add(example)
                pages.append(len(starts) - 1)
                positions.append(examples.positions[row])
                labels.append(float(examples.labels[row]))
                weights.append(examples.weights[row])
                reasons.append(examples.reasons[row])
                times.append(float(examples.page.time_ms))
    if pages:
        batch = Batch(np.concatenate(words), np.array(starts), np.array(pages), np.array(positions))
        statistics.learn(batch, Outcomes(*(np.array(c) for c in (labels, weights, reasons, times))))
    return statistics


_times = st.integers(0, 12_000)
_users = st.sampled_from("uvw")
_items = st.sampled_from("abcd")
_pages = st.builds(  # a request id is one user's: it identifies examples
    lambda n, at_ms, items, user, device: page(f"{user}{n}", at_ms, items, user, device),
    st.integers(0, 20),
    _times,
    st.lists(_items, min_size=1, max_size=3, unique=True).map("".join),
    _users,
    st.sampled_from(["", "phone"]),
)
_installs = st.builds(
    install,
    st.integers(0, 9).map("i{}".format),
    _times,
    _items,
    _users,
    st.just(""),
    st.sampled_from([False] * 4 + [True]),
)
_attributes = st.one_of(
    st.builds(lambda u, age: User(u, {"age": age}), _users, st.sampled_from([20.0, 40.0])),
    st.builds(lambda i, genres: Item(i, {"genres": genres}), _items, st.lists(st.sampled_from("xyz"), unique=True)),
)
_steps = st.one_of(_pages, _pages, _installs, _installs, _attributes, st.builds(tick, _times))


def _ordered(events: list[WorldEvent]) -> list[WorldEvent]:
    return sorted(events, key=lambda e: 0 if isinstance(e, Item | User) else e.time_ms)


# In order of time, as most logs are, or in any order at all.
worlds = st.one_of(st.lists(_steps, max_size=40).map(_ordered), st.lists(_steps, max_size=40))


@dataclass
class Hands:
    """A clock whose time passes only in `sleep`."""

    now_s: float = 1_000.0
    slept: list[float] = field(default_factory=list)
    wall_ms: int = START_MS + 10**9

    def clock(self) -> Clock:
        """It as a replay takes it."""
        return Clock(lambda: self.now_s, self._sleep, lambda: self.wall_ms)

    def _sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept.append(seconds)
        self.now_s += seconds
