"""The spec: what a model's columns, statistics, parts, labels and publishing are. TOML → frozen structs.

One file a world (`specs/`); published inside every snapshot, so that a ranker needs no copy.
"""

import difflib
import hashlib
import math
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Meta, field

from stream.errors import SpecError

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Duration = Annotated[str, Meta(pattern=r"^\d+(\.\d+)?(ms|s|m|h|d)$", description="such as 250ms, 2s, 10m, 1h, 30d")]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
Kind = Literal["category", "categories", "number"]
Measure = Literal["rate", "count", "since", "residual", "affinity"]
PartName = Literal["wide", "deep"]
Policy = Literal["wait", "eager", "fake_negative"]

DURATION_DAYS_MAX: Final = 36_525  # a hundred years
UNIT_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
POSITION: Final = "context.position"  # the only column that differs within a page: where the item stood, from 1


def duration_ms(text: str) -> int:
    """Milliseconds of a Duration.

    >>> duration_ms("2s"), duration_ms("1.5m")
    (2000, 90000)
    """
    number, unit = re.fullmatch(r"([\d.]+)(ms|s|m|h|d)", text).groups()  # type: ignore[union-attr]  # the type's pattern
    return round(float(number) * UNIT_MS[unit])


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Root of the spec's tables: frozen, unknown keys are refused."""


class Column(Part, frozen=True):
    """A column in full: `bands` cut a number into a further category; `serve_as` is what it is when ranking.

    `of` and `last` make it a history: what this user installed before the page, newest last.
    """

    type: Kind | None = None
    bands: list[float] = []
    serve_as: float | None = None
    of: str = ""
    last: Annotated[int, Meta(ge=1, le=1000)] = 50


class Statistic(Part, frozen=True):
    """A streaming number, by one field or a pair, moved by each label.

    rate: smoothed label rate · count: log(1 + labels) · since: log(1 + seconds since the last label)
    residual: mean of label − expected, shrunk
    affinity: residual of this item among those who have what is in the history
    """

    kind: Measure
    by: list[str] = []
    of: str = ""
    to: str = ""
    prior: Positive = 10.0
    half_life: Duration | None = None
    neighbours: Count = 50


class Cross(Part, frozen=True):
    """A cross-product of columns, with a learning rate of its own if wanted."""

    of: Annotated[list[str], Meta(min_length=1)]
    alpha: Positive | None = None


class Wide(Part, frozen=True):
    """The part that memorises: FTRL-Proximal over fields and cross-products."""

    alpha: Positive = 0.05
    beta: NotNegative = 1.0
    l1: NotNegative = 0.0
    l2: NotNegative = 0.0
    features: list[str] = []
    crosses: list[list[str] | Cross] = []


class WarmStart(Part, frozen=True):
    """Every so many examples the deep part starts anew from itself, on the last `window` examples."""

    every: Count = 20_000
    window: Count = 20_000


class Deep(Part, frozen=True):
    """The part that generalises: embeddings, ReLU tower, AdaGrad."""

    features: list[str] = []
    embedding_dim: Annotated[int, Meta(ge=1, le=1024)] = 32
    min_count: Count = 10
    quantiles: Annotated[int, Meta(ge=2, le=1024)] = 64
    hidden_units: list[Count] = field(default_factory=lambda: [128, 64])
    learning_rate: Positive = 0.02
    micro_batch: Annotated[int, Meta(ge=1, le=4096)] = 8
    warm_start: WarmStart = WarmStart()


class Label(Part, frozen=True):
    """The join: when an impression becomes a labelled example."""

    policy: Policy = "eager"
    window: Duration = "30m"
    lateness: Duration = "0s"


class Gate(Part, frozen=True):
    """What a version must keep over the last 2,000 predictions to be published.

    `log_loss_rise_max` is against the version that is live; `calibration` bounds mean prediction / mean label.
    """

    log_loss_rise_max: Positive = 0.05
    calibration: tuple[Positive, Positive] = (0.8, 1.25)


class Publish(Part, frozen=True):
    """How often snapshots go out."""

    every: Duration = "250ms"
    deep_every: Duration = "1s"
    gate: Gate = Gate()


class Spec(Part, frozen=True):
    """All that a model is. `fingerprint()` tells models apart; `name` is where its snapshots live."""

    name: Name
    parts: list[PartName] = field(default_factory=lambda: ["wide", "deep"])
    user: dict[str, Kind | Column] = {}
    item: dict[str, Kind | Column] = {}
    context: dict[str, Kind | Column] = {}
    statistics: dict[str, Statistic] = {}
    wide: Wide = field(default_factory=Wide)
    deep: Deep = field(default_factory=Deep)
    label: Label = field(default_factory=Label)
    publish: Publish = field(default_factory=Publish)

    def fingerprint(self) -> str:
        """16 hex digits: equal for specs whose models can go on from each other (name and publish aside).

        The order of columns and statistics counts: it's the order of a page's words and of the deep part's inputs.
        """
        content = {k: v for k, v in msgspec.to_builtins(self).items() if k not in ("name", "publish")}
        return hashlib.blake2b(msgspec.json.encode(content), digest_size=8).hexdigest()

    def columns(self) -> dict[str, Column]:
        """Every column by its full name (`user.age`), ids first, bands as columns of their own."""
        found: dict[str, Column] = {}
        for origin in ("user", "item", "context"):
            declared: dict[str, Kind | Column] = getattr(self, origin)
            for name, column in declared.items():
                whole = Column(type=column) if isinstance(column, str) else column
                found[f"{origin}.{name}"] = whole
                if whole.bands:
                    found[f"{origin}.{name}_band"] = Column(type="category")
        return found

    def crosses(self) -> list[Cross]:
        """Every wide feature and cross-product, in order, as a Cross."""
        singles = [Cross(of=[name]) for name in self.wide.features]
        return singles + [c if isinstance(c, Cross) else Cross(of=c) for c in self.wide.crosses]

    def deep_features(self) -> list[str]:
        """The deep part's columns and statistics, with `statistics.*` spelled out."""
        names: list[str] = []
        for name in self.deep.features:
            names += [f"statistics.{s}" for s in self.statistics] if name == "statistics.*" else [name]
        return names


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


def decode_spec(raw: bytes) -> Spec:
    """The spec as it travels in manifests and checkpoints. Raises SpecError."""
    try:
        spec = msgspec.json.decode(raw, type=Spec)
    except msgspec.MsgspecError as bad:
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
                                   "statistics": Statistic}  # fmt: skip
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


def _check_parts(spec: Spec, columns: dict[str, Column], refuse: Any) -> None:
    keys = _listed(columns)
    if "wide" in spec.parts and not spec.crosses():
        refuse(("wide",), "[wide] has neither features nor crosses; name some, or leave wide out of parts")
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


def _check_durations(spec: Spec, refuse: Any) -> None:
    held: dict[tuple[str, ...], str | None] = {("statistics", n, "half_life"): s.half_life
                                               for n, s in spec.statistics.items()}  # fmt: skip
    held |= {("label", "window"): spec.label.window, ("label", "lateness"): spec.label.lateness}
    held |= {("publish", "every"): spec.publish.every, ("publish", "deep_every"): spec.publish.deep_every}
    for path, text in held.items():
        if text is None:
            continue
        number, unit = re.findall(r"[\d.]+|[a-z]+", text)
        at_least = 1 if path[-1] == "half_life" else 0
        if text.endswith("\n") or not at_least <= float(number) * UNIT_MS[unit] <= DURATION_DAYS_MAX * UNIT_MS["d"]:
            refuse(path, f"{'.'.join(path)} is {at_least} ms to a hundred years, such as 2s, 10m, 30d; not {text!r}")
