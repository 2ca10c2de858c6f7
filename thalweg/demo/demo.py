"""The demo: every service as a process, MovieLens through them, ranking requests meanwhile, a summary at the end."""

import json
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console

from producers.movielens import fetch_movielens
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.runtime.errors import StackError
from stream.runtime.settings import Settings
from stream.snapshots.redis_store import RedisStore
from stream.spec.spec_file import load_spec
from thalweg.demo.caller import kafka_caller
from thalweg.demo.freshness import DemoFreshness
from thalweg.demo.monitor import SERVICES, ClientProcess, DemoMonitor, RequestTally
from thalweg.demo.rescore import rescore
from thalweg.demo.screen import Screen
from thalweg.demo.services import DemoServices, Interrupts
from thalweg.views.tables import moves_table, print_table, summary_table

PAGES: Final = 100_000  # of MovieLens-100k
UPDATE_S: Final = 1.0
STALLED_S: Final = 60.0  # after the replay, a learner that learns nothing for this long is stuck
UNANSWERED: Final = "no ranking request was answered by a model"
REPLIES_CHECKED: Final = 500
MEANINGS: Final = {  # of all figures, in the summary's order
    "pages": "pages replayed",
    "examples_learned": "examples that the learner has learned, each once",
    "duplicates_dropped": "duplicate examples",
    "dead_letters": "events and examples that a service rejected",
    "auc_arrival": "AUC over all examples, each predicted just before it was learned",
    "log_loss": "mean log loss over the same predictions",
    "base_rate": "share of examples with an install",
    "freshness_p50_ms": "install appended to the log → first reply by a version that has learned it",
    "freshness_p99_ms": "",
    "freshness_deep_p50_ms": "same, until the deep part has learned it",
    "freshness_deep_p99_ms": "",
    "servable_p50_ms": "install appended → that version swapped in",
    "servable_p99_ms": "",
    "rank_p50_ms": "scheduled send → reply at the caller, 100 candidates",
    "rank_p99_ms": "",
    "rank_replies": "replies to requests of an open-loop client",
    "rank_errors": "requests without a list",
    "swaps": "versions that a ranker swapped in",
    "replies_checked": "replies recomputed for verification",
    "mixed_replies": "of those, replies that don't match their version",
    "one_install_ms": "the one install above: appended → first reply that has learned it",
    "seconds": "from the first command to this table",
}


KEPT: Final = (
    "it stays up until `thalweg down`: try `thalweg rank 405`, `thalweg send-install 405 50`, `thalweg status`"
)


@dataclass(frozen=True)
class DemoConfig:
    """How much is replayed (0: all), how fast, how often rankers are asked, and whether the demo stays up."""

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

    @property
    def sample_every(self) -> int:
        """Every Nth reply is kept whole for a check: twice as many as are needed."""
        return max(1, round(self.pages / self.rate * self.rps / (2 * REPLIES_CHECKED)))


def run_demo(settings: Settings, spec: Path, config: DemoConfig) -> dict[str, float | None]:
    """Run it, show it, stop it; returns the figures. Raises a ThalwegError when a service fails."""
    console, begun_s = Console(), time.monotonic()

    report = partial(console.print, soft_wrap=True, highlight=False)
    model = load_spec(spec).name
    settings = settings.model_copy(update={"model": model})
    fetch_movielens(settings.data.resolve(), report)
    with Interrupts() as interrupts:
        services = DemoServices(settings, interrupts, report)
        stays_up = False
        try:
            services.open()
            apply_topics(services.settings, plan_topics(services.settings))
            report("starting joiner, learner and ranker")
            for name in SERVICES:
                services.start(name, "run", name, "--spec", str(spec))
            services.wait_ready(*SERVICES)
            monitor = run_replay(services, spec, config, console)
            found = monitor.state.figures | {"pages": monitor.report["pages"]}
            report("recomputing a sample of the replies from the snapshots that they name")
            with closing(RedisStore(services.settings, model)) as store:
                replies = [outcome.reply for outcome in monitor.requests.sample if outcome.reply is not None]
                counts = rescore(store, model, replies)
                found |= {"replies_checked": counts.checked, "mixed_replies": counts.mixed}
                found["one_install_ms"] = one_install(services.settings, store, monitor.requests, console)
            found["seconds"] = round(time.monotonic() - begun_s, 1)
            stays_up = config.keep
        finally:
            if stays_up:
                services.release()
            else:
                services.stop()
    figures = {name: found.get(name) for name in MEANINGS}
    print_table(summary_table(figures, MEANINGS), console)
    if stays_up:
        report(KEPT)
        if not services.state.own_stack:
            names = f"THALWEG_TOPIC_PREFIX={services.settings.topic_prefix} THALWEG_MODEL={model}"
            report(f"where THALWEG_KAFKA or THALWEG_REDIS is set, commands use that stack: set {names} too")
    return figures


def run_replay(services: DemoServices, spec: Path, config: DemoConfig, console: Console) -> DemoMonitor:
    """Replay, ask and show until everything is learned."""
    report = services.local / "replay.json"
    with (
        closing(RedisStore(services.settings, services.settings.model)) as store,
        closing(ClientProcess(services, config.rps, config.sample_every)) as client,
        Screen(console) as screen,
    ):
        monitor = DemoMonitor(services, DemoFreshness(store), config.pages)
        services.start("replay", "replay", "movielens", "--spec", str(spec), "--rate", str(config.rate),
                       "--limit", str(config.pages), "--json", str(report))  # fmt: skip
        while not monitor.done:
            time.sleep(UPDATE_S)
            services.check_running("replay")
            monitor.add(client.take())
            monitor.update()
            if not monitor.report and not services.is_running("replay"):
                with suppress(OSError, ValueError):  # there is none, or it's cut off
                    monitor.report = json.loads(report.read_bytes())
                services.check_running(*["replay"] * bool(monitor.report))  # without a report: say how it ended
            if monitor.report and time.monotonic() > monitor.last_learned_s + STALLED_S:
                reason = UNANSWERED if monitor.learned_all else "not all examples are learned, and nothing moves"
                raise StackError(f"{reason}; see {services.local / 'logs'}")
            screen.show(monitor.state)
        monitor.add(client.close())
        monitor.update()
    return monitor


def one_install(settings: Settings, store: RedisStore, requests: RequestTally, console: Console) -> float:
    """Show a user's page before and after one install; returns the milliseconds between install and reply."""
    if not requests.users:
        raise StackError(f"{UNANSWERED}; see {settings.local / 'logs'}")
    user = requests.users.most_common(1)[0][0]
    with kafka_caller(settings) as caller:
        before = caller.rank(user).reply
        item = before.items[len(before.items) // 2]
        appended_ms = caller.install(user, item, before)
        after, served_ms = caller.wait_learned(store, appended_ms, before.version, lambda: caller.rank(user))
        print_table(moves_table(before, after, item, caller.titles()), console)
    console.print(f"{served_ms} ms from the install's append to the first reply that has learned it", highlight=False)
    return served_ms
