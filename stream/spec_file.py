"""Spec files and published specs: read, checked, refused with line and remedy."""

import difflib
import math
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from stream.errors import SpecError
from stream.spec import (
    CROSSES_MAX,
    DURATION_DAYS_MAX,
    POSITION,
    SLICE_BYTES_MAX,
    SLICES_MAX,
    UNIT_MS,
    Column,
    Cross,
    Deep,
    Gate,
    Kind,
    Label,
    Measure,
    PartName,
    Policy,
    Publish,
    Spec,
    Statistic,
    WarmStart,
    Wide,
)


def load_spec(path: Path) -> Spec:
    """The spec in a TOML file. Raises SpecError naming line and remedy."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as bad:
        raise SpecError(
            f"{path} can't be read: {bad.strerror}; name a spec with --spec, such as specs/movielens.toml"
        ) from None
    except UnicodeDecodeError as bad:
        raise SpecError(f"{path}: not UTF-8 ({bad.reason} at byte {bad.start}): save it as UTF-8") from None
    return parse_spec(text, str(path))


def parse_spec(text: str, where: str = "spec") -> Spec:
    """The spec in a TOML text; `where` names it in errors. Raises SpecError naming line and remedy."""
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as bad:
        raise SpecError(f"{where}: not TOML: {bad}") from None
    try:
        spec = msgspec.convert(raw, Spec)
    except msgspec.ValidationError as bad:
        raise SpecError(_explain(str(bad), raw, text, where)) from None
    _check(spec, text, where)
    return spec


def checked_spec(raw: dict[str, Any], where: str) -> Spec:
    """The spec that a program put together from plain values; `where` names it in errors. Raises SpecError."""
    try:
        spec = msgspec.convert(raw, Spec)
    except msgspec.ValidationError as bad:
        raise SpecError(_explain(str(bad), raw, "", where)) from None
    _check(spec, "", where)
    return spec


def decode_spec(raw: bytes) -> Spec:
    """The spec as it travels in manifests and checkpoints. Raises SpecError."""
    try:
        spec = msgspec.json.decode(raw, type=Spec)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
        raise SpecError(f"a published spec can't be read: {bad}") from None
    _check(spec, "", "published spec")
    return spec


def encode_spec(spec: Spec) -> bytes:
    """The spec as it travels in manifests and checkpoints."""
    return msgspec.json.encode(spec)


def json_schema() -> dict[str, Any]:
    """JSON schema of a spec file, for editors."""
    return msgspec.json.schema(Spec)


def _line_of(path: Sequence[str], text: str) -> str:
    """` (line 12)`: where the last of these names stands, inside the table that the others name; else nothing."""
    lines = [line.split("#")[0] for line in text.splitlines()]
    heads = {i: found.group(1) for i, line in enumerate(lines) if (found := re.fullmatch(r"\s*\[([\w.-]+)\]\s*", line))}
    for k in range(len(path), -1, -1):
        first = next((i for i, name in heads.items() if name == ".".join(path[:k])), 0 if k == 0 else None)
        if first is not None:
            break
    assert first is not None, "the top level is always there"
    last = next((i for i in heads if i > first or (i == first and k == 0)), len(lines))
    at = first if k else None
    for word in path[k:]:
        named = re.compile(rf"(?<![\w.]){re.escape(word)}(?!\w)")
        at = next((i for i in range(at or first, last) if named.search(lines[i])), at)
    return "" if at is None else f" (line {at + 1})"


def _near(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known)) or 'none'}"


_TABLES: Final = {
    "wide": Wide,
    "deep": Deep,
    "label": Label,
    "publish": Publish,
    "warm_start": WarmStart,
    "gate": Gate,
    "statistics": Statistic,
    "user": Column,
    "item": Column,
    "context": Column,
    "crosses": Cross,
}


_ENTRIES: Final[dict[str, Any]] = {"user": Kind | Column, "item": Kind | Column, "context": Kind | Column,
                                   "statistics": Statistic, "slices": list[str]}  # fmt: skip
_CHOICES: Final = {"kind": get_args(Measure), "parts": get_args(PartName), "policy": get_args(Policy)}


def _explain(message: str, raw: dict[str, Any], text: str, where: str) -> str:
    """msgspec's message with line and remedy."""
    found = re.search(r" - at `\$\.?(.*)`$", message)
    words = re.findall(r"[A-Za-z_]\w*|\.\.\.", found.group(1)) if found else []
    what = message[: found.start()] if found else message
    path = [_entry(words[0], raw) if word == "..." else word for word in words]
    at = ".".join(path)
    if unknown := re.fullmatch(r"Object contains unknown field `(.+)`", what):
        key = unknown.group(1)
        holder = next((_TABLES[word] for word in reversed(words) if word in _TABLES), Spec)
        why = f"unknown key {key!r} {f'in [{at}]' if at else 'at the top level'}; "
        return f"{where}{_line_of([*path, key], text)}: {why}{_near(key, list(holder.__struct_fields__))}"
    if value := re.fullmatch(r"Invalid enum value '(.*)'", what):
        choices = list(_CHOICES.get(words[-1], get_args(Kind)))
        why = f"{at} can't be {value.group(1)!r}; {_near(value.group(1), choices)}"
        return f"{where}{_line_of([*path, value.group(1)], text)}: {why}"
    if "matching regex" in what:
        what = "letters, digits, . _ -, at most 64" if at == "name" else "a duration, such as 250ms, 2s, 10m, 1h, 30d"
        what = f"Expected {what}"
    return f"{where}{_line_of(path, text)}: {f'{at}: ' if at else ''}{what}"


def _entry(table: str, raw: dict[str, Any]) -> str:
    """The name of the table's first entry that can't be taken: msgspec's message says `...`."""
    for name, value in raw[table].items():
        try:
            msgspec.convert(value, _ENTRIES[table])
        except msgspec.ValidationError:
            return str(name)
    return "..."


def _not_finite(value: Any, path: tuple[str, ...] = ()) -> tuple[str, ...] | None:
    """Where an infinity or NaN stands: JSON, as which a spec is published, has none."""
    if isinstance(value, dict | list | tuple):
        inner = value.items() if isinstance(value, dict) else ((None, v) for v in value)
        return next((bad for k, v in inner if (bad := _not_finite(v, (*path, k) if k else path))), None)
    return path if isinstance(value, float) and not math.isfinite(value) else None


def _check(spec: Spec, text: str, where: str) -> None:
    """What types can't say. Raises SpecError."""

    def refuse(path: tuple[str, ...], why: str) -> None:
        raise SpecError(f"{where}{_line_of(path, text)}: {why}")

    if spec.name.startswith(".") or spec.name.endswith("\n"):
        refuse(("name",), "name is a folder's and a Redis key's: letters, digits, . _ -, without a dot in front")
    if not spec.parts or len(set(spec.parts)) != len(spec.parts):
        refuse(("parts",), "parts must name wide, deep, or both, once each")
    if bad := _not_finite(msgspec.to_builtins(spec)):
        refuse(bad, f"{'.'.join(bad)} must be a finite number")
    _check_columns(spec, refuse)
    _check_statistics(spec, spec.columns(), refuse)
    _check_parts(spec, spec.columns(), refuse)
    _check_slices(spec, spec.columns(), refuse)
    _check_durations(spec, refuse)


def _check_columns(spec: Spec, refuse: Any) -> None:
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
        if name != POSITION and column.serve_as is not None:
            refuse(path, f"{name}: serve_as is for {POSITION} only")
    if len(histories := [name for name, column in columns.items() if column.of]) > 1:
        refuse(
            ("user", histories[1].split(".", 1)[1]), f"one history is enough: {' and '.join(histories)} are the same"
        )
    for needed in ("user.id", "item.id"):
        if columns.get(needed, Column()).type != "category":
            refuse(tuple(needed.split(".")), f'[{needed.split(".")[0]}] needs id = "category"')


def _listed(columns: dict[str, Column]) -> list[str]:
    return [n for n, c in columns.items() if c.type in ("category", "categories") or c.of]


def _check_statistics(spec: Spec, columns: dict[str, Column], refuse: Any) -> None:
    keys = _listed(columns)
    for name, stat in spec.statistics.items():
        path = ("statistics", name)
        if stat.kind == "affinity":
            if stat.by or stat.of != "item.id" or not columns.get(stat.to, Column()).of:
                refuse(
                    path,
                    f'statistics.{name}: affinity is of = "item.id" to a history column, such as to = "user.history"',
                )
        elif stat.of or stat.to or not 1 <= len(stat.by) <= 2 or len(set(stat.by)) != len(stat.by):
            refuse(path, f'statistics.{name}: {stat.kind} goes by one field or a pair: by = ["user.id"]')
        for column in stat.by:
            if column not in keys:
                why = f"{column!r} is no category here; {_near(column, keys)}"
                refuse((*path, column), f"statistics.{name}: {why}")
        if stat.kind == "likeness" and (stat.by != ["user.id", "item.id"] or stat.half_life or stat.neighbours > 1_000):
            why = 'likeness is by = ["user.id", "item.id"], of at most 1,000 neighbours, without half_life'
            refuse(path, f"statistics.{name}: {why}")


def _check_parts(spec: Spec, columns: dict[str, Column], refuse: Any) -> None:
    keys = _listed(columns)
    if "wide" in spec.parts and not spec.crosses():
        refuse(("wide",), "[wide] has neither features nor crosses; name some, or leave wide out of parts")
    if len(spec.crosses()) > CROSSES_MAX:
        refuse(("wide", "crosses"), f"[wide]: {len(spec.crosses())} features and crosses are over {CROSSES_MAX}")
    for cross in spec.crosses():
        if len(set(cross.of)) != len(cross.of) or not 1 <= len(cross.of) <= 4:
            refuse(("wide", "crosses"), f"[wide]: a cross has 1 to 4 different columns, not {cross.of}")
        for column in cross.of:
            if column not in keys:
                why = f"{column!r} is no category here (a number needs bands); {_near(column, keys)}"
                refuse(("wide", column), f"[wide]: {why}")
    known = [*columns, *(f"statistics.{s}" for s in spec.statistics)]
    if "deep" in spec.parts and not spec.deep_features():
        refuse(("deep",), "[deep] has no features; name some, or leave deep out of parts")
    for name in spec.deep_features():
        if name not in known:
            refuse(("deep", name), f"[deep]: {name!r} is nothing that is declared; {_near(name, known)}")
    low, high = spec.publish.gate.calibration
    if low >= high:
        refuse(("publish", "gate", "calibration"), "gate.calibration is [low, high]")


def _check_slices(spec: Spec, columns: dict[str, Column], refuse: Any) -> None:
    keys = _listed(columns)
    for name, values in spec.slices.items():
        path = ("slices", name)
        if name not in keys:
            refuse(path, f"[slices]: {name!r} is no category here; {_near(name, keys)}")
        if not values or "" in values or len(set(values)) != len(values):
            refuse(path, f'[slices]: {name} takes values, once each, none empty: {name!r} = ["one", "other"]')
        if long := [v for v in values if len(f"{name}={v}".encode()) > SLICE_BYTES_MAX]:
            refuse(path, f"[slices]: {name}={long[0]} is over {SLICE_BYTES_MAX} bytes, too long for a metric's name")
        bands = columns.get(name.removesuffix("_band"), Column()).bands if name.endswith("_band") else []
        if bands and (unknown := [v for v in values if v not in map(str, range(len(bands) + 1))]):
            refuse(path, f"[slices]: {name} has the bands 0 (below {bands[0]:g}) to {len(bands)}, not {unknown[0]!r}")
    if (count := sum(map(len, spec.slices.values()))) > SLICES_MAX:
        refuse(("slices",), f"[slices]: {count} values are over {SLICES_MAX}: each keeps figures of its own")


def _check_durations(spec: Spec, refuse: Any) -> None:
    held: dict[tuple[str, ...], str | None] = {("statistics", n, "half_life"): s.half_life
                                               for n, s in spec.statistics.items()}  # fmt: skip
    held |= {("label", name): getattr(spec.label, name) for name in ("window", "lateness", "known", "early")}
    held |= {("wide", "expire"): spec.wide.expire, ("deep", "expire"): spec.deep.expire}
    held |= {("wide", "crosses", f"{i}"): cross.expire for i, cross in enumerate(spec.crosses())}
    held |= {("publish", "every"): spec.publish.every, ("publish", "deep_every"): spec.publish.deep_every}
    for path, text in held.items():
        if text is None:
            continue
        number, unit = re.findall(r"[\d.]+|[a-z]+", text)
        at_least = 0 if path[0] in ("label", "publish") else 1
        if text.endswith("\n") or not at_least <= float(number) * UNIT_MS[unit] <= DURATION_DAYS_MAX * UNIT_MS["d"]:
            refuse(path, f"{'.'.join(path)} is {at_least} ms to a hundred years, such as 2s, 10m, 30d; not {text!r}")
