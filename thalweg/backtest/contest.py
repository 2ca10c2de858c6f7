"""Who takes part in a backtest, what a person sees of it while it runs and after, and its figures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, get_args

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from learner.training.progressive_validation import ALL, spoken
from producers.source import Sourced
from stream.runtime.errors import SettingsError, SpecError
from stream.spec.spec import PartName, Policy, Spec
from stream.spec.spec_file import checked_spec
from thalweg.backtest.backtest import Backtest, Entrant, Ours, Scores, Told
from thalweg.backtest.peers import PeerRates, River, VowpalWabbit, arguments

PEERS: Final = ("vw", "river")


@dataclass(frozen=True)
class ContestConfig:
    """`parts`: what to compare, such as "wide" and "wide,deep"; none: the spec's. `rates`: such as "alpha=0.1", in
    place of PeerRates' own. `dump`: Vowpal Wabbit's input."""

    parts: Sequence[str] = ()
    policy: str = ""
    peers: str = ""
    rates: Sequence[str] = ()
    limit: int = 0
    seed: int = 0
    pack: int = 1
    dump: Path | None = None


def entrants(spec: Spec, config: ContestConfig, told: Told) -> list[Entrant]:
    """Those that the config names. Raises SettingsError."""
    found: list[Entrant] = [
        Ours(spec, parts, config.seed, told) for parts in _parts(spec, config.parts or [",".join(spec.parts)])
    ]
    peers = [name for name in config.peers.split(",") if name]
    if config.dump and "vw" not in peers:
        peers.append("vw")
    for name in peers:
        if name not in PEERS:
            raise SettingsError(f"there is no peer {name!r}: --peer takes {', '.join(PEERS)}")
    rates = peer_rates(config.rates)
    try:
        if "vw" in peers:
            found.append(VowpalWabbit(spec, rates, config.dump))
        if "river" in peers:
            found.append(River(spec, rates))
    except ImportError as bad:
        raise SettingsError(f"{bad.name} isn't here: `make setup`, or pip install 'thalweg[peers]'") from None
    return found


def _parts(spec: Spec, texts: Sequence[str]) -> list[list[PartName]]:
    found: list[list[PartName]] = []
    for text in texts:
        names = text.split(",")
        if not set(names) <= set(get_args(PartName)) or len(set(names)) != len(names):
            raise SettingsError(f"--parts takes wide, deep, or wide,deep; not {text!r}")
        parts = [name for name in get_args(PartName) if name in names]
        if parts in found:
            raise SettingsError(f"--parts {text} stands there twice: name each choice once")
        try:
            checked_spec({**msgspec.to_builtins(spec), "parts": parts}, f"--parts {text}")
        except SpecError as bad:
            raise SettingsError(str(bad)) from None
        found.append(parts)
    return found


def peer_rates(texts: Sequence[str]) -> PeerRates:
    """PeerRates with those that the texts name, such as "alpha=0.1". Raises SettingsError."""
    named: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            named[name] = float(value)
            known = 0 <= named[name] < np.inf and hasattr(PeerRates, name)
        except ValueError:
            known = False
        if not known:
            names = ", ".join(one.name for one in fields(PeerRates))
            raise SettingsError(f"--peer-rate takes {names}, such as alpha=0.1; not {text!r}")
    return PeerRates(**named)


def hold(spec: Spec, source: Iterable[Sourced], config: ContestConfig) -> Scores:
    """Play the source to everyone, behind a line of progress. Raises SettingsError, DataError."""
    if config.policy:
        if config.policy not in get_args(Policy):
            raise SettingsError(f"--policy takes {', '.join(get_args(Policy))}; not {config.policy!r}")
        spec = msgspec.structs.replace(spec, label=msgspec.structs.replace(spec.label, policy=config.policy))
    told = Told()
    backtest = Backtest(spec, entrants(spec, config, told), told, config.pack)
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("the kernels are being compiled")

        def tell(one: Backtest) -> None:
            progress.update(bar, description=f"{one.pages:,} pages, {one.learned:,} examples learned")

        backtest.say, backtest.progress = console.print, tell
        scores = backtest.run(source, config.limit or None)
    for entrant in backtest.entrants:
        if isinstance(entrant, VowpalWabbit):
            entrant.close()
    return scores


def figures(scores: Scores) -> dict[str, float]:
    """One flat object: `wide.auc`, `wide,deep.log_loss`, `vw.auc[user.gender=F]`, and counts."""
    found: dict[str, float] = {"pages": scores.pages, "untold": scores.untold, "broken": scores.broken}
    for i, name in enumerate(scores.names):
        for part, of in scores.figures(i).items():
            for key, value in of.named().items():
                if np.isfinite(value):  # there is no calibration without an install
                    found[f"{name}.{key}" if part == ALL else f"{name}.{key}[{part}]"] = value
        if not np.isnan(scores.arrivals[i]):
            found[f"{name}.auc_arrival"] = scores.arrivals[i]
        found[f"{name}.examples_s"] = scores.learned / scores.seconds[i]
    return found


def scores_table(scores: Scores) -> Table:
    """Everyone side by side."""
    heads = ("", "auc", "auc_arrival", "log loss", "norm. entropy", "calibration", "examples", "examples/s")
    told = f"each page predicted when it was shown, learned when its label came; {scores.pages:,} pages"
    extra = [f"{scores.untold:,} items without a label"] * bool(scores.untold)
    extra += [f"{scores.broken:,} events left out"] * bool(scores.broken)
    shared = (
        f"examples/s: its own predicting and learning; features and join took {scores.seconds_shared:.1f} s for all"
    )
    table = Table(*heads, title="backtest", caption="\n".join(["; ".join([told, *extra]), shared]),
                  title_justify="left", caption_justify="left", min_width=len(shared))  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    for i, name in enumerate(scores.names):
        of = scores.figures(i)[ALL]
        arrival = "-" if np.isnan(scores.arrivals[i]) else f"{scores.arrivals[i]:.4f}"
        speed = f"{scores.learned / scores.seconds[i]:,.0f}"
        table.add_row(name, f"{of.auc:.4f}", arrival, f"{of.log_loss:.4f}", f"{of.normalised_entropy():.4f}",
                      spoken(of.calibration), f"{of.examples:,}", speed)  # fmt: skip
    return table


def slices_table(scores: Scores) -> Table:
    """AUC of everyone by slice."""
    table = Table("slice", "examples", "label rate", *scores.names, title="auc by slice", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    held = [scores.figures(i) for i in range(len(scores.names))]
    for name in scores.slices:
        of = held[0][name]
        aucs = [f"{one[name].auc:.4f}" for one in held] if of.examples else ["-"] * len(held)
        table.add_row(name, f"{of.examples:,}", f"{of.base_rate:.3f}", *aucs)
    return table


def by_hand(rates: PeerRates) -> str:
    """How Vowpal Wabbit does it all again from a dump."""
    return f"python -m vowpalwabbit -d FILE {arguments(rates)} -p PREDICTIONS"
