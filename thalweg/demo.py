"""The whole loop, shown: every room as a process, MovieLens through it, questions all the while, what came of it."""

import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from producers.movielens import fetch_movielens
from stream.errors import StackError
from stream.kafka_admin import apply_topics, plan_topics
from stream.redis_store import RedisStore
from stream.settings import Settings
from stream.spec import load_spec
from thalweg.asker import Observed
from thalweg.caller import calling
from thalweg.freshness import Freshness, percentile
from thalweg.recount import Recount, recount
from thalweg.rooms import Interrupts, Rooms, read_report
from thalweg.screen import Now, Rates, Screen
from thalweg.show import moves_table, printed, summary_table

PAGES: Final = 100_000  # of MovieLens-100k
TURN_S: Final = 0.5
STILL_S: Final = 5.0  # a learner that learns nothing for so long after the replay has learned all it gets
REPLIES_ENOUGH: Final = 500
SAYS: Final = {
    "pages": "pages replayed",
    "examples_learned": "examples that the learner has learned, each once",
    "duplicates_dropped": "examples that came twice",
    "dead_letters": "what a room couldn't take in",
    "auc_arrival": "AUC over all examples, each predicted just before it was learned",
    "log_loss": "likewise",
    "base_rate": "share of examples with an install",
    "freshness_p50_ms": "install appended to the log → first reply by a version that has learned it",
    "freshness_p99_ms": "",
    "servable_p50_ms": "install appended → that version swapped in",
    "servable_p99_ms": "",
    "rank_p50_ms": "intended moment of asking → reply at the caller, 100 candidates",
    "rank_p99_ms": "",
    "rank_replies": "replies, asked open loop",
    "rank_errors": "requests without a list",
    "swaps": "versions that a ranker swapped in",
    "replies_checked": "replies recomputed from the snapshot of the version that they name",
    "mixed_replies": "of those, not explained by that version",
    "one_install_ms": "the one install above: appended → first reply that has learned it",
    "seconds": "from the first command to this table",
}


@dataclass(frozen=True)
class DemoConfig:
    """How much is replayed (0: all), how fast, how often is asked, and whether it stays up."""

    seconds: float = 0.0
    limit: int = 0
    rate: float = 1_000.0
    rps: float = 50.0
    keep: bool = False

    @property
    def pages(self) -> int:
        """How many pages are replayed."""
        by_time = round(self.seconds * self.rate) if self.seconds else PAGES
        return max(1, min(PAGES, self.limit or PAGES, by_time))


def run_demo(settings: Settings, spec: Path, config: DemoConfig) -> dict[str, float | None]:
    """Run it, show it, end it; returns the figures. Raises a ThalwegError when a room can't go on."""
    console, begun_s = Console(), time.monotonic()

    def tell(line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False)

    model = settings.model or load_spec(spec).name
    fetch_movielens(settings.data.resolve(), tell)
    with Interrupts() as interrupts:
        rooms = Rooms(settings, interrupts, tell)
        stays = False
        try:
            apply_topics(rooms.settings, plan_topics(rooms.settings))
            tell("starting joiner, learner and ranker")
            for room in ("joiner", "learner", "ranker"):
                rooms.start(room, "run", room, "--spec", str(spec))
            rooms.wait_ready("joiner", "learner", "ranker")
            figures, asked = watch(rooms, spec, model, config, console)
            tell("recomputing a sample of the replies from the snapshots that they name")
            figures |= check(rooms.settings, model, asked)
            figures["one_install_ms"] = one_install(rooms.settings, model, asked, console)
            figures["seconds"] = round(time.monotonic() - begun_s, 1)
            stays = config.keep
        finally:
            if not stays:
                rooms.end()
    printed(summary_table(figures, SAYS), console)
    if stays:
        user = asked.users.most_common(1)[0][0] if asked.users else "1"
        tell(
            f"it stays up: `thalweg rank {user}`, `thalweg install {user} 50`, `thalweg status`; `thalweg down` ends it"
        )
    return figures


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


def watch(
    rooms: Rooms, spec: Path, model: str, config: DemoConfig, console: Console
) -> tuple[dict[str, float | None], Asked]:
    """Replay, ask and show until everything is learned; returns the figures and what was asked."""
    sample_every = max(1, round(config.pages / config.rate * config.rps / (2 * REPLIES_ENOUGH)))
    asker = rooms.start_child("asker", "ask", "--rps", str(config.rps), "--sample", str(sample_every))
    report = rooms.local / "replay.json"
    asked, seen, now = Asked(), Pipe(asker), Now(pages_total=config.pages)
    store, rates = RedisStore(rooms.settings, model), Rates()
    freshness = Freshness(store)
    try:
        rooms.start("replay", "replay", "movielens", "--spec", str(spec), "--rate", str(config.rate), "--limit",
                    str(config.pages), "--json", str(report))  # fmt: skip
        with Screen(console) as screen:
            grown_s = time.monotonic()
            while True:
                rooms.check("replay")
                if asker.poll() is not None:
                    raise StackError(
                        f"the asker ended in the middle of the demo; see {rooms.local / 'logs' / 'asker.log'}"
                    )
                for one in seen.take():
                    asked.take(one)
                    if not one.error:
                        freshness.answered(one.version, one.appended_ms, one.live_since_ms)
                before = now.examples
                look(rooms, now, asked, freshness, rates)
                grown_s = time.monotonic() if now.examples > before else grown_s
                now.phase = "replaying" if rooms.running("replay") else "learning the rest"
                screen.show(now)
                if not rooms.running("replay"):
                    played = read_report(report)
                    if not played:
                        rooms.check()  # says how it ended
                        raise StackError("the replay wrote no report")
                    if now.examples >= played["examples"] or time.monotonic() > grown_s + STILL_S:
                        break
                time.sleep(TURN_S)
    finally:
        for one in seen.close():
            asked.take(one)
        store.close()
    return figures_of(now, asked, freshness, played), asked


class Pipe:
    """What the asker writes, read by a thread of its own."""

    def __init__(self, asker: "subprocess.Popen[bytes]") -> None:
        self._asker = asker
        self._decoder = msgspec.json.Decoder(Observed)
        self._came: list[Observed] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def take(self) -> list[Observed]:
        """What came since the last call."""
        with self._lock:
            came, self._came = self._came, []
        return came

    def close(self) -> list[Observed]:
        """Tell the asker to stop, wait for its last answers, return them."""
        assert self._asker.stdin is not None
        self._asker.stdin.close()
        try:
            self._asker.wait(15.0)
        except subprocess.TimeoutExpired:
            self._asker.kill()
        self._thread.join(5.0)
        return self.take()

    def _read(self) -> None:
        assert self._asker.stdout is not None
        for line in self._asker.stdout:
            one = self._decoder.decode(line)
            with self._lock:
                self._came.append(one)


def look(rooms: Rooms, now: Now, asked: Asked, freshness: Freshness, rates: Rates) -> None:
    """Ask each room how it is."""
    joiner, learner, ranker = (rooms.metrics(room) for room in ("joiner", "learner", "ranker"))
    now.pages = int(joiner.get("thalweg_joiner_events_total.page", now.pages))
    if learner:
        now.examples = int(learner["thalweg_examples_learned"])
        now.auc, now.log_loss = learner["thalweg_auc_arrival"], learner["thalweg_log_loss"]
        now.base_rate = learner["thalweg_base_rate"]
        now.duplicates = int(learner["thalweg_duplicates_dropped"])
    now.swaps = int(ranker.get("thalweg_ranker_swaps_total", now.swaps))
    now.dead_letters = max(
        now.dead_letters,
        int(
            joiner.get("thalweg_joiner_dead_letters_total", 0)
            + learner.get("thalweg_dead_letters", 0)
            + ranker.get("thalweg_ranker_dead_letters_total", 0)
        ),
    )
    replies = ranker.get("thalweg_ranker_replies_total", 0.0)
    now.rates = rates.update(
        {
            "joiner (events)": joiner.get("thalweg_joiner_events_total", 0.0),
            "learner (examples)": now.examples,
            "ranker (pages)": replies,
        },
        time.monotonic(),
    )
    now.freshness_p50_ms, now.freshness_p99_ms = (percentile(freshness.served_ms, p) for p in (50, 99))
    now.servable_p50_ms = percentile(freshness.servable_ms, 50)
    now.rank_p50_ms, now.rank_p99_ms = (percentile(asked.latency_ms, p) for p in (50, 99))
    now.replies, now.errors = len(asked.latency_ms), asked.errors.total()
    if asked.last is not None:
        now.version, now.staleness_ms = asked.last.version, asked.last.staleness_ms


def figures_of(now: Now, asked: Asked, freshness: Freshness, played: dict[str, float]) -> dict[str, float | None]:
    """The figures of the summary, in its order."""
    return {
        "pages": played["pages"],
        "examples_learned": now.examples,
        "duplicates_dropped": now.duplicates,
        "dead_letters": now.dead_letters,
        "auc_arrival": now.auc,
        "log_loss": now.log_loss,
        "base_rate": now.base_rate,
        "freshness_p50_ms": percentile(freshness.served_ms, 50),
        "freshness_p99_ms": percentile(freshness.served_ms, 99),
        "servable_p50_ms": percentile(freshness.servable_ms, 50),
        "servable_p99_ms": percentile(freshness.servable_ms, 99),
        "rank_p50_ms": percentile(asked.latency_ms, 50),
        "rank_p99_ms": percentile(asked.latency_ms, 99),
        "rank_replies": len(asked.latency_ms),
        "rank_errors": asked.errors.total(),
        "swaps": now.swaps,
    }


def check(settings: Settings, model: str, asked: Asked) -> dict[str, float | None]:
    """Recompute the sampled replies, each from the version that it names."""
    store = RedisStore(settings, model)
    try:
        found: Recount = recount(store, model, [one.reply for one in asked.sample if one.reply is not None])
    finally:
        store.close()
    return {"replies_checked": found.checked, "mixed_replies": found.mixed}


def one_install(settings: Settings, model: str, asked: Asked, console: Console) -> float:
    """Show a user's page before and after one install; returns the milliseconds between install and reply."""
    store = RedisStore(settings, model)
    try:
        with calling(settings) as caller:
            user = asked.users.most_common(1)[0][0]
            before = caller.rank(user).reply
            chosen = before.items[len(before.items) // 2]
            caller.saw(before)
            appended_ms = caller.install(user, chosen, before.time_ms + 1, before.request_id)
            learned = caller.wait_learned(store, appended_ms, before.version, lambda: caller.rank(user))
            printed(moves_table(before, learned.answer.reply, chosen, caller.titles()), console)
    finally:
        store.close()
    console.print(
        f"{learned.served_ms} ms from the install's append to the first reply that has learned it\n", highlight=False
    )
    return learned.served_ms
