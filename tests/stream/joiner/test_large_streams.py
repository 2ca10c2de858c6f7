"""The join against the offline join on streams of tens of thousands of events: memory grows, and is used again."""

import random
from dataclasses import replace

import pytest

from stream.events.types import Impression, Install, Organic, SourceEvent, Tick
from stream.joiner.join import Joiner
from stream.joiner.label_rules import LabelRules
from stream.spec.parts import Policy
from tests.support.join_oracle import check_labels, organic

T = 1_700_000_000_000
ITEMS = "abcdefghijkl"
RECORDS = 3_000


@pytest.mark.parametrize(
    "rules",
    [
        LabelRules("wait", window_ms=5_000, lateness_ms=50, known_ms=200, organic=True),
        LabelRules("eager", window_ms=300, known_ms=0, organic=True),
        LabelRules("eager", window_ms=100_000, lateness_ms=50, known_ms=3_000),
        LabelRules("fake_negative", window_ms=5_000, known_ms=3_000, organic=True),
        LabelRules("delayed_negative", window_ms=5_000, lateness_ms=50, known_ms=200, delays_ms=(0, 30, 5_000)),
    ],
    ids=lambda rules: f"{rules.policy}-{rules.window_ms}",
)
def test_labels_equal_the_offline_join(rules: LabelRules) -> None:
    """Whatever window and policy: labels and organic installs are the oracle's, and nothing is left at the end."""
    rng, now = random.Random(rules.window_ms), T
    joiner, log, ingests = Joiner(rules), list[SourceEvent](), list[int]()
    said, organics = [], list[Organic]()
    for k in range(RECORDS):
        record: list[SourceEvent] = []
        now += rng.randrange(100_000) if rng.random() < 0.002 else 0
        for n in range(rng.randrange(1, 20)):
            now += rng.random() < 0.3
            user, kind = f"u{rng.randrange(300)}", rng.random()
            if kind < 0.8:
                record.append(Impression(f"r{k}-{n}", now - rng.randrange(40), user, rng.sample(ITEMS, 4)))
            elif kind < 0.95:
                record.append(Install(user, rng.choice(ITEMS), now - rng.randrange(100), f"i{k}-{n}"))
            elif kind < 0.97:
                record.append(Install(user, "a", now, f"i{k - 1}-{n}", retracted=True))
            elif log:
                record.append(rng.choice(log[-200:]))
        log += record
        ingests += [now + 5] * len(record)
        said += joiner.feed(record, k, now + 5)
        organics += joiner.organic
    end = Tick(now + 10**7)
    said += joiner.feed([end], RECORDS, end.time_ms)
    organics += joiner.organic
    log, ingests = [*log, end], [*ingests, end.time_ms]
    check_labels(said, log, rules, ingests)
    assert not rules.organic or {(one.user, one.install_id) for one in organics} == organic(log, rules, ingests)
    assert (joiner.state_bytes, joiner.oldest_needed_offset()) == (0, None)


@pytest.mark.parametrize("policy", ["wait", "eager"])
def test_an_item_that_one_user_installs_very_often_costs_what_it_costs_once(policy: Policy) -> None:
    """15,000 installs of one item on one page, taken back one by one: one label, its correction, nothing is left."""
    rules = replace(LabelRules(policy, window_ms=100_000, known_ms=0))
    joiner, count = Joiner(rules), 15_000
    said = joiner.feed([Impression("r", T, "u", ["a", "b"])], 0, T)
    said += joiner.feed([Install("u", "a", T + k, f"i{k}") for k in range(count)], 1, T + count)
    said += joiner.feed([Install("u", "a", T + count, f"i{k}", retracted=True) for k in range(count)], 2, T + count)
    said += joiner.feed([Tick(T + 300_000)], 3, T + 300_000)
    labels = [(position, label) for one in said for position, label in zip(one.positions, one.labels, strict=True)]
    assert labels == ([(0, 1), (0, 0), (1, 0)] if policy == "eager" else [(0, 0), (1, 0)])
    assert (joiner.counts.retracted, joiner.state_bytes) == (count, 0)
