"""The spec's bounds of tables, and whether what they allow fits the memory that there is.

Bounds decide what is evicted, so they are part of the model: a learner, its restarts, replays and retrains go by the
spec's alone. So none is derived from the machine: those that the spec names are refused where they can't fit, and for
defaults that are too large a warning says which would fit.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec

from stream.runtime.errors import SettingsError
from stream.runtime.memory import MB
from stream.spec.parts import Deep, Wide
from stream.spec.retrieval import Kept
from stream.spec.spec import Spec
from stream.spec.statistic_kinds import MEMORY_LEARNS, kind_of

SLACK: Final = 1.1  # what allocators take above what was asked for, as measured
LEAST: Final = 1_000  # of a bound
STEPS: Final = 60  # of halving a scale's interval
DEFAULTS: Final = Spec(name="defaults")


class Needs(NamedTuple):
    """Bytes that a room takes at most, by what takes them: `always`, and of what comes now and then the largest."""

    always: Mapping[str, int]
    now_and_then: Mapping[str, int] = {}

    @property
    def least(self) -> int:
        """Without what comes now and then."""
        return int(SLACK * sum(self.always.values()))

    @property
    def most(self) -> int:
        """With the largest of what comes now and then."""
        return int(SLACK * (sum(self.always.values()) + max(self.now_and_then.values(), default=0)))

    def largest(self) -> str:
        """What always takes most, in MB, for a message."""
        parts = sorted(self.always.items(), key=lambda part: -part[1])
        return ", ".join(f"{name} {size // MB}" for name, size in parts[:4])


def check_bounds(room: str, spec: Spec, needs: Callable[[Spec], Needs], memory: int) -> str:
    """What to warn of: defaults let the room grow beyond `memory`, bytes, or what comes now and then doesn't fit.

    Empty: all fits. Raises SettingsError when the bounds that the spec names can't fit, whatever the others are.
    """
    of_named = needs(scaled(spec, 0.0))
    if of_named.least > memory:
        raise SettingsError(
            f"by the bounds that the spec names, a {room} takes up to {of_named.least // MB} MB, and there are "
            f"{memory // MB} MB (in MB: {of_named.largest()}): the system would end it before it evicts. Lower "
            f"{_listed(named(spec)) or 'nothing: its process alone takes that'}, or raise the container's limit (or "
            "THALWEG_MEMORY_MB, where that is wrong)"
        )
    found = needs(spec)
    if found.most <= memory:
        return ""
    scale = _largest_scale(lambda scale: needs(scaled(spec, scale)).most <= memory)
    fitting = scaled(spec, scale)
    defaults = {name: value for name, value in bounds_of(fitting).items() if name not in named(spec)}
    if found.least <= memory or not defaults or scale == 0.0:
        rare = max(found.now_and_then, key=found.now_and_then.__getitem__)
        return (
            f"of {memory // MB} MB of memory a {room} takes up to {found.least // MB}, and {found.most // MB} during "
            f"{rare}, if its tables are at their bounds by then: lower those, or raise the container's limit"
        )
    return (
        f"by the spec's default bounds a {room} takes up to {found.most // MB} MB, and there are {memory // MB} MB (in "
        f"MB: {found.largest()}): should its tables grow so far, the system ends it. Name bounds in the spec; these "
        f"fit: {_listed(defaults)}"
    )


def bounds_of(spec: Spec) -> dict[str, int]:
    """The bounds of all tables, by their names in the spec; those of parts that it hasn't are left out."""
    found = {"max_statistics": spec.max_statistics}
    found |= {"max_likenesses": spec.max_likenesses} if likeness_rows(spec) else {}
    found |= {"wide.max_keys": spec.wide.max_keys} if "wide" in spec.parts else {}
    found |= {"deep.max_rows": spec.deep.max_rows} if "deep" in spec.parts else {}
    kept = spec.retrieval.kept
    learned = {"retrieval.kept.max_items": kept.max_items, "retrieval.kept.max_users": kept.max_users}
    return found | (learned if spec.retrieval.is_learned else {})


def likeness_rows(spec: Spec) -> int:
    """The most rows that likenesses and lifts have; 0: the spec has none of them."""
    has_any = any(kind_of(one.kind).learn in MEMORY_LEARNS for one in spec.statistics.values())
    return spec.max_likenesses if has_any else 0


def scaled(spec: Spec, scale: float) -> Spec:
    """The spec with its default bounds times `scale`, to two digits, LEAST at least; bounds that it names stay."""
    replace = msgspec.structs.replace

    def to(value: int, default: int) -> int:
        return value if value != default else max(LEAST, _two_digits(int(default * scale)))

    kept = spec.retrieval.kept
    kept = replace(kept, max_items=to(kept.max_items, Kept().max_items), max_users=to(kept.max_users, Kept().max_users))
    return replace(
        spec,
        max_statistics=to(spec.max_statistics, DEFAULTS.max_statistics),
        max_likenesses=to(spec.max_likenesses, DEFAULTS.max_likenesses),
        wide=replace(spec.wide, max_keys=to(spec.wide.max_keys, Wide().max_keys)),
        deep=replace(spec.deep, max_rows=to(spec.deep.max_rows, Deep().max_rows)),
        retrieval=replace(spec.retrieval, kept=kept),
    )


def named(spec: Spec) -> dict[str, int]:
    """The bounds that the spec names: those that aren't defaults."""
    unnamed = bounds_of(scaled(spec, 0.0))
    return {name: value for name, value in bounds_of(spec).items() if unnamed[name] == value}


def _two_digits(value: int) -> int:
    """Rounded down."""
    unit: int = 10 ** max(0, len(str(value)) - 2)
    return value // unit * unit


def _largest_scale(fits: Callable[[float], bool]) -> float:
    """The largest scale up to 1 that fits; 0.0 when none does."""
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low if fits(low) else 0.0


def _listed(bounds: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {value:_}" for name, value in bounds.items())
