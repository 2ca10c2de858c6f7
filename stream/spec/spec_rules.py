"""What a spec's types can't say: rules, each with a remedy."""

import difflib
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final, NoReturn, assert_never

import msgspec

from stream.spec.spec import (
    CROSSES_MAX,
    DURATION_DAYS_MAX,
    ORGANIC_INSTALLS,
    POSITION,
    SLICE_BYTES_MAX,
    SLICES_MAX,
    UNIT_MS,
    WEIGHTS_MAX,
    Column,
    Spec,
    Statistic,
)
from stream.spec.statistic_kinds import KINDS, kind_of

Refuse = Callable[[Sequence[str], str], NoReturn]
FLOAT_MAX: Final = (2 - 2**-23) * 2.0**127  # of float32: models compute in it


def near(name: str, known: list[str]) -> str:
    """Which of these was meant, or all of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known)) or 'none'}"


def _not_finite(value: Any, path: tuple[str, ...] = ()) -> tuple[str, ...] | None:
    """Where an infinity or NaN stands, or what is one in float32: JSON, as which a spec is published, has none."""
    if isinstance(value, dict | list | tuple):
        inner = value.items() if isinstance(value, dict) else ((None, v) for v in value)
        return next((bad for k, v in inner if (bad := _not_finite(v, (*path, k) if k else path))), None)
    return path if isinstance(value, float) and not abs(value) <= FLOAT_MAX else None


def check_rules(spec: Spec, refuse: Refuse) -> None:
    """Ask `refuse` to refuse, with the path of what's wrong and why, at the first rule that is broken."""
    if spec.name.startswith(".") or spec.name.endswith("\n"):
        refuse(("name",), "name is a folder's and a Redis key's: letters, digits, . _ -, without a dot in front")
    if not spec.parts or len(set(spec.parts)) != len(spec.parts):
        refuse(("parts",), "parts must name wide, deep, or both, once each")
    if bad := _not_finite(msgspec.to_builtins(spec)):
        refuse(bad, f"{'.'.join(bad)} must be a finite number, of 3.4e38 at most")
    _check_columns(spec, refuse)
    _check_statistics(spec, spec.columns(), refuse)
    _check_parts(spec, spec.columns(), refuse)
    _check_slices(spec, spec.columns(), refuse)
    _check_durations(spec, refuse)


def _check_columns(spec: Spec, refuse: Refuse) -> None:
    columns = spec.columns()
    for name, column in columns.items():
        origin, short = name.split(".", 1)
        path = (origin, short)
        if column.of:
            if column.type or origin != "user" or column.of != "item.id":
                refuse(path, f'{name}: a history is a column of [user], of = "item.id", without a type')
        elif column.type is None:
            refuse(path, f"{name}: give it a type: category, categories or number")
        if column.bands and (column.type != "number" or sorted(set(column.bands)) != column.bands):
            refuse(path, f"{name}: bands cut a number, at rising values")
        if column.bands and f"{short}_band" in getattr(spec, origin):
            refuse((origin, f"{short}_band"), f"{name}_band is what the bands of {name} make: give one another name")
        if name == POSITION and (column.type != "number" or column.bands):
            refuse(path, f"{name} is a number without bands: where the item stood on its page, from 1")
        if name == POSITION and column.serve_as is None:
            refuse(path, f"{name} isn't known when ranking: hold it still, such as with serve_as = 1")
        if column.serve_as is not None and (origin != "context" or column.type not in ("category", "number")):
            refuse(path, f"{name}: serve_as is for categories and numbers of [context], which are the request's")
        if column.serve_as is not None and isinstance(column.serve_as, str) != (column.type == "category"):
            wanted = 'a text, such as "phone"' if column.type == "category" else "a number, such as 1"
            refuse(path, f"{name}: serve_as of a {column.type} is {wanted}")
    if len(histories := [name for name, column in columns.items() if column.of]) > 1:
        refuse(
            ("user", histories[1].split(".", 1)[1]), f"one history is enough: {' and '.join(histories)} are the same"
        )
    for needed in ("user.id", "item.id"):
        if columns.get(needed, Column()).type != "category":
            refuse(needed.split("."), f'[{needed.split(".")[0]}] needs id = "category"')


def _listed(columns: dict[str, Column]) -> list[str]:
    return [n for n, c in columns.items() if c.type in ("category", "categories") or c.of]


def _check_statistics(spec: Spec, columns: dict[str, Column], refuse: Refuse) -> None:
    keys = _listed(columns)
    for name, stat in spec.statistics.items():
        path = ("statistics", name)
        goes_by = kind_of(stat.kind).goes_by
        match goes_by:
            case "history":
                if stat.by or stat.of != "item.id" or not columns.get(stat.to, Column()).of:
                    why = f'{stat.kind} is of = "item.id" to a history column, such as to = "user.history"'
                    refuse(path, f"statistics.{name}: {why}")
            case "fields" | "memory":
                if stat.of == ORGANIC_INSTALLS:
                    _check_organic(spec, name, stat, refuse)
                elif stat.of or stat.to or not 1 <= len(stat.by) <= 2 or len(set(stat.by)) != len(stat.by):
                    refuse(path, f'statistics.{name}: {stat.kind} goes by one field or a pair: by = ["user.id"]')
            case _:
                assert_never(goes_by)
        for column in stat.by:
            if column not in keys:
                why = f"{column!r} is no category here; {near(column, keys)}"
                refuse((*path, column), f"statistics.{name}: {why}")
            if column in spec.held():
                why = f"{column!r} is held still by serve_as: statistics are of what was, and can't go by it"
                refuse((*path, column), f"statistics.{name}: {why}")
        if goes_by == "memory" and (stat.by != ["user.id", "item.id"] or stat.half_life or stat.neighbours > 1_000):
            why = f'{stat.kind} is by = ["user.id", "item.id"], of at most 1,000 neighbours, without half_life'
            refuse(path, f"statistics.{name}: {why}")


def _check_organic(spec: Spec, name: str, stat: Statistic, refuse: Refuse) -> None:
    """A statistic of organic installs: each has a user, an item and a time, and no label."""
    path = ("statistics", name)
    if not kind_of(stat.kind).organic:
        known = " and ".join(kind for kind, one in KINDS.items() if one.organic)
        why = f'organic installs have no label: of = "organic" is for {known}'
        refuse((*path, "kind"), f"statistics.{name}: {why}, not {stat.kind}")
    if stat.to or not stat.by or len(set(stat.by)) != len(stat.by) or not {"user.id", "item.id"}.issuperset(stat.by):
        why = "of an organic install only user and item are known: by item.id, user.id, or both"
        refuse((*path, "by"), f"statistics.{name}: {why}")
    if "examples" not in spec.label.organic_in:
        why = 'the learner meets organic installs in `examples` only: set organic = "examples" in [label]'
        refuse((*path, "of"), f"statistics.{name}: {why}")


def _check_parts(spec: Spec, columns: dict[str, Column], refuse: Refuse) -> None:
    keys = _listed(columns)
    if "wide" in spec.parts and not spec.crosses():
        refuse(("wide",), "[wide] has neither features nor crosses; name some, or leave wide out of parts")
    if len(spec.crosses()) > CROSSES_MAX:
        refuse(("wide", "crosses"), f"[wide]: {len(spec.crosses())} features and crosses are over {CROSSES_MAX}")
    for i, cross in enumerate(spec.crosses(), -len(spec.wide.features)):
        if len(set(cross.of)) != len(cross.of) or not 1 <= len(cross.of) <= 4:
            refuse(("wide", "crosses", f"{i}"), f"[wide]: a cross has 1 to 4 different columns, not {cross.of}")
        for column in cross.of:
            if column not in keys:
                why = f"{column!r} is no category here (a number needs bands); {near(column, keys)}"
                refuse(("wide", column), f"[wide]: {why}")
    known = [*columns, *(f"statistics.{s}" for s in spec.statistics)]
    if "deep" in spec.parts and not spec.deep_features():
        refuse(("deep",), "[deep] has no features; name some, or leave deep out of parts")
    for name in spec.deep_features():
        if name not in known:
            refuse(("deep", name), f"[deep]: {name!r} is nothing that is declared; {near(name, known)}")
    if "deep" in spec.parts and (weights := _weights(spec, keys)) > WEIGHTS_MAX:
        why = f"{weights:,} weights are over {WEIGHTS_MAX:,}: fewer hidden_units, features, or a smaller embedding_dim"
        refuse(("deep", "hidden_units"), f"[deep]: {why}")
    low, high = spec.publish.gate.calibration
    if low >= high:
        refuse(("publish", "gate", "calibration"), "gate.calibration is [low, high]")


def _weights(spec: Spec, keys: list[str]) -> int:
    """How many the layers of the deep part have."""
    lists = sum(name in keys for name in spec.deep_features())
    inputs = lists * spec.deep.embedding_dim + 2 * (len(spec.deep_features()) - lists)
    return sum((below + 1) * width for below, width in pairwise([inputs, *spec.deep.hidden_units, 1]))


def _check_slices(spec: Spec, columns: dict[str, Column], refuse: Refuse) -> None:
    keys = _listed(columns)
    for name, values in spec.slices.items():
        path = ("slices", name)
        if name not in keys:
            refuse(path, f"[slices]: {name!r} is no category here; {near(name, keys)}")
        if not values or "" in values or len(set(values)) != len(values):
            refuse(path, f'[slices]: {name} takes values, once each, none empty: {name!r} = ["one", "other"]')
        if long := [v for v in values if len(f"{name}={v}".encode()) > SLICE_BYTES_MAX]:
            refuse(path, f"[slices]: {name}={long[0]} is over {SLICE_BYTES_MAX} bytes, too long for a metric's name")
        bands = columns.get(name.removesuffix("_band"), Column()).bands if name.endswith("_band") else []
        if bands and (unknown := [v for v in values if v not in map(str, range(len(bands) + 1))]):
            refuse(path, f"[slices]: {name} has the bands 0 (below {bands[0]:g}) to {len(bands)}, not {unknown[0]!r}")
    if (count := sum(map(len, spec.slices.values()))) > SLICES_MAX:
        refuse(("slices",), f"[slices]: {count} values are over {SLICES_MAX}: each keeps figures of its own")


def _check_durations(spec: Spec, refuse: Refuse) -> None:
    held: dict[tuple[str, ...], str | None] = {("statistics", n, "half_life"): s.half_life
                                               for n, s in spec.statistics.items()}  # fmt: skip
    held |= {("label", name): getattr(spec.label, name) for name in ("window", "lateness", "known", "early", "skew")}
    held |= {("wide", "expire"): spec.wide.expire, ("deep", "expire"): spec.deep.expire}
    held |= {("wide", "crosses", f"{i}"): cross.expire
             for i, cross in enumerate(spec.crosses(), -len(spec.wide.features))}  # fmt: skip
    held |= {("publish", "every"): spec.publish.every, ("publish", "deep_every"): spec.publish.deep_every}
    for path, text in held.items():
        if text is None:
            continue
        number, unit = re.findall(r"[\d.]+|[a-z]+", text)
        at_least = 0 if path[0] in ("label", "publish") and path != ("label", "window") else 1
        if text.endswith("\n") or not at_least <= float(number) * UNIT_MS[unit] <= DURATION_DAYS_MAX * UNIT_MS["d"]:
            refuse(path, f"{'.'.join(path)} is {at_least} ms to a hundred years, such as 2s, 10m, 30d; not {text!r}")
