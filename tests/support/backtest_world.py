"""A made-up world for backtests: users of two camps, items of two tags; labels follow whether they fit."""

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec

from producers.source import WorldEvent
from stream.events.types import Impression, Install, Item, User
from stream.spec.spec import Spec
from stream.spec.spec_file import parse_spec
from stream.spec.values import PartName
from thalweg.backtest.backtest import Backtest, Scores
from thalweg.backtest.entrants import Entrant, ExampleLog, ModelEntrant

TEXT = """
name = "camps"
[user]
id = "category"
camp = "category"
history = { of = "item.id", last = 5 }
[item]
id = "category"
tags = "categories"
[statistics]
item_rate = { kind = "rate", by = ["item.id"] }
user_last = { kind = "since", by = ["user.id"] }
taste = { kind = "residual", by = ["user.id", "item.tags"], prior = 2 }
alike = { kind = "likeness", by = ["user.id", "item.id"], neighbours = 5 }
[slices]
"user.camp" = ["north", "south"]
[wide]
alpha = 0.1
features = ["user.id"]
crosses = [["user.camp", "item.tags"]]
[deep]
features = ["user.camp", "item.tags", "statistics.*"]
embedding_dim = 4
min_count = 2
quantiles = 8
hidden_units = [8, 4]
micro_batch = 4
warm_start = { every = 300, window = 100, judged = 100 }
[label]
policy = "eager"
window = "8s"
"""
START_MS = 1_700_000_000_000


def camps_spec(text: str = TEXT) -> Spec:
    """The spec of this world."""
    return parse_spec(text)


def world(pages: int, seed: int = 1) -> list[WorldEvent]:
    """Items, users, then pages of two items, 3 s apart; an install a second later where camp and tag fit.

    A tenth of the installs (`late-…`) stands in the log when its page's window is over: a late positive.
    """
    draw = random.Random(seed)
    events: list[WorldEvent] = [Item(f"i{i}", {"tags": ["cold", "warm"][i % 2]}) for i in range(12)]
    events += [User(f"u{u}", {"camp": ["north", "south"][u % 2]}) for u in range(8)]
    logged: list[tuple[int, Impression | Install]] = []
    for n in range(pages):
        user, shown = draw.randrange(8), draw.sample(range(12), 2)
        at_ms = START_MS + 3_000 * n
        logged.append((at_ms, Impression(f"p{n}", at_ms, f"u{user}", [f"i{i}" for i in shown])))
        for i in shown:
            if draw.random() < (0.8 if i % 2 == user % 2 else 0.15):
                late = draw.random() < 0.1
                install = Install(f"u{user}", f"i{i}", at_ms + 1_000, f"{'late-' * late}{n}-{i}", f"p{n}")
                logged.append((at_ms + (9_500 if late else 1_000), install))
    return [*events, *(event for _, event in sorted(logged, key=lambda one: one[0]))]


def slow_world(pages: int, seed: int = 1) -> list[WorldEvent]:
    """The same with fewer installs (0.35 where it fits, else 0.05), each some minutes after its page (2 on average).

    Now and then an install is taken back a minute later or comes a second time, or a page is logged four minutes late.
    """
    draw = random.Random(seed)
    events = [event for event in world(0) if isinstance(event, Item | User)]
    logged: list[tuple[int, Impression | Install]] = []
    for n in range(pages):
        user, shown = draw.randrange(8), draw.sample(range(12), 2)
        at_ms = START_MS + 3_000 * n
        late = draw.random() < 0.02
        logged.append((at_ms + 240_000 * late, Impression(f"p{n}", at_ms, f"u{user}", [f"i{i}" for i in shown])))
        for i in shown:
            if draw.random() < (0.35 if i % 2 == user % 2 else 0.05):
                come_ms = at_ms + 1_000 + round(draw.expovariate(1 / 120_000))
                install = Install(f"u{user}", f"i{i}", come_ms, f"{n}-{i}", f"p{n}")
                logged.append((come_ms, install))
                if draw.random() < 0.05:
                    back = msgspec.structs.replace(install, time_ms=come_ms + 60_000, retracted=True)
                    logged.append((back.time_ms, back))
                if draw.random() < 0.05:
                    again = msgspec.structs.replace(install, time_ms=come_ms + 90_000, install_id=f"{n}-{i}-again")
                    logged.append((again.time_ms, again))
    return [*events, *(event for _, event in sorted(logged, key=lambda one: one[0]))]


def backtested(
    events: Sequence[WorldEvent],
    *parts: Sequence[PartName],
    spec: Spec | None = None,
    peers: Sequence[Entrant] = (),
    limit: int | None = None,
    pack: int = 1,
) -> tuple[Scores, Backtest]:
    """The scores of these parts (and peers), and the backtest that found them."""
    spec, log = spec or camps_spec(), ExampleLog()
    backtest = Backtest(spec, [*(ModelEntrant(spec, one, 0) for one in parts), *peers], log, pack)
    return backtest.run(events, limit), backtest


def write_lines(path: Path, events: Sequence[WorldEvent]) -> None:
    """The events as JSON lines, as `thalweg replay` reads them."""
    kinds = {Item: "item", User: "user", Impression: "impression", Install: "install"}
    fields = {
        Item: ("item", "attributes"),
        User: ("user", "attributes"),
        Impression: ("request_id", "time_ms", "user", "items", "propensities"),
        Install: ("user", "item", "time_ms", "install_id", "request_id"),
    }
    lines = []
    for event in events:
        held = {name: getattr(event, name) for name in fields[type(event)]}
        lines.append(msgspec.json.encode({"type": kinds[type(event)], **held}))
    path.write_bytes(b"\n".join(lines) + b"\n")
