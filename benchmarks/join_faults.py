"""Cost of faults: examples emitted again after kills and rebalances, positives lost in an outage of the broker."""

import random
import signal
import subprocess
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from benchmarks.joiner_flow import Flow
from benchmarks.joiner_world import (
    INSTALLS,
    ITEMS,
    PAGES_A_MS,
    PARTITIONS,
    joiner,
    metrics,
    new_topics,
    pages,
    preload,
    start_joiner,
    wait_for,
)  # fmt: skip
from stream.events.codec import decode_examples, encode_record
from stream.events.topics import EVENTS, EXAMPLES
from stream.events.types import Impression, Install
from stream.joiner.label_rules import LabelRules
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import END, START, partition_of
from stream.runtime.settings import Settings
from stream.spec.parts import Policy
from thalweg.stack.server import end_process
from thalweg.stack.stack import read, up

HOUR_MS: Final = 3_600_000
USERS: Final = 20_000
SHORT: Final = LabelRules("eager", window_ms=5_000, lateness_ms=1_000, known_ms=2_000)
AWAY_S: Final = 10.0
PRODUCERS_LATER_S: Final = 3.0  # from the broker's return until producers send what they buffered
ANSWER_S: Final = 120.0
GROUPS_A_S: Final = 25.0


@dataclass(frozen=True)
class Faults:
    """How often: each round a second worker starts and is killed, and the first is killed `kills` - 1 times meanwhile.

    `pages` are open from the beginning; `remembered`: how many ids a learner certainly remembers.
    """

    pages: int = 100_000
    rounds: int = 5
    kills: int = 4
    remembered: int = 500_000


def emitted_again(house: Settings, faults: Faults) -> dict[str, float]:
    """Under `fake_negative` what a learner would learn twice, under `eager` all duplicates; both in parallel."""
    with ThreadPoolExecutor(2) as both:
        negative = both.submit(_hurt, house, "fake_negative", faults)
        eager = both.submit(_hurt, house, "eager", faults)
        return {
            "relearned": float(relearned(_ids(negative.result()), faults.remembered)),
            "emitted_again": float(relearned(_ids(eager.result()), 0)),
        }


def relearned(ids: Iterable[int], remembered: int) -> int:
    """How many are repeated after at least this number of distinct others."""
    ever: set[int] = set()
    recent: OrderedDict[int, None] = OrderedDict()
    count = 0
    for one in ids:
        if one in recent:
            recent.move_to_end(one)
            continue
        count += one in ever
        ever.add(one)
        recent[one] = None
        if len(recent) > remembered:
            recent.popitem(last=False)
    return count


def _hurt(house: Settings, policy: Policy, faults: Faults) -> Settings:
    """Kill and add workers of an hour's window while pages and installs arrive; nothing is left unread."""
    rules = LabelRules(policy, window_ms=HOUR_MS, known_ms=HOUR_MS)
    settings = new_topics(house)
    begin_ms = int(time.time() * 1000) - faults.pages // PAGES_A_MS - 1_000
    preload(settings, pages(faults.pages, False, USERS, begin_ms), 64, None)
    other = settings.model_copy(update={"worker": "1"})
    rng = random.Random(7)
    with ExitStack() as stack:
        worker = stack.enter_context(_Worker.running(settings, rules))
        expected = faults.pages * (ITEMS if policy == "fake_negative" else INSTALLS * 0.9)
        wait_for(settings, int(expected))
        flow = stack.enter_context(Flow.running(settings, GROUPS_A_S, rules.window_ms))
        for _ in range(faults.rounds):
            with _Worker.running(other, rules) as second:
                second.at_work()
            for _ in range(faults.kills - 1):
                worker.kill()
                worker.start()
                worker.at_work()
                time.sleep(rng.uniform(0.0, 0.4))
            _all_at_work(settings)
        flow.stop()
        _all_at_work(settings)
    return settings


class _Worker:
    """A joiner that is killed and started again."""

    def __init__(self, settings: Settings, rules: LabelRules) -> None:
        self._settings, self._rules = settings, rules
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @classmethod
    @contextmanager
    def running(cls, settings: Settings, rules: LabelRules) -> "Iterator[_Worker]":
        """A worker until the end of the block; then killed."""
        worker = cls(settings, rules)
        try:
            yield worker
        finally:
            worker.kill()

    def start(self) -> None:
        """Start it."""
        self._process = start_joiner(self._settings, self._rules, pinned=False)

    def kill(self) -> None:
        """kill -9; returns when it has ended."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def at_work(self) -> None:
        """Wait until it has read an event since its start."""
        end = time.monotonic() + ANSWER_S
        while not any(n.startswith("thalweg_joiner_events_total") and v for n, v in metrics(self._settings).items()):
            assert self._process is not None
            assert self._process.poll() is None, f"worker {self._settings.worker} has ended"
            assert time.monotonic() < end, f"worker {self._settings.worker} reads nothing"
            time.sleep(0.05)


def _all_at_work(settings: Settings) -> None:
    """A page and its install in each partition, until all were emitted: earlier records are processed."""
    log = KafkaLog(settings)
    reader = log.reader(EXAMPLES.name, {0: END})
    now_ms, name = int(time.time() * 1000), f"probe-{time.monotonic_ns()}"
    left: set[str] = set()
    for k in range(8 * PARTITIONS):  # users enough for every partition
        page = Impression(f"{name}-{k}", now_ms, f"{name}-{k}", ["a"])
        left.add(page.request_id)
        both = encode_record([page, Install(page.user, "a", now_ms, page.user)])
        log.send(EVENTS.name, partition_of(page.user, PARTITIONS), both)
    log.flush()
    end = time.monotonic() + ANSWER_S
    while left:
        assert time.monotonic() < end, f"no example of {left}"
        for record in reader.poll(1.0):
            left -= {one.page.request_id for one in decode_examples(record.value or b"")[0]}
    reader.close()
    log.close()


def _emitted(settings: Settings) -> Iterator[tuple[str, int, int, int]]:
    """Request id, position, label and id of every example, in order."""
    log = KafkaLog(settings)
    (end,) = log.ends(EXAMPLES.name).values()
    reader, at = log.reader(EXAMPLES.name, {0: START}), 0
    while at < end:
        for record in reader.poll(5.0):
            at = record.offset + 1
            for one in decode_examples(record.value or b"")[0]:
                for position, label, number in zip(one.positions, one.labels, one.ids, strict=True):
                    yield one.page.request_id, position, label, number
    reader.close()
    log.close()


def _ids(settings: Settings) -> Iterator[int]:
    return (number for *_, number in _emitted(settings))


def outage(house: Settings, groups_a_s: float, flow_s: float) -> dict[str, float]:
    """Kill the broker for AWAY_S, longer than lateness and window, while pages and installs happen.

    Producers buffer them meanwhile, and send them in order some seconds after the broker is back. Lost are installs
    within their page's window whose page never got the label 1.
    """
    settings = new_topics(house)
    root = house.local
    with joiner(settings, SHORT), Flow.running(settings, groups_a_s, SHORT.window_ms) as flow:
        _all_at_work(settings)
        time.sleep(flow_s)
        flow.pause()
        stack = read(root)
        assert stack is not None, root
        end_process(stack.broker, signal.SIGKILL, 20)
        time.sleep(AWAY_S)
        up(root)
        time.sleep(PRODUCERS_LATER_S)
        flow.resume()
        time.sleep(flow_s)
        flow.stop()
        _all_at_work(settings)
        time.sleep(1.0)  # its gauges
        late = sum(v for name, v in metrics(settings).items() if name.startswith("thalweg_joiner_outcomes_total{") and
                   'outcome="late"' in name)  # fmt: skip
    found = {(request, position): label for request, position, label, _ in _emitted(settings)}
    lost = [one for one in flow.positives if not found.get(one)]
    assert flow.positives, "nothing was installed"
    return {"lost_in_outage": float(len(lost)), "late_in_outage": late}
