"""The command line. Commands import what they run, so that `thalweg --help` is quick."""

from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stream.runtime.errors import ThalwegError
from thalweg.cli.experiment import experiment
from thalweg.cli.extras import missing_package
from thalweg.cli.operations import operations
from thalweg.cli.options import print_stderr
from thalweg.cli.services import services
from thalweg.cli.tour import tour

RENAMED = {"apply": "apply-topics", "install": "send-install"}  # old names work until the next version
PANELS = {"Try": tour, "Model": experiment, "Run": services, "Operate": operations}  # of `thalweg --help`


class _Commands(TyperGroup):
    """Accepts old names of commands; turns a ThalwegError or a missing package into one line and exit code 1."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        new = RENAMED.get(cmd_name, cmd_name)
        if new != cmd_name and not ctx.resilient_parsing:  # not while a shell completes
            print_stderr(f"thalweg: `{cmd_name}` is now `{new}`; the old name goes with the next version")
        return super().get_command(ctx, new)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ThalwegError as bad:
            print_stderr(f"thalweg: {bad}")
            raise typer.Exit(1) from None
        except ModuleNotFoundError as bad:
            print_stderr(f"thalweg: {missing_package(bad)}")
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
    """Options before the command."""


if __name__ == "__main__":
    app()
