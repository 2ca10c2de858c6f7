"""Which extra of the package brings a module that isn't installed."""

from contextlib import suppress
from typing import Any, Final

import typer
from typer.core import TyperGroup

from stream.runtime.errors import REFUSALS, SettingsError
from stream.runtime.logs import is_json, log_to_stderr
from stream.runtime.settings import log_settings, refused_exit
from thalweg.cli.options import print_stderr

PACKAGES: Final = ("thalweg", "producers", "stream", "learner", "ranker")
# What each extra of pyproject.toml brings beside `stream`, whose modules every extra but `client` and `peers` includes.
MODULES: Final = {
    "joiner": ("aiokafka", "cramjam", "faust"),
    "learner": ("torch",),
    "backup": ("fsspec", "obstore"),
    "ranker": ("faiss", "httptools", "litestar", "threadpoolctl", "uvicorn", "uvloop"),
    "console": ("httptools", "litestar", "uvicorn", "uvloop"),
    "producers": ("polars",),
    "client": ("httpx",),
    "tools": ("matplotlib", "plotext", "scipy"),
    "peers": ("river", "vowpalwabbit"),
}


def missing_package(bad: ModuleNotFoundError, room: str | None = None) -> SettingsError:
    """The error in place of this one: it names the extra to install. `room`: the service that the command runs.

    Raises the error itself if the module is one of our own.

    >>> str(missing_package(ModuleNotFoundError(name="httpx")))
    "this command needs httpx, which isn't installed: pip install 'thalweg[client]' (in a clone: make setup)"
    >>> str(missing_package(ModuleNotFoundError(name="numba.core"), "ranker"))
    "this command needs numba, which isn't installed: pip install 'thalweg[ranker]' (in a clone: make setup)"
    """
    package = (bad.name or "").partition(".")[0]
    if package in {"", *PACKAGES}:
        raise bad
    owner = next((extra for extra, modules in MODULES.items() if package in modules), "tools")
    remedy = f"pip install 'thalweg[{room or owner}]' (in a clone: make setup)"
    return SettingsError(f"this command needs {package}, which isn't installed: {remedy}")


class Rooms(TyperGroup):
    """Commands that each run the room they are named after: what one lacks is in the extra of that name.

    What another start won't help ends with an exit code of its own, so that a supervisor can leave it.
    """

    def invoke(self, ctx: Any) -> Any:
        """Raises typer.Exit with THALWEG_REFUSED_EXIT when the room is refused."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as bad:
            refusal: Exception = missing_package(bad, ctx.invoked_subcommand)
        except REFUSALS as bad:
            refusal = bad
        _log_as_set(ctx.invoked_subcommand)
        print_stderr(f"thalweg: {refusal}")
        raise typer.Exit(refused_exit())


def _log_as_set(room: str) -> None:
    """Log JSON if THALWEG_LOG says so: invalid settings are refused before any are known."""
    settings = log_settings()
    if settings.log == "json" and not is_json():
        with suppress(ModuleNotFoundError):  # what is missing may be what logs
            log_to_stderr(settings, room)
