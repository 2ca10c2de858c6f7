"""What a demo measures while it runs: requests as the open-loop client saw them, and the services' metrics."""

import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec

from stream.events.types import EXPIRED, SHED
from stream.runtime.errors import StackError
from thalweg.demo.acquisition import Acquisition, PastSent, StoreProgress
from thalweg.demo.freshness import DemoFreshness, percentile
from thalweg.demo.open_loop_client import RequestOutcome
from thalweg.demo.screen import ScreenState
from thalweg.demo.services import DemoServices

LAST_ANSWERS_S: Final = 15.0
SERVICES: Final = ("joiner", "learner", "ranker")
Message = RequestOutcome | StoreProgress | PastSent


@dataclass
class RequestTally:
    """All requests so far."""

    users: Counter[str] = field(default_factory=Counter)
    latency_ms: list[float] = field(default_factory=list)  # of those that are timed
    errors: Counter[str] = field(default_factory=Counter)  # by kind
    sample: list[RequestOutcome] = field(default_factory=list)  # those with the whole reply
    last: RequestOutcome | None = None

    def add(self, outcome: RequestOutcome) -> None:
        """One request more."""
        if outcome.error:
            self.errors[outcome.kind] += 1
            return
        self.users[outcome.user] += 1
        if outcome.is_timed:
            self.latency_ms.append(outcome.latency_ms)
        self.last = outcome
        if outcome.reply is not None:
            self.sample.append(outcome)


class ClientProcess:
    """A client of rankers in a process of its own, and a thread that reads its output, a message a line.

    `words`: its command, which ends when its stdin closes.
    """

    def __init__(self, services: DemoServices, name: str, *words: str) -> None:
        self._log, self._name = services.local / "logs" / f"{name}.log", name
        self._process = services.start_child(name, *words)
        self._decoder = msgspec.json.Decoder(Message)
        self._messages: deque[Message] = deque()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def take(self) -> list[Message]:
        """Messages since the last call. Raises StackError when the process has ended by itself."""
        if self._process.poll() is not None:
            raise StackError(f"the {self._name} ended in the middle of the demo; see {self._log}")
        return self._taken()

    def begin(self) -> None:
        """Let a store's world begin. If the process has ended, `take` says so."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()

    def close(self) -> list[Message]:
        """End the process and return its last messages; idempotent."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(LAST_ANSWERS_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._thread.join(5.0)
        return self._taken()

    def _taken(self) -> list[Message]:
        return [self._messages.popleft() for _ in range(len(self._messages))]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._messages.append(self._decoder.decode(line))


class RateMeter:
    """Rates per second of growing counts, since the update before."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float]] = {}  # time and count

    def update(self, counts: Mapping[str, float], now_s: float) -> dict[str, float]:
        """Add the counts of now; returns the rates."""
        rates = {}
        for name, count in counts.items():
            last_s, last = self._last.get(name, (0.0, count))
            rates[name] = (count - last) / (now_s - last_s) if now_s > last_s else 0.0
            self._last[name] = now_s, count
        return rates


class DemoMonitor:
    """Keeps `state` up to date. `playing`: the name of the phase until all pages were played."""

    def __init__(self, services: DemoServices, freshness: DemoFreshness, pages_total: int, playing: str) -> None:
        self.playing = playing
        self.requests = RequestTally()
        self.state = ScreenState(pages_total=pages_total)
        self.examples_wanted: float | None = None  # once all pages were played: how many the learner shall have learned
        self.examples = 0  # that the learner has learned, or holds out
        self.examples_emitted = 0  # by the joiner
        self.installs_joined = 0
        self.organic_learned = 0  # installs without a page
        self.learner_lag_s = 0.0  # how long what the learner hasn't learned has been waiting
        self.version_wanted = 0  # the newest one when all was learned; 0: there's none yet
        self.dead_letters = 0
        self.last_learned_s = time.monotonic()
        self.past: PastSent | None = None  # of a world that is played
        self.store: StoreProgress | None = None
        self.acquisition = Acquisition()
        self._services, self._freshness = services, freshness
        self._rates = RateMeter()

    @property
    def learned_all(self) -> bool:
        """Whether every example that is wanted has been learned or is a dead letter."""
        return self.examples_wanted is not None and self.examples + self.dead_letters >= self.examples_wanted

    @property
    def done(self) -> bool:
        """Whether all is learned, and a version of then or later has answered: a short replay ends before the client
        has begun, and the first version may come after the last page."""
        last = self.requests.last
        return self.learned_all and last is not None and 0 < self.version_wanted <= last.version

    def add(self, messages: Sequence[Message]) -> None:
        """Add outcomes of requests, and what a store has shown."""
        for message in messages:
            if isinstance(message, PastSent):
                self.past = message
                continue
            if isinstance(message, StoreProgress):
                self.store = message
                self.acquisition.add(message)
                continue
            self.requests.add(message)
            if not message.error:
                self._freshness.add_reply(message.version, message.replied_ms, message.live_since_ms)

    def update(self) -> None:
        """Read the services' metrics; those of a service that doesn't answer stay as they were."""
        state, requests, freshness = self.state, self.requests, self._freshness
        state.phase = self.playing if self.examples_wanted is None else "learning the rest"
        joiner, learner, ranker = (dict(self._services.metrics(name)) for name in SERVICES)
        if learner:
            self._update_learner(learner)
        if joiner and learner and ranker:
            metrics = joiner | learner | ranker
            self.dead_letters = int(sum(metrics.get(f"thalweg_{name}_dead_letters_total", 0.0) for name in SERVICES))
            self.examples_emitted = int(joiner.get("thalweg_joiner_examples_total", 0))
            self.installs_joined = int(joiner.get("thalweg_joiner_events_total.install", 0))
            state.pages = int(joiner.get("thalweg_joiner_events_total.page", 0))
            state.figures["pages_open"] = int(joiner.get("thalweg_joiner_open_pages", 0))
            state.figures["swaps"] = int(ranker.get("thalweg_ranker_swaps_total", 0))
            counts = {
                "joiner (events)": joiner.get("thalweg_joiner_events_total", 0.0),
                "learner (examples)": float(self.examples),
                "ranker (pages)": ranker.get("thalweg_ranker_replies_total", 0.0),
            }
            state.rates = self._rates.update(counts, time.monotonic())
        delays_ms = {
            "freshness": freshness.served_ms,
            "freshness_deep": freshness.served_deep_ms,
            "servable": freshness.servable_ms,
            "rank": requests.latency_ms,
        }
        state.figures |= {f"{name}_p{p}_ms": percentile(ms, p) for name, ms in delays_ms.items() for p in (50, 99)}
        state.figures |= {
            "examples_learned": self.examples,
            "dead_letters": self.dead_letters,
            "rank_replies": requests.users.total(),
            "rank_errors": requests.errors.total(),
            "rank_shed": requests.errors[SHED] + requests.errors[EXPIRED],
        }
        if self.store is not None:
            state.pages, state.acquisition = self.store.pages, self.acquisition
            state.figures |= self.acquisition.figures()
        if requests.last is not None:
            state.version, state.staleness_ms = requests.last.version, requests.last.staleness_ms

    def _update_learner(self, learner: Mapping[str, float]) -> None:
        examples = int(learner["thalweg_learner_examples_total"] + learner["thalweg_learner_held_out_examples_total"])
        if examples > self.examples:
            self.last_learned_s = time.monotonic()
        self.examples = examples
        self.organic_learned = int(learner["thalweg_learner_organic_installs_total"])
        self.learner_lag_s = learner.get("thalweg_learner_lag_seconds", 0.0)  # a learner that starts doesn't say
        if self.learned_all and not self.version_wanted:
            self.version_wanted = int(learner["thalweg_learner_published_version"])
        for figure, metric in (("auc_arrival", "auc"), ("log_loss", "log_loss"), ("base_rate", "base_rate")):
            self.state.figures[figure] = learner[f"thalweg_learner_{metric}.all.lifetime"]
        self.state.figures["duplicates_dropped"] = int(learner["thalweg_learner_duplicates_total"])
