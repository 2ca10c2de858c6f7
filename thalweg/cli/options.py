"""Options that several commands take, and how they are read: settings, specs, the model, the file for `--json`."""

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.runtime.errors import DataError, SettingsError, SpecError
from stream.runtime.logs import is_json

if TYPE_CHECKING:
    from stream.runtime.settings import Settings
    from stream.snapshots.redis_store import RedisStore
    from stream.spec.bounds import Needs
    from stream.spec.spec import Spec

SPECS = Path(__file__).resolve().parents[1] / "specs"  # in a clone a link to `specs/`
SPEC = SPECS / "movielens.toml"

SpecFile = Annotated[
    Path | None, typer.Option("--spec", envvar="THALWEG_SPEC", help="The model's spec (TOML); required.")
]
SourceSpec = Annotated[
    Path | None, typer.Option("--spec", help="The model's spec (TOML).", show_default="a data set's own, THALWEG_SPEC")
]
ModelSpec = Annotated[
    Path | None,
    typer.Option("--spec", envvar="THALWEG_SPEC", help="The spec that names the model.", show_default="THALWEG_MODEL"),
]


def check_writable(path: Path | None) -> Path | None:
    """Check the file of `--json` before the command runs, which may take minutes. Raises DataError."""
    if path is not None:
        target = path if os.path.exists(path) else path.parent
        if not os.path.isdir(path.parent):
            raise DataError(f"{path} can't be written: {path.parent} isn't a folder; name another file with --json")
        if os.path.isdir(path) or not os.access(target, os.W_OK):
            raise DataError(f"{path} can't be written: {target} isn't writable; name another file with --json")
    return path


JsonFile = Annotated[
    Path | None,
    typer.Option("--json", callback=check_writable, help="Also write the result to this file as one flat JSON object."),
]
AcceptGap = Annotated[bool, typer.Option("--accept-gap", help="Continue past records that retention has deleted.")]


def span_ms(duration: str) -> int:
    """Milliseconds. Raises SettingsError when it isn't a duration such as 90s, 30m, 6h, 7d."""
    from stream.spec.values import duration_ms

    try:
        return duration_ms(duration)
    except AttributeError:
        raise SettingsError(f"{duration!r} isn't a duration: write it as 90s, 30m, 6h or 7d") from None


def ago_ms(duration: str) -> int:
    """The time this duration before now. Raises SettingsError as `span_ms`."""
    from stream.runtime.clock import now_ms

    return now_ms() - span_ms(duration)


def read_settings(*, with_stack: bool = True) -> "Settings":
    """`with_stack` False: for commands that repair or inspect the stack, whose file may be garbled."""
    from stream.runtime.settings import Settings

    return Settings.load(with_stack=with_stack)


def inspect_settings() -> "Settings":
    """Settings for inspection: those of a running demo, unless the environment names another stack.

    That is a broker, a Redis, or a prefix with which the demo's doesn't begin.
    """
    from thalweg.demo.demo_state import DemoState

    settings = read_settings(with_stack=False)
    demo = None if settings.kafka or settings.redis else DemoState.read(settings.local)
    if demo and demo.alive and demo.topic_prefix.startswith(settings.topic_prefix):
        return demo.settings(settings)
    return read_settings()


def read_spec(path: Path | None) -> "Spec":
    """The spec in this file. Raises SpecError, also when no file is named."""
    from stream.spec.spec_file import load_spec

    if path is None:
        raise SpecError(
            "no spec is named: pass --spec FILE, such as --spec specs/movielens.toml, or set THALWEG_SPEC; "
            "`thalweg init` drafts one from events"
        )
    return load_spec(path)


def warn_of_memory(room: str, settings: "Settings", spec: "Spec", needs: "Callable[[Spec], Needs]") -> None:
    """Print what `check_bounds` warns of. Raises SettingsError where the spec's bounds can't fit."""
    from stream.runtime.memory import memory_bytes
    from stream.spec.bounds import check_bounds

    if warning := check_bounds(room, spec, needs, memory_bytes(settings)):
        warn(warning)


def read_source_spec(source: str, path: Path | None) -> "Spec":
    """The spec in this file, else that of the data set that `source` names, else THALWEG_SPEC's.

    Raises SpecError, DataError, SettingsError.
    """
    from thalweg.sources.play import data_set

    name = data_set(source)
    return read_spec(path or (SPECS / f"{name}.toml" if name else read_settings(with_stack=False).spec))


def model_name(settings: "Settings", spec: Path | None) -> str:
    """The spec's model, else that of THALWEG_MODEL or a running demo. Raises SpecError when none is named."""
    if not (settings.model or spec):
        raise SpecError("no model is named: pass --spec FILE, the spec that it runs by, or set THALWEG_MODEL")
    return read_spec(spec).name if spec else settings.model


def model_names(settings: "Settings", spec: Path | None, named: Sequence[str]) -> list[str]:
    """The spec's model, if there's a spec, then those that are `named`; without any, `model_name`'s.

    Raises SpecError, SettingsError.
    """
    from stream.runtime.settings import MODEL_NAME

    for name in named:
        if not re.fullmatch(MODEL_NAME, name):
            raise SettingsError(f"--model {name!r} isn't the name of a model: letters, digits, dots, - and _")
    return ([model_name(settings, spec)] if spec or not named else []) + list(named)


def open_store(settings: "Settings", spec: Path | None) -> "closing[RedisStore]":
    """The snapshots of `model_name`."""
    from stream.snapshots.redis_store import RedisStore

    return closing(RedisStore(settings, model_name(settings, spec)))


def write_json(path: Path | None, figures: Mapping[str, object]) -> None:
    """Write the figures to the file of `--json`, if there's one. Raises DataError."""
    write_output(path, f"{json.dumps(figures, indent=2)}\n".encode(), "--json")


def write_output(path: Path | None, content: bytes, option: str) -> None:
    """Write the file that this option names, if it names one. Raises DataError."""
    try:
        if path is not None:
            path.write_bytes(content)
    except OSError as bad:
        raise DataError(f"{path} can't be written: {bad.strerror}; name another file with {option}") from None


def warn(line: str) -> None:
    """What doesn't keep a service from running. Part of the log where that is JSON."""
    if is_json():
        logging.getLogger("thalweg").warning(line)
    else:
        print_stderr(f"warning: {line}")


def print_stderr(line: str) -> None:
    """Progress and failures: stdout is for the result. Part of the log where that is JSON."""
    if is_json():
        logging.getLogger("thalweg").error(line)
    else:
        print(line, file=sys.stderr, flush=True)
