"""Targets by their specs: the rules of a page, and how its places are drawn."""

from pathlib import Path
from typing import NamedTuple

import msgspec

from stream.runtime.errors import SettingsError, SpecError
from stream.spec.explore import Explore
from stream.spec.spec import LEFT_OUT, Spec
from stream.spec.spec_file import load_spec


class Target(NamedTuple):
    """A way to fill pages by a model's predictions: `spec` has its rules and its exploration."""

    name: str
    spec: Spec


def epsilon_target(epsilon: float, spec: Spec) -> Target:
    """The spec's rules, and any item with this probability, else the best. Raises SettingsError."""
    if not 0 <= epsilon <= 1:
        raise SettingsError(f"--epsilon takes a probability from 0 (the best item always) to 1; not {epsilon:g}")
    explore = Explore("epsilon", epsilon=epsilon) if epsilon else Explore()
    return Target(f"epsilon={epsilon:g}" if epsilon else "greedy", msgspec.structs.replace(spec, explore=explore))


def read_target(path: Path, spec: Spec) -> Target:
    """The target that a TOML file's [rules] and [explore] make of a spec; a table that the file lacks is the spec's.

    Raises SettingsError when the file can't be read, is wrong, or says what no target can be.
    """
    try:
        found = load_spec(path, spec)
    except SpecError as bad:
        raise SettingsError(f"--target {bad}") from None
    if found.fingerprint() != spec.fingerprint():
        names = [name for name in Spec.__struct_fields__ if name not in LEFT_OUT]
        changed = ", ".join(name for name in names if getattr(found, name) != getattr(spec, name))
        raise SettingsError(
            f"--target {path}: {changed} would make another model, and a target "
            "is the same one under other [rules] and [explore]: leave that out, or pass the file as --spec"
        )
    if found.retrieval != spec.retrieval:
        raise SettingsError(
            f"--target {path}: [retrieval] isn't played, since all known items are a target's candidates: leave it out"
        )
    if found.explore.kind == "ucb":
        raise SettingsError(
            f'--target {path}: [explore] kind = "ucb" can\'t be estimated: its bounds fall with the pages that it '
            "shows itself, which this log doesn't have, so it would show the same uncertain items again and again; let "
            'it rank live pages, or take "thompson" or "epsilon", which draw'
        )
    return Target(path.stem, found)
