"""Scenarios: what happens in the world besides its ordinary course, declared in a few lines of TOML.

    [[happens]]
    kind = "hit"
    at = "1d"
    lasts = "12h"
    strength = 3.0

Times are world time. What changes tastes, apps or attributes takes effect at the next full hour.
"""

import math
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from producers.store import names
from stream.runtime.errors import DataError
from stream.spec.suggestions import near
from stream.spec.values import Duration, Positive, duration_ms
from stream.tables.dtypes import F64

FOLDER: Final = Path(__file__).parent / "scenarios"
Columns: Final = {
    "item": ("category", "developer", "price", "age_rating", "released", "tags"),
    "user": ("age", "country", "device"),
    "context": ("hour", "weekday", "device"),
}


class Happening(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", kw_only=True):
    """Something that begins at a time."""

    at: Duration = "1d"

    @property
    def at_ms(self) -> int:
        """World time at which it begins."""
        return duration_ms(self.at)


class Span(Happening, frozen=True, kw_only=True):
    """Something that lasts for a while."""

    lasts: Duration = "12h"

    @property
    def end_ms(self) -> int:
        """World time at which it ends."""
        return self.at_ms + duration_ms(self.lasts)


class Flip(Happening, frozen=True, tag="flip", kw_only=True):
    """Tastes flip: what users liked they dislike (negate), or segments exchange their tastes (permute)."""

    how: Literal["negate", "permute"] = "negate"


class Drift(Span, frozen=True, tag="drift", kw_only=True):
    """Tastes drift `times` as fast."""

    times: Positive = 30.0


class Season(Span, frozen=True, tag="season", kw_only=True):
    """A category's appeal rises by `strength` log-odds."""

    category: str
    strength: float = 1.5


class Hit(Span, frozen=True, tag="hit", kw_only=True):
    """One app goes viral: its appeal rises by `strength` log-odds. Without a name it's one of middling popularity."""

    app: str = ""
    strength: float = 3.0


class TrafficPause(Span, frozen=True, tag="pause", kw_only=True):
    """Nobody asks for a page."""


class Ramp(Span, frozen=True, tag="ramp", kw_only=True):
    """`times` as many sessions."""

    times: Positive = 10.0


class Bots(Span, frozen=True, tag="bots", kw_only=True):
    """A share of the users reports an install of everything that they're shown; none of it is one."""

    share: Annotated[float, Meta(gt=0, le=1)] = 0.1


class FlippedLabels(Span, frozen=True, tag="flipped_labels", kw_only=True):
    """Installs are reported of the items that weren't installed, and not of those that were."""


class VanishingColumn(Happening, frozen=True, tag="vanishing_column", kw_only=True):
    """An attribute is missing from then on: items or users are sent again without it."""

    of: Literal["item", "user", "context"]
    column: str


class Outage(Span, frozen=True, tag="outage", kw_only=True):
    """The broker is unavailable: no page can be asked for, and events wait until it's back."""


AnyHappening = Flip | Drift | Season | Hit | TrafficPause | Ramp | Bots | FlippedLabels | VanishingColumn | Outage
KINDS: Final[dict[str, type[AnyHappening]]] = {
    str(one.__struct_config__.tag): one
    for one in (Flip, Drift, Season, Hit, TrafficPause, Ramp, Bots, FlippedLabels, VanishingColumn, Outage)
}
H = TypeVar("H", bound=Happening)
S = TypeVar("S", bound=Span)


class Scenario(NamedTuple):
    """What happens, in the order of the files."""

    happens: tuple[AnyHappening, ...] = ()

    def all(self, kind: type[H]) -> Iterator[H]:
        """All that is of this kind."""
        return (one for one in self.happens if isinstance(one, kind))

    def during(self, kind: type[S], world_ms: float) -> Iterator[S]:
        """What of this kind goes on at this time."""
        return (one for one in self.all(kind) if one.at_ms <= world_ms < one.end_ms)

    def season(self, world_ms: float) -> F64:
        """Log-odds that seasons add to each category at this time."""
        added = np.zeros(len(names.CATEGORIES))
        for one in self.during(Season, world_ms):
            added[list(names.CATEGORIES).index(one.category)] += one.strength
        return added

    def hits(self, world_ms: float, unnamed: Sequence[int], app_count: int) -> dict[int, float]:
        """Log-odds that hits add to apps at this time. `unnamed`: an app for each hit that names none. Raises DataError
        when an app isn't there yet."""
        added = dict[int, float]()
        for n, hit in enumerate(self.all(Hit)):
            if hit.at_ms <= world_ms < hit.end_ms:
                app = names.app_index(hit.app) if hit.app else unnamed[n]
                if app >= app_count:
                    raise DataError(
                        f"{hit.app} can't be a hit: it isn't there yet, {names.app_name(app_count - 1)} is the newest; "
                        "name another app or none, or let the hit begin later"
                    )
                added[app] = added.get(app, 0.0) + hit.strength
        return added


NO_SCENARIO: Final = Scenario()


def load_scenario(sources: Sequence[str]) -> Scenario:
    """The scenarios of these names or TOML files, merged. Raises DataError."""
    return Scenario(tuple(one for source in sources for one in _load(source).happens))


def scenario_names() -> list[str]:
    """Names of the scenarios that are built in."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def parse_scenario(text: str, source: str = "scenario") -> Scenario:
    """The scenario in a TOML text; `source` names it in errors. Raises DataError."""
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise DataError(f"{source}: not TOML: {error}") from None
    if unknown := [key for key in raw if key != "happens"]:
        raise DataError(f"{source}: unknown key {unknown[0]!r}; what happens stands under [[happens]]")
    entries = raw.get("happens", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{source}: write each entry under a [[happens]] of its own")
    return Scenario(tuple(_happening(entry, f"{source}, entry {n}") for n, entry in enumerate(entries, 1)))


def _load(source: str) -> Scenario:
    path = FOLDER / f"{source}.toml" if source in scenario_names() else Path(source)
    if path.suffix != ".toml":
        raise DataError(f"no scenario {source!r}; {near(source, scenario_names())} A file's name ends in .toml")
    try:
        return parse_scenario(path.read_text(encoding="utf-8"), source)
    except OSError as error:
        raise DataError(f"{source} can't be read: {error.strerror}; scenarios: {', '.join(scenario_names())}") from None
    except UnicodeDecodeError:
        raise DataError(f"{source}: not UTF-8: save it as UTF-8") from None


def _happening(entry: dict[str, Any], where: str) -> AnyHappening:
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        said = "an entry needs a kind" if kind is None else f"unknown kind {kind!r}"
        raise DataError(f"{where}: {said}; {near(str(kind), list(KINDS))}")
    known = list(KINDS[kind].__struct_fields__)
    for key in entry:
        if key not in ("kind", *known):
            raise DataError(f"{where}: unknown key {key!r} of {kind}; {near(key, known)}")
    try:
        found = msgspec.convert(entry, KINDS[kind])
    except msgspec.ValidationError as error:
        what = str(error)
        if "matching regex" in what:
            what = "Expected a duration, such as 10m, 36h, 2d" + "".join(re.findall(r" - at .*", what))
        raise DataError(f"{where}: {what}") from None
    for key in known:
        if isinstance(value := getattr(found, key), float) and not math.isfinite(value):
            raise DataError(f"{where}: {key} of {kind} must be a finite number")
    if isinstance(found, Season) and found.category not in names.CATEGORIES:
        raise DataError(f"{where}: no category {found.category!r}; {near(found.category, list(names.CATEGORIES))}")
    if isinstance(found, Hit) and found.app and names.app_index(found.app) < 0:
        raise DataError(f"{where}: no app {found.app!r}; ids are such as {names.app_name(12)!r}")
    if isinstance(found, VanishingColumn) and found.column not in Columns[found.of]:
        raise DataError(f"{where}: no column {found.column!r} of {found.of}; "
                        f"{near(found.column, list(Columns[found.of]))}")  # fmt: skip
    return found
