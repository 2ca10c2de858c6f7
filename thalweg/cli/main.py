"""The command line. Rooms are imported inside the commands, so that `thalweg --help` is quick."""

import sys
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stream.runtime.errors import ThalwegError
from thalweg.cli.experiment import lab
from thalweg.cli.operations import operate
from thalweg.cli.options import say
from thalweg.cli.services import services
from thalweg.cli.tour import tour

ROOMS = "thalweg", "producers", "stream", "learner", "ranker"
RENAMED = {"apply": "apply-topics", "install": "send-install"}  # old names are taken until the next version
PANELS = {"Try": tour, "Model": lab, "Run": services, "Operate": operate}  # of `thalweg --help`


class _Commands(TyperGroup):
    """Takes old names of commands; turns what is known to go wrong into one line and exit code 1."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        new = RENAMED.get(cmd_name, cmd_name)
        if new != cmd_name and not ctx.resilient_parsing:  # else a shell only completes
            say(f"thalweg: `{cmd_name}` is now `{new}`; the old name goes with the next version")
        return super().get_command(ctx, new)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ThalwegError as bad:
            print(f"thalweg: {bad}", file=sys.stderr)
            raise typer.Exit(1) from None
        except ModuleNotFoundError as bad:
            package = (bad.name or "").partition(".")[0]
            if package in {"", *ROOMS}:
                raise
            remedy = "`make setup` gets all that all commands need; in containers, take the image of this room"
            print(f"thalweg: this command needs {package}, which isn't installed: {remedy}", file=sys.stderr)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="A streaming online-learning Wide & Deep ranker. Start with `thalweg demo`.",
    epilog="Settings come from the environment (THALWEG_...); `thalweg doctor` lists them.",
)
for panel, commands in PANELS.items():
    for command in commands.registered_commands:
        command.rich_help_panel = panel
    for group in commands.registered_groups:
        group.rich_help_panel = panel
    app.add_typer(commands)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"thalweg {metadata.version('thalweg')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What stands before a command."""


if __name__ == "__main__":
    app()
