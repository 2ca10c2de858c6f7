"""How many keys and rows the tables of a model will have, from its spec and a load; the spec's bounds cap them.

What is possible is the product of a cross's columns, but columns of one user or item come together, so they have no
more combinations than there are users or items. What is seen of it in a time is less: draws from all that is possible,
taken as equally likely. Popularity makes fewer of it, so these are upper estimates.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from stream.spec.bounds import LEAST, bounds_of, named
from stream.spec.spec import Spec
from stream.spec.statistic_kinds import kind_of
from stream.spec.values import duration_ms
from thalweg.sizing.load import Load
from thalweg.sizing.work import deep_lists, product


class Keys(NamedTuple):
    """A table's keys: as many as the load makes, and the spec's bound."""

    made: int
    bound: int

    @property
    def kept(self) -> int:
        """The rest is evicted."""
        return min(self.made, self.bound)


def keys_of(spec: Spec, load: Load, seconds: float) -> dict[str, Keys]:
    """What is touched within this time, by the names that the bounds have in the spec."""
    wide = [(one.of, one.expire or spec.wide.expire) for one in spec.crosses()]
    installs = load.installs_s * seconds
    made = {
        "max_statistics": 1 + sum(seen_of(spec, load, names, seconds) for names in _entities(spec)),
        "max_likenesses": _likenesses(spec, load, seconds),
        "wide.max_keys": 1 + sum(seen_of(spec, load, of, _at_most(expire, seconds)) for of, expire in wide),
        "deep.max_rows": sum(
            seen_of(spec, load, [name], _at_most(spec.deep.expire, seconds)) for name in deep_lists(spec)
        ),
        "retrieval.kept.max_items": seen(load.items, installs),
        "retrieval.kept.max_users": seen(load.users, installs),
    }
    return {name: Keys(math.ceil(made[name]), bound) for name, bound in bounds_of(spec).items()}


def bounded(spec: Spec, keys: dict[str, Keys]) -> Spec:
    """The spec with what is kept in place of default bounds. Those that it names stay: rooms count them at their start,
    and refuse less memory.
    """
    kept = {name: max(LEAST, one.kept) for name, one in keys.items() if name not in named(spec)}

    def of(name: str, value: int) -> int:
        return kept.get(name, value)

    learned = spec.retrieval.kept
    learned = replace(
        learned,
        max_items=of("retrieval.kept.max_items", learned.max_items),
        max_users=of("retrieval.kept.max_users", learned.max_users),
    )
    return replace(
        spec,
        max_statistics=of("max_statistics", spec.max_statistics),
        max_likenesses=of("max_likenesses", spec.max_likenesses),
        wide=replace(spec.wide, max_keys=of("wide.max_keys", spec.wide.max_keys)),
        deep=replace(spec.deep, max_rows=of("deep.max_rows", spec.deep.max_rows)),
        retrieval=replace(spec.retrieval, kept=learned),
    )


def seen(possible: float, draws: float) -> float:
    """How many of several equally likely ones come up in this number of draws.

    >>> round(seen(100, 1e6)), round(seen(1e12, 1e6)), round(seen(1000, 1000))
    (100, 1000000, 632)
    """
    return -possible * math.expm1(-draws / possible)


def possible_of(spec: Spec, load: Load, names: Sequence[str]) -> float:
    """Combinations of these columns' values."""
    entities, found = {"user": load.users, "item": load.items}, 1.0
    for origin in {name.partition(".")[0] for name in names}:
        of_origin = [name for name in names if name.partition(".")[0] == origin]
        combinations = math.prod(float(load.distinct(spec, name)) for name in of_origin)
        most = entities.get(origin, math.inf) * product(spec, load, of_origin)
        found *= min(combinations, most)
    return found


def seen_of(spec: Spec, load: Load, names: Sequence[str], seconds: float) -> float:
    """Combinations of these columns' values that come up within this time; a page's items share its user's."""
    events_s = load.shown_s if any(name.startswith("item.") for name in names) else load.pages_s
    return seen(possible_of(spec, load, names), events_s * seconds * product(spec, load, names))


def _at_most(expire: str | None, seconds: float) -> float:
    return min(seconds, duration_ms(expire) / 1_000) if expire else seconds


def _entities(spec: Spec) -> list[list[str]]:
    """What statistics go by, but likenesses and lifts."""
    fields = [one for one in spec.statistics.values() if kind_of(one.kind).goes_by in ("fields", "history")]
    return [one.by or [one.to, one.of] for one in fields]


def _likenesses(spec: Spec, load: Load, seconds: float) -> float:
    """Rows of users' last labels or installs, and of pairs of items: a label moves as many as the user's memory has."""
    rows = 0.0
    for one in spec.statistics.values():
        goes_by = kind_of(one.kind).goes_by
        if goes_by in ("memory", "installs"):
            events_s = load.shown_s if goes_by == "memory" else load.installs_s
            remembered = min(one.neighbours, events_s * load.seconds / load.users)
            rows += seen(load.users * (1 + remembered), 2 * events_s * seconds)
            rows += seen(load.items**2, 2 * events_s * seconds * remembered)
    return rows
