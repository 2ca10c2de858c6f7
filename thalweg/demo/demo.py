"""The whole loop, shown: every room as a process, MovieLens through it, questions all the while, what came of it."""

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from producers.movielens import fetch_movielens
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.runtime.errors import StackError
from stream.runtime.settings import Settings
from stream.snapshots.redis_store import RedisStore
from stream.spec.spec_file import load_spec
from thalweg.demo.caller import calling
from thalweg.demo.freshness import Freshness
from thalweg.demo.rescore import recount
from thalweg.demo.rooms import Interrupts, Rooms, read_report
from thalweg.demo.screen import Screen
from thalweg.demo.watch import Asked, AskerProcess, Watch
from thalweg.views.show import moves_table, printed, summary_table

PAGES: Final = 100_000  # of MovieLens-100k
TURN_S: Final = 1.0
STILL_S: Final = 60.0  # after the replay, a learner that learns nothing for so long is stuck
UNANSWERED: Final = "no ranking request was answered by a model"
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
    "freshness_deep_p50_ms": "likewise, by a version whose deep part has learned it",
    "freshness_deep_p99_ms": "",
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


KEPT: Final = (
    "it stays up until `thalweg down`: try `thalweg rank 405`, `thalweg send-install 405 50`, `thalweg status`"
)


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

    @property
    def sample_every(self) -> int:
        """Every how many-th reply is kept for a check: twice as many as are needed."""
        return max(1, round(self.pages / self.rate * self.rps / (2 * REPLIES_ENOUGH)))


def run_demo(settings: Settings, spec: Path, config: DemoConfig) -> dict[str, float | None]:
    """Run it, show it, end it; returns the figures. Raises a ThalwegError when a room can't go on."""
    console, begun_s = Console(), time.monotonic()

    def tell(line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False)

    model = settings.model or load_spec(spec).name
    settings = settings.model_copy(update={"model": model})
    fetch_movielens(settings.data.resolve(), tell)
    with Interrupts() as interrupts:
        rooms = Rooms(settings, interrupts, tell)
        stays = False
        try:
            rooms.open()
            apply_topics(rooms.settings, plan_topics(rooms.settings))
            tell("starting joiner, learner and ranker")
            for room in ("joiner", "learner", "ranker"):
                rooms.start(room, "run", room, "--spec", str(spec))
            rooms.wait_ready("joiner", "learner", "ranker")
            seen = watch(rooms, spec, model, config, console)
            figures = seen.figures()
            tell("recomputing a sample of the replies from the snapshots that they name")
            with closing(RedisStore(rooms.settings, model)) as store:
                found = recount(store, model, [one.reply for one in seen.asked.sample if one.reply is not None])
                figures |= {"replies_checked": found.checked, "mixed_replies": found.mixed}
                figures["one_install_ms"] = one_install(rooms.settings, store, seen.asked, console)
            figures["seconds"] = round(time.monotonic() - begun_s, 1)
            stays = config.keep
        finally:
            if stays:
                rooms.leave()
            else:
                rooms.end()
    printed(summary_table(figures, SAYS), console)
    if stays:
        tell(KEPT)
        if not rooms.kept.own_stack:
            named = f"THALWEG_TOPIC_PREFIX={rooms.settings.topic_prefix} THALWEG_MODEL={model}"
            tell(f"where THALWEG_KAFKA or THALWEG_REDIS is set, they look where those say: set {named} too")
    return figures


def watch(rooms: Rooms, spec: Path, model: str, config: DemoConfig, console: Console) -> Watch:
    """Replay, ask and show until everything is learned."""
    report = rooms.local / "replay.json"
    with (
        closing(RedisStore(rooms.settings, model)) as store,
        AskerProcess(rooms, config.rps, config.sample_every) as asker,
        Screen(console) as screen,
    ):
        seen = Watch(rooms, Freshness(store), config.pages)
        rooms.start("replay", "replay", "movielens", "--spec", str(spec), "--rate", str(config.rate),
                    "--limit", str(config.pages), "--json", str(report))  # fmt: skip
        while not seen.done:
            time.sleep(TURN_S)
            rooms.check("replay")
            seen.take(asker.take())
            seen.look()
            if not seen.played and not rooms.running("replay"):
                seen.played = read_report(report)
                rooms.check(*["replay"] * bool(seen.played))  # without a report: say how it ended
            if seen.played and time.monotonic() > seen.grown_s + STILL_S:
                what = UNANSWERED if seen.learned_all else "not all examples are learned, and nothing moves"
                raise StackError(f"{what}; see {rooms.local / 'logs'}")
            screen.show(seen.now)
        seen.take(asker.stop())
    return seen


def one_install(settings: Settings, store: RedisStore, asked: Asked, console: Console) -> float:
    """Show a user's page before and after one install; returns the milliseconds between install and reply."""
    if not asked.users:
        raise StackError(f"{UNANSWERED}; see {settings.local / 'logs'}")
    user = asked.users.most_common(1)[0][0]
    with calling(settings) as caller:
        before = caller.rank(user).reply
        chosen = before.items[len(before.items) // 2]
        appended_ms = caller.install(user, chosen, before)
        learned = caller.wait_learned(store, appended_ms, before.version, lambda: caller.rank(user))
        printed(moves_table(before, learned.answer.reply, chosen, caller.titles()), console)
    took = f"{learned.served_ms} ms from the install's append to the first reply that has learned it"
    console.print(took, highlight=False)
    return learned.served_ms
