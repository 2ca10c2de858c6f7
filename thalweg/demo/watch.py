"""What a demo observes while it runs: replies as the asker saw them, and each room's own figures."""

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

import msgspec

from stream.runtime.errors import StackError
from thalweg.demo.freshness import Freshness, percentile
from thalweg.demo.open_loop_client import Observed
from thalweg.demo.rooms import Rooms
from thalweg.demo.screen import Now, Rates

LAST_ANSWERS_S: Final = 15.0


@dataclass
class Asked:
    """What the asker has observed so far."""

    users: Counter[str] = field(default_factory=Counter)
    latency_ms: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    sample: list[Observed] = field(default_factory=list)
    last: Observed | None = None

    def take(self, one: Observed) -> None:
        """One more."""
        if one.error:
            self.errors[one.error] += 1
            return
        self.users[one.user] += 1
        self.latency_ms.append(one.latency_ms)
        self.last = one
        if one.reply is not None:
            self.sample.append(one)


class AskerProcess:
    """The asker in a process of its own, and a thread that reads what it writes."""

    def __init__(self, rooms: Rooms, rps: float, sample_every: int) -> None:
        self._log = rooms.local / "logs" / "asker.log"
        self._process = rooms.start_child("asker", "ask", "--rps", str(rps), "--sample", str(sample_every))
        self._decoder = msgspec.json.Decoder(Observed)
        self._came: list[Observed] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> "AskerProcess":
        return self

    def __exit__(self, kind: type[BaseException] | None, bad: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def take(self) -> list[Observed]:
        """What came since the last call. Raises StackError when the process has ended by itself."""
        if self._process.poll() is not None:
            raise StackError(f"the asker ended in the middle of the demo; see {self._log}")
        return self._taken()

    def stop(self) -> list[Observed]:
        """Tell it to stop, wait for its last answers, return them; safe to call twice."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(LAST_ANSWERS_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._thread.join(5.0)
        return self._taken()

    def _taken(self) -> list[Observed]:
        with self._lock:
            came, self._came = self._came, []
        return came

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            one = self._decoder.decode(line)
            with self._lock:
                self._came.append(one)


class Watch:
    """Keeps `now` up to date."""

    def __init__(self, rooms: Rooms, freshness: Freshness, pages_total: int) -> None:
        self.asked = Asked()
        self.now = Now(pages_total=pages_total)
        self.played: dict[str, float] = {}  # the replay's own report, when it has ended
        self.duplicates = 0
        self.grown_s = time.monotonic()  # when something was learned last
        self._rooms, self._freshness, self._rates = rooms, freshness, Rates()

    @property
    def learned_all(self) -> bool:
        """Whether every example that the replay's events make has been learned, or refused."""
        return bool(self.played) and self.now.examples + self.now.dead_letters >= self.played["examples"]

    @property
    def done(self) -> bool:
        """Whether all is learned and a model has answered: a short replay ends before the asker has begun."""
        return self.learned_all and self.asked.last is not None and self.asked.last.version > 0

    def take(self, observed: list[Observed]) -> None:
        """Replies, as they were observed."""
        for one in observed:
            self.asked.take(one)
            if not one.error:
                self._freshness.answered(one.version, one.appended_ms, one.live_since_ms)

    def look(self) -> None:
        """Ask each room how it is; one that doesn't answer leaves its figures as they were."""
        now, asked, freshness = self.now, self.asked, self._freshness
        now.phase = "learning the rest" if self.played else "replaying"
        joiner, learner, ranker = (dict(self._rooms.metrics(room)) for room in ("joiner", "learner", "ranker"))
        if learner:
            self._learner(learner)
        if joiner and learner and ranker:
            letters = (
                "thalweg_joiner_dead_letters_total",
                "thalweg_learner_dead_letters_total",
                "thalweg_ranker_dead_letters_total",
            )
            now.dead_letters = int(sum((joiner | learner | ranker).get(name, 0.0) for name in letters))
            now.pages = int(joiner.get("thalweg_joiner_events_total.page", 0))
            now.swaps = int(ranker.get("thalweg_ranker_swaps_total", 0))
            counts = {
                "joiner (events)": joiner.get("thalweg_joiner_events_total", 0.0),
                "learner (examples)": float(now.examples),
                "ranker (pages)": ranker.get("thalweg_ranker_replies_total", 0.0),
            }
            now.rates = self._rates.update(counts, time.monotonic())
        now.freshness_p50_ms, now.freshness_p99_ms = (percentile(freshness.served_ms, p) for p in (50, 99))
        deep_ms = freshness.served_deep_ms
        now.freshness_deep_p50_ms, now.freshness_deep_p99_ms = (percentile(deep_ms, p) for p in (50, 99))
        now.servable_p50_ms = percentile(freshness.servable_ms, 50)
        now.rank_p50_ms, now.rank_p99_ms = (percentile(asked.latency_ms, p) for p in (50, 99))
        now.replies, now.errors = len(asked.latency_ms), asked.errors.total()
        if asked.last is not None:
            now.version, now.staleness_ms = asked.last.version, asked.last.staleness_ms

    def _learner(self, learner: Mapping[str, float]) -> None:
        now, examples = self.now, int(learner["thalweg_learner_examples_total"])
        if examples > now.examples:
            self.grown_s = time.monotonic()
        now.examples = examples
        now.auc, now.log_loss, now.base_rate = (
            learner[f"thalweg_learner_{name}.all.lifetime"] for name in ("auc", "log_loss", "base_rate")
        )
        self.duplicates = int(learner["thalweg_learner_duplicates_total"])

    def figures(self) -> dict[str, float | None]:
        """The figures of the summary, in its order."""
        self.look()
        now, freshness, latency_ms = self.now, self._freshness, self.asked.latency_ms
        return {
            "pages": self.played["pages"],
            "examples_learned": now.examples,
            "duplicates_dropped": self.duplicates,
            "dead_letters": now.dead_letters,
            "auc_arrival": now.auc,
            "log_loss": now.log_loss,
            "base_rate": now.base_rate,
            "freshness_p50_ms": percentile(freshness.served_ms, 50),
            "freshness_p99_ms": percentile(freshness.served_ms, 99),
            "freshness_deep_p50_ms": percentile(freshness.served_deep_ms, 50),
            "freshness_deep_p99_ms": percentile(freshness.served_deep_ms, 99),
            "servable_p50_ms": percentile(freshness.servable_ms, 50),
            "servable_p99_ms": percentile(freshness.servable_ms, 99),
            "rank_p50_ms": percentile(latency_ms, 50),
            "rank_p99_ms": percentile(latency_ms, 99),
            "rank_replies": len(latency_ms),
            "rank_errors": self.asked.errors.total(),
            "swaps": now.swaps,
        }
