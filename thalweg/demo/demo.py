"""The demo: every service as a process, a world that they serve, a summary at the end."""

import time
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from secrets import token_urlsafe
from typing import Final, NamedTuple

from rich.console import Console

from producers.movielens import fetch_movielens
from producers.store.parameters import BASE_RATES
from stream.events.codec import decode_examples
from stream.events.topics import EXAMPLES
from stream.events.types import Examples
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.log.kafka_log import KafkaLog
from stream.log.log_scan import read_range
from stream.log.protocol import START
from stream.runtime.errors import DataError, StackError
from stream.runtime.settings import Settings
from stream.snapshots.redis_store import RedisStore
from stream.spec.spec_file import load_spec
from thalweg.demo.acquisition import CONTROL, LATELY, MODEL
from thalweg.demo.caller import kafka_caller
from thalweg.demo.config import DemoConfig, World
from thalweg.demo.demo_state import disk_errors
from thalweg.demo.monitor import SERVICES, RequestTally
from thalweg.demo.play import UNANSWERED, play
from thalweg.demo.rescore import rescore
from thalweg.demo.services import DemoServices, Interrupts
from thalweg.demo.store_player import PRESET
from thalweg.views.tables import moves_table, print_table, summary_table

KEPT: Final = (
    "it stays up until `thalweg down`: try `thalweg rank {user}`, `thalweg send-install {user} {item}`, "
    "`thalweg status`"
)
OPTIONS: Final = {"ranker": ("--http", "127.0.0.1:0")}  # of services; a free port
CONSOLE: Final = "console"
CONSOLE_IS_AT: Final = "watch it at [bold]http://{address}/[/]; there this token pins versions and rolls back: {token}"
CONTEXT: Final = {"store": ("hour=20", "weekday=2", "device=phone"), "movielens": ()}  # of pages that people look at
STORE: Final = (
    "the store's world begins once its past is learned: of what is shown at random {rate:.0%} is installed (preset "
    "{preset}); half of its users see what is popular, the others what the model ranks first"
)
MEANINGS: Final = {  # of all figures, in the summary's order
    "pages": "pages shown",
    "examples_learned": "examples that the learner has learned, or holds out to be judged by",
    "examples_emitted": "different examples that the joiner has emitted up to there: each counts once",
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
    "rank_p50_ms": "scheduled send → reply at the caller, over HTTP, 100 candidates",
    "rank_p99_ms": "",
    "rank_replies": "replies to ranking requests, those after the last page among them",
    "rank_errors": "requests without a list",
    "rank_shed": "of those, requests that the ranker refused because their list would have come too late",
    "swaps": "versions that a ranker swapped in",
    "replies_checked": "replies recomputed for verification",
    "mixed_replies": "of those, replies that don't match their version",
    "one_install_ms": "the one install above: appended → first reply that has learned it",
    "seconds": "from the first command to this table",
}


STORE_MEANINGS: Final = {  # of those that only the store has
    "pages_open": "of those, pages whose window is still open: installs may follow",
    f"acquisition_{CONTROL}": "installs to be expected per 1,000 shown items, if all saw what is popular",
    f"acquisition_{MODEL}": "same, of what the model shows, adjusted: the arms have different users",
    "acquisition_oracle": "same, the ceiling: the best pages by the world's truth",
    "acquisition_gain": f"gain of {MODEL} over {CONTROL}, on the same pages",
    f"acquisition_{CONTROL}_lately": f"the same in the last {LATELY} s",
    f"acquisition_{MODEL}_lately": "",
    "acquisition_gain_lately": "",
    f"installs_{CONTROL}": "installs per 1,000 shown items, without retracted ones: what is seen of acquisition",
    f"installs_{MODEL}": "",
    "models_promoted": "new models that took over from the live one: the first of the two above",
    "models_refused": "new models that the learner's test refused: the second",
}


def meanings_of(world: World) -> dict[str, str]:
    """All figures of a demo in the summary's order, each with its meaning."""
    pages, *others = MEANINGS.items()
    return dict([pages, *STORE_MEANINGS.items(), *others]) if world == "store" else dict(MEANINGS)


def run_demo(settings: Settings, spec: Path, config: DemoConfig) -> dict[str, float | None]:
    """Run it, show it, stop it; returns the figures. Raises a ThalwegError when a service fails."""
    console, begun_s = Console(), time.monotonic()

    report = partial(console.print, soft_wrap=True, highlight=False)
    model = load_spec(spec).name
    settings = settings.model_copy(update={"model": model})
    if config.world == "movielens":
        fetch_movielens(settings.data.resolve(), report)
    with Interrupts() as interrupts:
        services = DemoServices(settings, interrupts, report)
        stays_up = False
        try:
            services.open()
            apply_topics(services.settings, plan_topics(services.settings))
            report("starting joiner, learner and ranker")
            for name in SERVICES:
                services.start(name, "run", name, "--spec", str(spec), *OPTIONS.get(name, ()))
            token = start_console(services, spec, config.world)
            services.wait_ready(*SERVICES, CONSOLE)
            report(CONSOLE_IS_AT.format(address=services.http_of(CONSOLE), token=token))
            report(f"asking the ranker over HTTP, at {services.http_of('ranker')}")
            if config.world == "store":
                report(STORE.format(rate=BASE_RATES[PRESET], preset=PRESET))
            monitor = play(services, spec, config, console)
            found = {"pages": monitor.state.pages} | monitor.state.figures | learned_once(services)
            report("recomputing a sample of the replies from the snapshots that they name")
            with closing(RedisStore(services.settings, model)) as store:
                replies = [outcome.reply for outcome in monitor.requests.sample if outcome.reply is not None]
                counts = rescore(store, model, replies)
                found |= {"replies_checked": counts.checked, "mixed_replies": counts.mixed}
                context = monitor.store.context if monitor.store else {}
                scene = last_scene(services.settings, store, monitor.requests, context, console)
            found["one_install_ms"] = scene.served_ms
            found["seconds"] = round(time.monotonic() - begun_s, 1)
            stays_up = config.keep
        finally:
            if stays_up:
                services.release()
            else:
                services.stop()
    meanings = meanings_of(config.world)
    figures = {name: found.get(name) for name in meanings}
    print_table(summary_table(figures, meanings), console)
    if stays_up:
        report(KEPT.format(user=scene.user, item=scene.item))
        if not services.state.own_stack:
            names = f"THALWEG_TOPIC_PREFIX={services.settings.topic_prefix} THALWEG_MODEL={model}"
            report(f"where THALWEG_KAFKA or THALWEG_REDIS is set, commands use that stack: set {names} too")
    return figures


def start_console(services: DemoServices, spec: Path, world: World) -> str:
    """Start the console; returns the token by which a person may decide there what is served."""
    token, file = token_urlsafe(18), services.local / "console-tokens.toml"
    with disk_errors(file):
        file.touch(0o600)
        file.write_text(f'[console]\ntoken = "{token}"\nscopes = ["admin"]\n')
    context = [word for column in CONTEXT[world] for word in ("--context", column)]
    words = ["--spec", str(spec), "--http", "127.0.0.1:0", "--demo", *context]
    services.start(CONSOLE, "console", *words, HTTP_TOKENS=str(file))
    return token


LAST_SCENE_TRIES: Final = 3  # a page may be held out from learning


class LastScene(NamedTuple):
    """Whose page was shown, an item that they don't have, and the milliseconds between their install and its reply."""

    user: str
    item: str
    served_ms: int


def last_scene(
    settings: Settings,
    store: RedisStore,
    requests: RequestTally,
    context: Mapping[str, str | float],
    console: Console,
) -> LastScene:
    """Show a user's page before and after one install. `context`: of such a page."""
    if not requests.users:
        raise StackError(f"{UNANSWERED}; see {settings.local / 'logs'}")
    user = requests.users.most_common(1)[0][0]
    with kafka_caller(settings) as caller:
        for tries_left in reversed(range(LAST_SCENE_TRIES)):
            before = caller.rank(user, context=context).reply
            item = before.items[len(before.items) // 2]
            appended_ms = caller.install(user, item, before)
            try:
                after, served_ms = caller.wait_learned(
                    store, appended_ms, before.version, lambda: caller.rank(user, context=context)
                )
                break
            except DataError:
                if not tries_left:
                    raise
        print_table(moves_table(before, after, item, caller.titles()), console)
    console.print(f"{served_ms} ms from the install's append to the first reply that has learned it", highlight=False)
    return LastScene(user, next(one for one in after.items if one != item), served_ms)


def learned_once(services: DemoServices) -> dict[str, float]:
    """How many examples the learner has learned or holds out, and how many different ones the log has up to there."""
    learner = services.metrics("learner")
    with closing(KafkaLog(services.settings)) as log:
        records = read_range(log, EXAMPLES.name, {0: START}, {0: int(learner["thalweg_learner_offset"])})
        emitted = {
            one for record in records for page in decode_examples(record.value or b"")[0]
            if isinstance(page, Examples) for one in page.ids
        }  # fmt: skip
    learned = learner["thalweg_learner_examples_total"] + learner["thalweg_learner_held_out_examples_total"]
    return {"examples_learned": learned, "examples_emitted": len(emitted)}
