"""Closed loops over small stores, and all that passed through their logs."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec
import pytest

from producers.store.parameters import StoreParameters
from producers.store.scenario import load_scenario
from producers.store.storefront import ShownPages
from producers.store.world import StoreWorld
from stream.events.codec import decode_events, decode_examples, decode_requests, encode_record
from stream.events.topics import EVENTS, EXAMPLES, REQUESTS
from stream.events.types import Examples, Impression, RankRequest, SourceEvent, Tick
from stream.joiner.label_rules import label_rules
from stream.log.memory_log import MemoryLog
from stream.spec.parts import Gate, Policy, Publish
from stream.spec.spec_file import load_spec
from tests.support.store_worlds import changed
from thalweg.cli.options import SPECS
from thalweg.experiment.assignment import Assignment
from thalweg.experiment.closed_loop import ClosedLoop
from thalweg.experiment.traffic_scores import ScoredTraffic, TrafficScores

STORE = load_spec(SPECS / "store.toml")
OPEN = Publish(gate=Gate(1e9, (1e-9, 1e9), 1e9, 1e9, 1e-9, 1e9))  # a small store's first versions are poor
SPEC = msgspec.structs.replace(STORE, publish=OPEN)
FEW = changed(traffic={"pages_a_day": 1_500})
SECOND_MS = 1_000


@dataclass
class KeptScores(TrafficScores):
    """Keeps the pages themselves, too."""

    shown: list[ShownPages] = field(default_factory=list)

    def add(self, shown: ShownPages, predictions: Mapping[str, Any]) -> None:
        """Add pages."""
        self.shown.append(shown)
        super().add(shown, predictions)


class Sent(msgspec.Struct):
    """A record as it was sent."""

    value: bytes
    key: bytes | None
    time_ms: int


@dataclass
class Ran:
    """A loop that has run, its figures, and its logs, which retain nothing."""

    loop: ClosedLoop
    traffic: ScoredTraffic
    shown: list[ShownPages]
    records: dict[str, list[Sent]]

    @cached_property
    def events(self) -> list[SourceEvent]:
        """All source events in the order of the log."""
        return [event for one in self.records[EVENTS.name] for event in decode_events(one.value)[0]]

    @cached_property
    def ingests_ms(self) -> list[int]:
        """When each of them was appended."""
        return [one.time_ms for one in self.records[EVENTS.name] for _ in decode_events(one.value)[0]]

    @cached_property
    def pages(self) -> dict[str, Impression]:
        """All pages by request id."""
        return {event.request_id: event for event in self.events if isinstance(event, Impression)}

    @cached_property
    def examples(self) -> list[list[Examples]]:
        """All records of `examples`."""
        return [decode_examples(one.value)[0] for one in self.records[EXAMPLES.name]]

    @cached_property
    def requests(self) -> list[RankRequest]:
        """All requests of all arms, as they were sent."""
        return [request for one in self.records[REQUESTS.name] for request in decode_requests(one.value)[0]]


def loop_of(
    arms: Sequence[str],
    *,
    parameters: StoreParameters = FEW,
    seed: int = 0,
    scenarios: Sequence[str] = (),
    assign: Callable[[str], str] | None = None,
    policy: Policy | None = None,
    **more: Any,
) -> ClosedLoop:
    """A loop over a small store; users are split evenly unless `assign` says otherwise."""
    label = msgspec.structs.replace(SPEC.label, policy=policy or SPEC.label.policy)
    return ClosedLoop(
        msgspec.structs.replace(more.pop("spec", SPEC), label=label),
        StoreWorld(parameters, seed, load_scenario(scenarios)),
        arms,
        assign or Assignment("k", dict.fromkeys(arms, 1.0)).arm_of,
        seed,
        **{"sync_ms": SECOND_MS} | more,
    )


def run(loop: ClosedLoop, pages: int, *, to_the_end: bool = False) -> Ran:
    """Run it and keep all that is sent. `to_the_end`: until the last install has come and every page has closed."""
    records: defaultdict[str, list[Sent]] = defaultdict(list)
    send = MemoryLog.send

    def kept(log: MemoryLog, topic: str, partition: int, value: bytes | None, key: bytes | None = None) -> None:
        records[topic].append(Sent(value or b"", key, loop.clock.time_ms))
        send(log, topic, partition, value, key)

    loop.scores = KeptScores(loop.scores.learners)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryLog, "send", kept)
        traffic = loop.run(pages)
        if to_the_end:
            _finish(loop)
    return Ran(loop, traffic, loop.scores.shown, records)


def _finish(loop: ClosedLoop) -> None:
    """Send what is still on its way, let all pages close, and learn."""
    life_ms = label_rules(loop.spec).life_ms
    for event in loop.world.drain():
        if not hasattr(event, "time_ms"):
            continue  # an item or a user
        loop.clock.time_ms = max(loop.clock.time_ms, event.time_ms)
        loop.log.send(EVENTS.name, 0, encode_record([event]))
    loop.clock.time_ms += 10 * life_ms
    loop.log.send(EVENTS.name, 0, encode_record([Tick(loop.clock.time_ms)]))
    loop.joiner.step()
    for model in loop.served.values():
        model.learn()
