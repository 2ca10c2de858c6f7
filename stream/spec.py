"""The spec: what a model's columns, statistics, parts, labels and publishing are. TOML → frozen structs.

One file a world (`specs/`); published inside every snapshot, so that a ranker needs no copy.
"""

import difflib
import hashlib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, field

from stream.errors import SpecError

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Duration = Annotated[str, Meta(pattern=r"^\d+(\.\d+)?(ms|s|m|h|d)$", description="such as 250ms, 2s, 10m, 1h, 30d")]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
Kind = Literal["category", "categories", "number"]

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

    kind: Literal["rate", "count", "since", "residual", "affinity"]
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

    policy: Literal["wait", "eager", "fake_negative"] = "eager"
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
    parts: list[Literal["wide", "deep"]] = field(default_factory=lambda: ["wide", "deep"])
    user: dict[str, Kind | Column] = {}
    item: dict[str, Kind | Column] = {}
    context: dict[str, Kind | Column] = {}
    statistics: dict[str, Statistic] = {}
    wide: Wide = field(default_factory=Wide)
    deep: Deep = field(default_factory=Deep)
    label: Label = field(default_factory=Label)
    publish: Publish = field(default_factory=Publish)

    def fingerprint(self) -> str:
        """16 hex digits: equal for specs whose models can go on from each other (name and publish aside)."""
        content = {k: v for k, v in msgspec.to_builtins(self).items() if k not in ("name", "publish")}
        return hashlib.blake2b(msgspec.json.encode(content, order="deterministic"), digest_size=8).hexdigest()

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
        text = path.read_text()
    except OSError as bad:
        raise SpecError(
            f"{path} can't be read: {bad.strerror}; name a spec with --spec, such as specs/movielens.toml"
        ) from None
    return parse_spec(text, str(path))


def parse_spec(text: str, where: str = "spec") -> Spec:
    """The spec in a TOML text; `where` names it in errors. Raises SpecError naming line and remedy."""
    try:
        spec = msgspec.convert(tomllib.loads(text), Spec)
    except tomllib.TOMLDecodeError as bad:
        raise SpecError(f"{where}: not TOML: {bad}") from None
    except msgspec.ValidationError as bad:
        raise SpecError(_explain(str(bad), text, where)) from None
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


def _line_of(key: str, text: str) -> str:
    """` (line 12)` for the first line that names key, else nothing."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(rf"(?<![\w.]){re.escape(key)}(?![\w])", line.split("#")[0]):
            return f" (line {number})"
    return ""


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


def _explain(message: str, text: str, where: str) -> str:
    """msgspec's message with line and remedy."""
    unknown = re.match(r"Object contains unknown field `(.+?)`(?: - at `\$\.?(.*)`)?$", message)
    if not unknown:
        path = re.search(r"at `\$\.?(.*)`$", message)
        last = re.findall(r"\w+", path.group(1)) if path else []
        return f"{where}{_line_of(last[-1], text) if last else ''}: {message}"
    key, path_text = unknown.group(1), unknown.group(2) or ""
    holders = [_TABLES[word] for word in re.findall(r"\w+", path_text) if word in _TABLES]
    known = list((holders[-1] if holders else Spec).__struct_fields__)
    return f"{where}{_line_of(key, text)}: unknown key {key!r} in [{path_text or 'the top level'}]; {_near(key, known)}"


def _check(spec: Spec, text: str, where: str) -> None:
    """What types can't say. Raises SpecError."""

    def refuse(key: str, why: str) -> None:
        raise SpecError(f"{where}{_line_of(key, text)}: {why}")

    if not spec.parts or len(set(spec.parts)) != len(spec.parts):
        refuse("parts", "parts must name wide, deep, or both, once each")
    columns = spec.columns()
    for name, column in columns.items():
        origin, short = name.split(".", 1)
        if column.of:
            if column.type or origin != "user" or column.of != "item.id":
                refuse(short, f'{name}: a history is a column of [user], of = "item.id", without a type')
        elif column.type is None:
            refuse(short, f"{name}: give it a type: category, categories or number")
        if column.bands and (column.type != "number" or sorted(set(column.bands)) != column.bands):
            refuse(short, f"{name}: bands cut a number, at rising values")
        if name == POSITION and column.type != "number":
            refuse(short, f"{name} is a number: where the item stood on its page, from 1")
        if name == POSITION and column.serve_as is None:
            refuse(short, f"{name} isn't known when ranking: hold it still, such as with serve_as = 1")
        if name != POSITION and column.serve_as is not None:
            refuse(short, f"{name}: serve_as is for {POSITION} only")
    for needed in ("user.id", "item.id"):
        if columns.get(needed, Column()).type != "category":
            refuse(needed.split(".")[0], f'[{needed.split(".")[0]}] needs id = "category"')
    _check_statistics(spec, columns, refuse)
    _check_parts(spec, columns, refuse)


def _listed(columns: dict[str, Column]) -> list[str]:
    return [n for n, c in columns.items() if c.type in ("category", "categories") or c.of]


def _check_statistics(spec: Spec, columns: dict[str, Column], refuse: Any) -> None:
    keys = _listed(columns)
    for name, stat in spec.statistics.items():
        if stat.kind == "affinity":
            if stat.by or stat.of != "item.id" or not columns.get(stat.to, Column()).of:
                refuse(
                    name,
                    f'statistics.{name}: affinity is of = "item.id" to a history column, such as to = "user.history"',
                )
        elif stat.of or stat.to or not 1 <= len(stat.by) <= 2:
            refuse(name, f'statistics.{name}: {stat.kind} goes by one field or a pair: by = ["user.id"]')
        for column in stat.by:
            if column not in keys:
                refuse(name, f"statistics.{name}: {column!r} is no category here; {_near(column, keys)}")


def _check_parts(spec: Spec, columns: dict[str, Column], refuse: Any) -> None:
    keys = _listed(columns)
    if "wide" in spec.parts and not spec.crosses():
        refuse("wide", "[wide] has neither features nor crosses; name some, or leave wide out of parts")
    for cross in spec.crosses():
        for column in cross.of:
            if column not in keys:
                refuse(column, f"[wide]: {column!r} is no category here (a number needs bands); {_near(column, keys)}")
        if len(set(cross.of)) != len(cross.of) or len(cross.of) > 4:
            refuse("crosses", f"[wide]: a cross has 1 to 4 different columns, not {cross.of}")
    known = [*columns, *(f"statistics.{s}" for s in spec.statistics)]
    if "deep" in spec.parts and not spec.deep_features():
        refuse("deep", "[deep] has no features; name some, or leave deep out of parts")
    for name in spec.deep_features():
        if name not in known:
            refuse(name, f"[deep]: {name!r} is nothing that is declared; {_near(name, known)}")
    low, high = spec.publish.gate.calibration
    if low >= high:
        refuse("calibration", "gate.calibration is [low, high]")
