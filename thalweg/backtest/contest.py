"""A contest: the entrants of a backtest by its options, and its run with a line of progress."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, get_args

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from producers.source import SourceElement
from stream.runtime.errors import SettingsError, SpecError
from stream.spec.parts import Policy
from stream.spec.spec import Spec
from stream.spec.spec_file import checked_spec
from stream.spec.values import PartName
from thalweg.backtest.backtest import Backtest, Scores
from thalweg.backtest.entrants import Entrant, ExampleLog, ModelEntrant
from thalweg.backtest.next_install import NextInstalls
from thalweg.backtest.peers import PeerRates, River, VowpalWabbit, arguments
from thalweg.backtest.session_peers import SESSION_PEERS, SessionOptions

PEERS: Final = ("vw", "river", *SESSION_PEERS)


@dataclass(frozen=True)
class ContestConfig:
    """The options of `thalweg backtest`."""

    parts: Sequence[str] = ()  # such as "wide" and "wide,deep"; none: the spec's
    policy: str = ""  # empty: the spec's
    peers: str = ""  # such as "vw,rules"
    rates: Sequence[str] = ()  # such as "alpha=0.1", in place of a default in PeerRates or SessionOptions
    asked_every: int = 1  # every nth install is asked about, if a session peer is named
    limit: int = 0  # pages; 0: all
    seed: int = 0
    pack: int = 1  # events a record
    dump: Path | None = None  # Vowpal Wabbit's input is written there


def entrants(spec: Spec, config: ContestConfig) -> list[Entrant]:
    """Those that the config names. Raises SettingsError."""
    choices = parts_of(spec, config)
    found: list[Entrant] = [ModelEntrant(spec, parts, config.seed) for parts in choices]
    peers = peer_names(config)
    rates, _ = peer_options(config.rates)
    try:
        if "vw" in peers:
            found.append(VowpalWabbit(spec, rates, config.dump))
        if "river" in peers:
            found.append(River(spec, rates))
    except ImportError as bad:
        raise SettingsError(f"{bad.name} isn't here: `make setup`, or pip install 'thalweg[peers]'") from None
    return found


def parts_of(spec: Spec, config: ContestConfig) -> list[list[PartName]]:
    """The choices of parts that the config names, else the spec's. Raises SettingsError."""
    texts = config.parts or [",".join(spec.parts)]
    found: list[list[PartName]] = []
    for text in texts:
        names = text.split(",")
        if not set(names) <= set(get_args(PartName)) or len(set(names)) != len(names):
            raise SettingsError(f"--parts takes wide, deep, or wide,deep; not {text!r}")
        parts = [name for name in get_args(PartName) if name in names]
        if parts in found:
            raise SettingsError(f"--parts {text} is given twice: name each choice once")
        try:
            checked_spec({**msgspec.to_builtins(spec), "parts": parts}, f"--parts {text}")
        except SpecError as bad:
            raise SettingsError(str(bad)) from None
        found.append(parts)
    return found


def peer_names(config: ContestConfig) -> list[str]:
    """The peers that the config names, each once. Raises SettingsError."""
    peers = list(dict.fromkeys(name for name in config.peers.split(",") if name))
    if config.dump and "vw" not in peers:
        peers.append("vw")
    for name in peers:
        if name not in PEERS:
            raise SettingsError(f"there is no peer {name!r}: --peer takes {', '.join(PEERS)}")
    return peers


def peer_options(texts: Sequence[str]) -> tuple[PeerRates, SessionOptions]:
    """The peers' options with those that the texts name, such as "alpha=0.1" or "vsknn_k=500". Raises SettingsError."""
    rates, options = PeerRates(), SessionOptions()
    defaults: dict[str, float] = {**asdict(rates), **asdict(options)}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            named = {name: type(defaults[name])(value)}
            is_valid = 0 <= named[name] < np.inf
        except (KeyError, ValueError):
            is_valid = False
        if not is_valid:
            raise SettingsError(f"--peer-rate takes {', '.join(defaults)}, such as alpha=0.1; not {text!r}")
        if hasattr(rates, name):
            rates = replace(rates, **named)
        else:
            options = replace(options, **named)  # type: ignore[arg-type] # of the default's type
    return rates, options


def run_contest(spec: Spec, source: Iterable[SourceElement], config: ContestConfig) -> Scores:
    """Play the source to all entrants, with a line of progress. Raises SettingsError, DataError."""
    spec = with_policy(spec, config)
    ours, sessions = entrants(spec, config), [name for name in peer_names(config) if name in SESSION_PEERS]
    asked = None
    if sessions:
        _, options = peer_options(config.rates)
        asked = NextInstalls(spec, [one.name for one in ours], sessions, options, config.asked_every)
    return play(Backtest(spec, ours, ExampleLog(), config.pack, next_installs=asked), source, config.limit)


def with_policy(spec: Spec, config: ContestConfig) -> Spec:
    """The spec under the config's label policy. Raises SettingsError."""
    if not config.policy:
        return spec
    if config.policy not in get_args(Policy):
        raise SettingsError(f"--policy takes {', '.join(get_args(Policy))}; not {config.policy!r}")
    return msgspec.structs.replace(spec, label=msgspec.structs.replace(spec.label, policy=config.policy))


def play(backtest: Backtest, source: Iterable[SourceElement], limit: int) -> Scores:
    """Play the source, or its first `limit` pages if that isn't 0, with a line of progress. Raises DataError."""
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("compiling kernels")

        def on_progress(one: Backtest) -> None:
            progress.update(task, description=f"{one.pages:,} pages, {one.learned:,} examples learned")

        backtest.report, backtest.on_progress = console.print, on_progress
        scores = backtest.run(source, limit or None)
    for entrant in backtest.entrants:
        if isinstance(entrant, VowpalWabbit):
            entrant.close()
    return scores


def vw_command(rates: Sequence[str], dump: Path) -> str:
    """The command that repeats Vowpal Wabbit's part from a dump."""
    return f"python -m vowpalwabbit -d {dump} {arguments(peer_options(rates)[0])} -p PREDICTIONS"
