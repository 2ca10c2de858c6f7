"""Ids that come again with other times: joiner, audit and trace agree on what is a repetition."""

import random

import pytest

from stream.events.codec import encode_record
from stream.events.topics import EVENTS
from stream.events.types import Impression, Install, Organic, SourceEvent, Tick
from stream.joiner.join import Joiner
from stream.joiner.label_rules import LabelRules
from stream.log.protocol import Record
from tests.support.join_oracle import as_audited, joined, net_of, offline
from thalweg.views.attribution_explain import PageContext

END = 100_000


def of_one_id(rng: random.Random) -> list[SourceEvent]:
    """One install id, sent and retracted several times, among pages of its item; then all is over."""
    kinds = [*"iic", *"r" * rng.randrange(3), *"p" * rng.randrange(1, 4), *"t" * rng.randrange(1, 6)]
    rng.shuffle(kinds)
    now, log = 100, list[SourceEvent]()
    for kind in kinds:
        now += rng.randrange(12)
        if kind == "p":
            log.append(Impression(f"r{len(log)}", now - rng.randrange(15), "u", ["a"]))
        elif kind == "t":
            log.append(Tick(now + rng.randrange(20)))
        else:
            back = kind == "r"
            at = now + rng.randrange(-10, 10) if back else now - rng.randrange(15)
            log.append(Install("u", "a", at, "i", retracted=back))
    return [*log, Tick(END)]


@pytest.mark.parametrize("seed", range(20))
def test_an_id_that_comes_again_is_what_the_joiner_takes_it_for(seed: int) -> None:
    """Its label, whether it's organic, and what `trace` reports of one page."""
    rng = random.Random(seed)
    again = 0
    for _ in range(20):
        window_ms, known_ms, lateness_ms = rng.choice([4, 10]), rng.choice([0, 3]), rng.choice([0, 3, 10, 30])
        rules = LabelRules("eager", window_ms, lateness_ms, known_ms, rng.choice([None, 3]), organic=True)
        log = of_one_id(rng)
        records = [Record(EVENTS.name, 0, k, END, None, encode_record([event])) for k, event in enumerate(log)]
        joiner, organic = Joiner(rules), list[Organic]()
        said = []
        for k, event in enumerate(log):
            said += joiner.feed([event], k, END)
            organic += joiner.organic
        net, should = offline(log, rules, [END] * len(log)), joined(log, rules, [END] * len(log)).organic
        assert net == net_of(said)
        assert sorted(one.time_ms for one in should) == sorted(one.time_ms for one in organic)
        again += sum(net.values()) + len(organic) > 1
        for k, event in enumerate(log):
            if isinstance(event, Impression):
                context = PageContext(as_audited(rules), event, k)
                list(context.read(records))
                label = net.get((event.request_id, "a"))
                assert context.labels() == ({} if label is None else {"a": label})
    assert again
