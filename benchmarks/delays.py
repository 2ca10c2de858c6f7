"""What labels that come late cost: log loss of each label policy under the store's delays, against labels at once.

Pages of ten items whose install probabilities are known, at the store's base rates and with its daily wave, its delays
and its time (a day in 100 s), are played through the product's join and learned by Wide & Deep, once by each policy;
the oracle's labels come with the pages. Three courses of two days: the ordinary one, the scenario `pause` (nobody asks
for half a day) and the scenario `ramp` (ten times the traffic for four hours). Each page is predicted when it's shown;
its log loss is the expected one, by its true probabilities, so that nothing depends on the luck of labels.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from msgspec import structs
from rich.table import Table

from producers.source import WorldEvent
from producers.store.parameters import BASE_RATES, DAY_MS, HOUR_MS, START_MS, StoreParameters
from producers.store.scenario import Flip, Ramp, Scenario, TrafficPause, load_scenario
from stream.events.types import Impression, Install, Item, User
from stream.spec.parts import DELAYS_MAX, Label, Policy
from stream.spec.spec import Spec
from stream.spec.spec_file import parse_spec
from stream.tables.dtypes import F32, F64, I64, Bools
from thalweg.backtest.backtest import Backtest
from thalweg.backtest.entrants import ExampleLog, ModelEntrant

SPEC: Final = """
name = "delays"
[user]
id = "category"
segment = "category"
[item]
id = "category"
category = "category"
[statistics]
item_rate = { kind = "rate", by = ["item.id"] }
taste = { kind = "residual", by = ["user.segment", "item.category"] }
[wide]
alpha = 0.1
l1 = 0.1
l2 = 1.0
features = ["item.id", "item.category"]
crosses = [["user.segment", "item.category"]]
[deep]
features = ["user.segment", "item.id", "item.category", "statistics.*"]
embedding_dim = 8
hidden_units = [32, 16]
learning_rate = 0.02
initial_accumulator = 0.1
"""
WINDOW_S: Final = 25.0  # six hours of the store
PAGES_A_S, QUICK_PAGES_A_S = 60.0, 20.0  # of event time, on average
ITEMS, USERS, CATALOGUE, CATEGORIES, SEGMENTS = 10, 500, 200, 12, 6
ORACLE: Final = "oracle"
POLICIES: Final[tuple[Policy, ...]] = ("wait", "eager", "fake_negative", "delayed_negative")
COURSES: Final[dict[str, list[str]]] = {"ordinary": [], "pause": ["pause"], "ramp": ["ramp"]}
DAY_S: Final = 100.0
MINUTE_S, SOON_S = 60.0, 10.0
P_MIN: Final = 1e-7
STORE: Final = StoreParameters()


class Traffic(NamedTuple):
    """Pages in order of time, and what happens on them."""

    categories: I64  # (CATALOGUE,) of items
    times_ms: I64  # (P,) event time from the start
    users: I64  # (P,)
    items: I64  # (P, ITEMS)
    probabilities: F64  # (P, ITEMS) of an install within the window
    installed: Bools  # (P, ITEMS), within the window
    delays_ms: I64  # (P, ITEMS)


def traffic_at(scenario: Scenario, times_s: F64) -> F64:
    """How many times the average traffic there is at event times [N]."""
    world_ms = times_s * 1_000 * STORE.compress
    found = 1 + STORE.traffic.daily_wave * np.cos(2 * np.pi * (world_ms - 20 * HOUR_MS) / DAY_MS)
    for one in scenario.happens:
        if isinstance(one, Ramp | TrafficPause):
            goes_on = (world_ms >= one.at_ms) & (world_ms < one.end_ms)
            found[goes_on] *= one.times if isinstance(one, Ramp) else 0.0
    return np.asarray(found)


def shares_within(seconds: F64) -> F64:
    """Which share of all installs comes within these event times."""
    log_s = np.log(np.maximum(seconds * STORE.compress, STORE.reports.delay_s[0]))
    return np.interp(log_s, np.log(STORE.reports.delay_s), STORE.reports.delay_shares)


def delays_s(shares: F64) -> F64:
    """The event times within which these shares of all installs come."""
    return STORE.reports.delays_s(shares) / STORE.compress


def traffic(scenario: Scenario, base_rate: float, pages_a_s: float, until_s: float, seed: int) -> Traffic:
    """Pages until an event time. The same seed has the same users, items and tastes, whatever the scenario."""
    tastes, draw = np.random.default_rng((seed, 1)), np.random.default_rng((seed, 2))
    quality, categories = tastes.normal(0, 0.7, CATALOGUE), tastes.integers(CATEGORIES, size=CATALOGUE)
    taste, popularity = tastes.normal(0, 0.7, (SEGMENTS, CATEGORIES)), np.arange(1, CATALOGUE + 1) ** -0.7
    grid = np.arange(0, until_s, 0.01)
    expected = np.cumsum(traffic_at(scenario, grid) * pages_a_s * 0.01)
    at = np.sort(np.interp(draw.uniform(0, expected[-1], draw.poisson(expected[-1])), expected, grid))
    users = draw.integers(USERS, size=len(at))
    keys = draw.exponential(size=(len(at), CATALOGUE)) / popularity  # the least are a draw without repetition
    items = np.argpartition(keys, ITEMS, axis=1)[:, :ITEMS]
    likes = np.ones(len(at))
    for flip in scenario.all(Flip):
        likes[at * 1_000 * STORE.compress >= flip.at_ms] *= -1
    logits = quality[items] + likes[:, None] * taste[users[:, None] % SEGMENTS, categories[items]]
    low, high = -15.0, 15.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-logits - middle))).mean() < base_rate else (low, middle)
    within, latest_s = float(shares_within(np.array(WINDOW_S))), WINDOW_S - 0.01
    probabilities = within / (1 + np.exp(-logits - middle))
    delays = np.minimum(delays_s(draw.uniform(0, within, items.shape)), latest_s)
    installed = draw.uniform(size=items.shape) < probabilities
    return Traffic(categories, (at * 1_000).astype(np.int64), users, items, probabilities, installed,
                   np.maximum(delays * 1_000, 1).astype(np.int64))  # fmt: skip


def events(of: Traffic, *, at_once: bool) -> Iterator[WorldEvent]:
    """Items, users, then pages and installs in order of time; `at_once`: each install right after its page."""
    yield from (Item(f"i{i}", {"category": f"c{category}"}) for i, category in enumerate(of.categories))
    yield from (User(f"u{u}", {"segment": f"s{u % SEGMENTS}"}) for u in range(USERS))
    pages, positions = np.nonzero(of.installed)
    come_ms = of.times_ms[pages] + (1 if at_once else of.delays_ms[pages, positions])
    when = np.concatenate([of.times_ms, come_ms])
    for n in np.argsort(when, kind="stable").tolist():
        k = n - len(of.times_ms)
        page = n if k < 0 else int(pages[k])
        name, user = f"p{page}", f"u{of.users[page]}"
        if k < 0:
            yield Impression(name, START_MS + int(when[n]), user, [f"i{i}" for i in of.items[page]])
        else:
            item = f"i{of.items[page, positions[k]]}"
            yield Install(user, item, START_MS + int(when[n]), f"{name}{item}", name)


def spec_of(policy: str) -> Spec:
    """The spec with this policy."""
    if policy == ORACLE:
        label = Label(policy="eager", window="2ms")
    else:
        middles = (np.arange(DELAYS_MAX) + 0.5) / DELAYS_MAX * shares_within(np.array(WINDOW_S))
        delays = [f"{round(1_000 * one)}ms" for one in delays_s(middles)] if policy == "delayed_negative" else []
        label = Label(policy=policy, window=f"{WINDOW_S:g}s", delays=delays)  # type: ignore[arg-type]  # one of POLICIES
    return structs.replace(parse_spec(SPEC), label=label)


def predictions(policy: str, of: Traffic) -> F32:
    """P(Y=1) of each item when its page is shown, float32 [P, ITEMS]."""
    spec = spec_of(policy)
    backtest = Backtest(spec, [ModelEntrant(spec, spec.parts, 0)], ExampleLog())
    found: F32 = backtest.run(events(of, at_once=policy == ORACLE)).predictions[0].reshape(-1, ITEMS)
    return found


def judged(predicted: F32, of: Traffic, first_s: float, last_s: float) -> tuple[float, float]:
    """Expected log loss, and mean prediction / mean probability, of the pages of this stretch of event time."""
    within = (of.times_ms >= 1_000 * first_s) & (of.times_ms < 1_000 * last_s)
    p, q = of.probabilities[within], np.clip(predicted[within].astype(np.float64), P_MIN, 1 - P_MIN)
    return float(-(p * np.log(q) + (1 - p) * np.log(1 - q)).mean()), float(q.mean() / p.mean())


def stretches(course: str, scenario: Scenario) -> dict[str, tuple[float, float]]:
    """What is judged in a course, in s: by name its begin and end."""
    if course == "ordinary":
        return {"steady": (DAY_S, 2 * DAY_S)}
    (one,) = scenario.happens
    assert isinstance(one, Ramp | TrafficPause)
    begin_s, end_s = (ms / STORE.compress / 1_000 for ms in (one.at_ms, one.end_ms))
    if course == "pause":
        return {"soon_after_pause": (end_s, end_s + SOON_S), "after_pause": (end_s, end_s + MINUTE_S)}
    return {"ramp": (begin_s, end_s), "after_ramp": (end_s, end_s + MINUTE_S)}


def measured(base_rate: float, pages_a_s: float, seed: int) -> dict[tuple[str, str], tuple[float, float]]:
    """Log loss over the oracle's and calibration, by policy and stretch."""
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for course, names in COURSES.items():
        scenario = load_scenario(names)
        parts = stretches(course, scenario)
        of = traffic(scenario, base_rate, pages_a_s, max(last for _, last in parts.values()), seed)
        exact: dict[str, float] = {}
        for policy in (ORACLE, *POLICIES):
            predicted = predictions(policy, of)
            for name, part in parts.items():
                loss, calibration = judged(predicted, of, *part)
                exact.setdefault(name, loss)
                found[policy, name] = loss / exact[name], calibration
    return found


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """Play all; the table and the figures. The best policy is the one whose worst ratio is the least."""
    rates = {"common": BASE_RATES["common"]} if quick else {k: BASE_RATES[k] for k in ("common", "usual")}
    pages_a_s = QUICK_PAGES_A_S if quick else PAGES_A_S
    by_rate = {name: measured(rate, pages_a_s, seed=1) for name, rate in rates.items()}
    names = list(dict.fromkeys(stretch for _, stretch in next(iter(by_rate.values()))))
    table = Table(title=f"label policies, window {WINDOW_S:g} s: log loss / the oracle's (mean prediction / true rate)")
    for head in ("base rate", "policy", *(name.replace("_", " ") for name in names)):
        is_name = head in ("base rate", "policy")
        table.add_column(head, justify="left" if is_name else "right", no_wrap=is_name)
    figures: dict[str, float] = {}
    for rate, found in by_rate.items():
        for policy in (ORACLE, *POLICIES):
            cells = [f"{found[policy, name][0]:.4f} ({found[policy, name][1]:.2f})" for name in names]
            table.add_row(rate, policy, *cells)
            for name in names:
                figures[f"{rate}_{policy}_{name}_ratio"], figures[f"{rate}_{policy}_{name}_calibration"] = found[
                    policy, name
                ]
    worst = {
        policy: {name: max(found[policy, name][0] for found in by_rate.values()) for name in names}
        for policy in POLICIES
    }
    best = min(worst, key=lambda policy: max(worst[policy].values()))
    figures["best_over_oracle_steady"] = worst[best]["steady"]
    figures["best_over_oracle_after_pause"] = worst[best]["after_pause"]
    table.caption = f"best: {best}"
    return table, figures
