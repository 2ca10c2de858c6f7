"""The store's world of the demo, played in real time in a process of its own.

Event time is wall time. Latency is counted from a page's event time until the reply is at the caller, however late it
was asked for: a world that waits for its rankers would hide their delays.
"""

import gc
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import msgspec

from producers.batching_producer import BatchingProducer
from producers.clock import Clock
from producers.store.arm import Arm, ByModel, ByPopularity
from producers.store.parameters import DAY_MS, StoreParameters, preset
from producers.store.rankers import Rankers
from producers.store.storefront import PAGE_ITEMS, PAGES_MAX, Answered, ShownPages, Storefront
from producers.store.world import StoreWorld
from stream.features.page_features import Layout
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import Log
from stream.runtime.settings import Settings
from stream.spec.spec import Spec
from thalweg.demo.acquisition import CONTROL, MODEL, ArmTotals, PastSent, StoreProgress
from thalweg.demo.http_rankers import HttpRankers
from thalweg.demo.open_loop_client import UNANSWERED_S, RequestOutcome
from thalweg.experiment.assignment import Assignment

PRESET: Final = "common"
START_MS: Final = 100  # from the start's signal until the world begins
WAIT_S: Final = 0.005  # for replies, at most: installs are due all the time
WAIT_S_MIN: Final = 0.001
PROGRESS_S: Final = 1.0
FLUSH_S: Final = 0.1
LINGER_S: Final = 0.005  # of events that share a record


@dataclass(frozen=True)
class PlayerOptions:
    """How many pages are asked for, how many a second on average, and that every Nth reply is kept whole."""

    pages: int
    rate: float
    sample_every: int
    preset: str = PRESET
    seed: int = 0

    @property
    def parameters(self) -> StoreParameters:
        """The world's. Raises DataError when there's no such preset."""
        found = preset(self.preset)
        pages_a_day = self.rate * DAY_MS / 1_000 / found.compress
        return msgspec.structs.replace(found, traffic=msgspec.structs.replace(found.traffic, pages_a_day=pages_a_day))


class StorePlayer:
    """Plays a store step by step. `now_ms`: ms since 1970, as a float that never goes back.

    It plays on after its last page, and counts no more: what was learned last is served later, which only replies show;
    and installs that nobody's pages accompany would teach a model that everything is installed.
    """

    def __init__(self, front: Storefront, pages: int, sample_every: int, now_ms: Callable[[], float]) -> None:
        self._front, self._now_ms, self._sample_every = front, now_ms, sample_every
        self._unasked, self._answered = pages, 0
        self._has_ended = False
        self._totals = {arm.name: ArmTotals() for arm in front.arms}
        self._context: dict[str, str | float] = {}  # of the last page

    @property
    def progress(self) -> StoreProgress:
        """What was shown so far."""
        return StoreProgress(self._totals, ended=self._has_ended, context=self._context)

    def step(self) -> list[RequestOutcome]:
        """Ask for the pages that are due, show those whose replies come within WAIT_S, send events that are due."""
        front = self._front
        while self._until_due_s() <= 0.0 and self._next_pages(int(self._now_ms()) + 1):
            pass
        answered = front.replies(min(WAIT_S, max(WAIT_S_MIN, self._until_due_s())))
        received_ms = self._now_ms()
        if (shown := front.show(answered)) and not self._has_ended:
            self._count(shown)
        front.expire(int(received_ms - 1_000 * UNANSWERED_S), f"no answer within {UNANSWERED_S:g} s")
        front.send(int(self._now_ms()) + 1)
        failed, front.failed = front.failed, []
        outcomes = [
            RequestOutcome(one.user, received_ms - one.page_ms, error=one.reason, kind=one.kind) for one in failed
        ]
        outcomes += [self._outcome(one, received_ms) for one in answered]
        self._has_ended |= not self._unasked and not front.pending
        return outcomes

    def _next_pages(self, until_ms: int) -> int:
        """Ask for pages that are due before `until_ms`; none while the last ones that count wait for their replies."""
        if self._unasked:
            asked = self._front.ask(until_ms, min(PAGES_MAX, self._unasked), self._front.send)
            self._unasked -= asked
            return asked
        return self._front.ask(until_ms, PAGES_MAX, self._front.send) if self._has_ended else 0

    def _until_due_s(self) -> float:
        """Until the next page is due; 0 where only `ask` finds out."""
        due_ms = self._front.world.next_page_ms
        return 0.0 if due_ms is None else (due_ms - self._now_ms()) / 1_000

    def _outcome(self, answered: Answered, received_ms: float) -> RequestOutcome:
        reply, replied_ms, page_ms = answered.reply
        self._answered += 1
        whole = reply if self._answered % self._sample_every == 0 else None
        return RequestOutcome(
            reply.user, received_ms - page_ms, replied_ms, reply.version, reply.live_since_ms, reply.staleness_ms,
            reply=whole, is_timed=len(answered.asked.candidates) > PAGE_ITEMS and not self._has_ended,
        )  # fmt: skip

    def _count(self, shown: ShownPages) -> None:
        self._context = shown.pages.context(len(shown.arms) - 1)
        installs = shown.outcomes.lasting.sum(axis=1)
        for index, arm in enumerate(self._front.arms):
            rows, totals = shown.arms == index, self._totals[arm.name]
            totals.pages += int(rows.sum())
            totals.items += int(rows.sum()) * shown.shown.shape[1]
            totals.installs += int(installs[rows].sum())
            totals.expected += float(shown.expected[rows].sum())
            totals.oracle += float(shown.oracle[rows].sum())
            totals.popular += float(shown.popular[rows].sum())


def open_store(
    log: Log, rankers: Rankers, world: StoreWorld, spec: Spec, seed: int, stop: Callable[[], bool]
) -> Storefront:
    """A store whose users see either popular items or those of a model; all that was before it begins is sent."""
    arms = [Arm(CONTROL, ByPopularity(Layout(spec)), log), Arm(MODEL, ByModel(), log)]
    assignment = Assignment(f"demo-{seed}", dict.fromkeys((CONTROL, MODEL), 1.0))
    producer = BatchingProducer(log, Clock(), LINGER_S, lambda line: print(line, file=sys.stderr), stop)

    front = Storefront(log, world, arms, assignment.arm_of, spec, producer, rankers_of=lambda _: rankers)
    front.open()
    return front


def run_store_player(settings: Settings, spec: Spec, http: str, options: PlayerOptions) -> None:
    """Play against the ranker at `http` (host:port) until stdin closes, at the latest when the parent process ends.

    After `options.pages` pages there are installs only.

    What was before the world begins is sent at once. The world begins at the first line on stdin: a world that began by
    the clock would be over before a slow learner has read its past.

    On stdout, as JSON lines: that the past is sent, each request's outcome, and about once a second what was shown.
    """
    begun, stop = threading.Event(), threading.Event()

    def follow_stdin() -> None:
        if sys.stdin.readline():
            begun.set()
            sys.stdin.read()
        stop.set()
        begun.set()

    threading.Thread(target=follow_stdin, daemon=True).start()
    ahead_s = time.time() - time.monotonic()

    def now_ms() -> float:
        return 1_000 * (ahead_s + time.monotonic())

    with closing(KafkaLog(settings)) as log:
        world = StoreWorld(options.parameters, options.seed, start_ms=int(now_ms()))
        with closing(open_store(log, HttpRankers(http), world, spec, options.seed, stop.is_set)) as front:
            player = StorePlayer(front, options.pages, options.sample_every, now_ms)
            gc.collect()
            gc.freeze()  # what is there stays: a full collection would look at all of it, while pages wait
            sys.stdout.buffer.write(msgspec.json.encode(PastSent(len(world.past_installs()))) + b"\n")
            sys.stdout.buffer.flush()
            begun.wait()
            world.begin_at(int(now_ms()) + START_MS)
            _play(player, stop)


def _play(player: StorePlayer, stop: threading.Event) -> None:
    out, encoder = sys.stdout.buffer, msgspec.json.Encoder()
    flushed_s = reported_s = time.monotonic()
    has_ended = False
    while not stop.is_set():
        lines: list[RequestOutcome | StoreProgress] = [*player.step()]
        now_s, progress = time.monotonic(), player.progress
        if now_s >= reported_s + PROGRESS_S or progress.ended > has_ended:
            reported_s, has_ended = now_s, progress.ended
            lines.append(progress)
        out.writelines(encoder.encode(line) + b"\n" for line in lines)
        if now_s >= flushed_s + FLUSH_S:
            flushed_s = now_s
            out.flush()
