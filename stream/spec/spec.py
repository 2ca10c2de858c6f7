"""The spec: a model's columns, statistics, parts, labels and publishing. TOML → frozen structs.

One file per model (`specs/`); published inside every snapshot, so a ranker needs no copy.
"""

import hashlib
import math
import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import NODEFAULT, Meta, field
from msgspec.structs import FieldInfo, fields

from stream.spec.built_in_columns import built_in_columns
from stream.spec.statistic_kinds import KIND_DESCRIPTIONS, Measure

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Duration = Annotated[str, Meta(pattern=r"^\d+(\.\d+)?(ms|s|m|h|d)$", description="such as 250ms, 2s, 10m, 1h, 30d")]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Probability = Annotated[float, Meta(gt=0, lt=1)]
SampleShare = Annotated[float, Meta(ge=0.001, le=1)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Admission = Annotated[int, Meta(ge=1, le=15)]
Pages = Annotated[int, Meta(ge=1, le=65_534)]
Bound = Annotated[int, Meta(ge=1_000, le=1_000_000_000)]  # of rows in memory
UtcOffset = Annotated[str, Meta(pattern=r"^[+-](0\d|1[0-4]):[0-5]\d$", description="such as +02:00")]
ColumnType = Literal["category", "categories", "number", "date"]
PartName = Literal["wide", "deep"]
Policy = Literal["wait", "eager", "fake_negative", "delayed_negative"]
OrganicTo = Literal["topic", "examples"]
DriftAction = Literal["retrain", "forget", "freeze", "none"]

ORGANIC_INSTALLS: Final = "organic"  # what a statistic may be `of`, instead of labels
ALL_INSTALLS: Final = "installs"  # those too: positive labels and organic installs
INSTALLS: Final = (ORGANIC_INSTALLS, ALL_INSTALLS)
DURATION_DAYS_MAX: Final = 36_525  # a hundred years
UNIT_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
WEIGHTS_MAX: Final = 100_000_000  # of the deep part's layers: 800 MB with AdaGrad's sums
CROSSES_MAX: Final = 250  # of the wide part: a cross's index fits a key's low byte
DELAYS_MAX: Final = 8  # of `delayed_negative`
SLICES_MAX: Final = 100  # each has about 300 KB of metrics
SLICE_BYTES_MAX: Final = 48  # of column=value: metrics of a version have names of at most 64
LEFT_OUT: Final = ("name", "publish", "slices", "drift")  # of the fingerprint
EVERY_BEFORE: Final = 20_000  # the default of deep.warm_start.every in earlier builds
FIRST_FIELDS: Final = ("kind", "by", "of", "to", "prior", "half_life", "neighbours")  # of a statistic; never changed
NUMBERS: Final = ("number", "date")  # types of columns that are read as a number
POSITION: Final = "context.position"  # the only column that differs within a page: where the item stood, from 1


def duration_ms(text: str) -> int:
    """Milliseconds of a Duration.

    >>> duration_ms("2s"), duration_ms("1.5m")
    (2000, 90000)
    """
    number, unit = re.fullmatch(r"([\d.]+)(ms|s|m|h|d)", text).groups()  # type: ignore[union-attr]  # the type's pattern
    return round(float(number) * UNIT_MS[unit])


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of the spec's tables: frozen, unknown keys are rejected."""


class Column(Part, frozen=True):
    """A column in full: `bands` make a further category of a number; `serve_as` is its value when ranking.

    A column with `serve_as` belongs to the request: it's learned as logged, and replaced by that text or number when
    ranking. `of` and `last` make it a history: what this user installed before the page, newest last. A date of an
    item (ISO 8601, UTC unless it says otherwise, or ms since 1970) is read as the days from then to the page.
    """

    type: ColumnType | None = None
    bands: list[float] = []
    serve_as: float | str | None = None
    of: str = ""
    last: Annotated[int, Meta(ge=1, le=1000)] = 50


class PageTime(Part, frozen=True):
    """What `page.hour` ("0" to "23") and `page.weekday` ("0" is Monday) count from: UTC plus this."""

    utc_offset: UtcOffset = "+00:00"

    def offset_ms(self) -> int:
        """Milliseconds to add to UTC.

        >>> PageTime("-05:30").offset_ms()
        -19800000
        """
        sign = -1 if self.utc_offset[0] == "-" else 1
        return sign * (int(self.utc_offset[1:3]) * 60 + int(self.utc_offset[4:])) * 60_000


class Statistic(Part, frozen=True):
    """A streaming number by one field or a pair, updated by each label.

    With of = "organic" a count or since is updated by organic installs instead, with of = "installs" by them and by
    positive labels: by item.id, user.id or both. A lift is of = "installs", by both.
    Labels fade by `half_life`, or a rate or count is of the last `window` alone; both are of event time.
    """

    kind: Annotated[Measure, Meta(description=KIND_DESCRIPTIONS)]
    by: list[str] = []
    of: str = ""
    to: str = ""
    prior: Positive = 10.0
    half_life: Duration | None = None
    neighbours: Count = 50
    window: Duration | None = None

    def fade_ms(self) -> int:
        """How labels fade: half-life; minus the window; 0: they don't."""
        return duration_ms(self.half_life) if self.half_life else -duration_ms(self.window) if self.window else 0

    def layout_text(self) -> str:
        """The text that a layout's hash covers.

        It includes the first release's fields always and later ones only where they aren't default: so a new field
        doesn't change the hash of an existing spec, and its logged pages stay valid.
        """
        names = [*FIRST_FIELDS, *(one.name for one in fields(self) if _is_later(one, self))]
        return f"Statistic({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


def _is_later(one: FieldInfo, statistic: Statistic) -> bool:
    """Whether the field came after the first release and isn't default."""
    default = one.default if one.default_factory is NODEFAULT else one.default_factory()
    return one.name not in FIRST_FIELDS and getattr(statistic, one.name) != default


class Cross(Part, frozen=True):
    """A cross-product of columns, optionally with its own learning rate, admission and expiry."""

    of: list[str]
    alpha: Positive | None = None
    admit: Admission | None = None
    expire: Duration | None = None


class Wide(Part, frozen=True):
    """The part that memorises: FTRL-Proximal over fields and cross-products.

    A key gets a weight on the `admit`-th page that has it, and loses it when it isn't seen for `expire` of event time.
    Over `max_keys` the least recently seen are evicted. `bias_alpha`: the bias's learning rate, by default
    `alpha`. Where labels are rare, `label.base_rate` says where the bias starts. Sums of squared gradients, which slow
    learning down, halve with each `half_life` of event time, by default never; weights stay.
    """

    alpha: Positive = 0.05
    bias_alpha: Positive | None = None
    beta: NotNegative = 1.0
    l1: NotNegative = 0.0
    l2: NotNegative = 0.0
    admit: Admission = 1
    expire: Duration | None = None
    max_keys: Bound = 50_000_000
    half_life: Duration | None = None
    features: list[str] = []
    crosses: list[list[str] | Cross] = []

    @property
    def bias_pull(self) -> float:
        """How strongly β and λ2 pull the bias to where it started."""
        return self.beta / (self.bias_alpha or self.alpha) + self.l2


class WarmStart(Part, frozen=True):
    """Every `every` examples, and when `[drift]` calls for it, a new model is trained from the live one on the last
    `window` examples, and takes over if it is no worse on the next `judged`. 0: not from time to time.
    The test goes on until there are 200 of the rarer label (or `judged` / 25, if that is less), for 20 times `judged`
    at most: an interval on fewer is too wide to tell a model that is as good from a worse one.
    """

    every: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0
    window: Annotated[int, Meta(ge=1, le=10_000_000)] = 20_000
    judged: Annotated[int, Meta(ge=100, le=10_000_000)] = 5_000


class Deep(Part, frozen=True):
    """The part that generalises: embeddings, ReLU tower, AdaGrad.

    An id gets an embedding row on the `min_count`-th page that has it, and loses it when it isn't seen for `expire` of
    event time. Over `max_rows` the least recently seen are evicted; rows are reused. AdaGrad's sums of squares start at
    `initial_accumulator`: where labels are rare, the first positives move the tower too far if they start at 0. What
    they have beyond it halves with each `half_life` of event time, by default never; weights stay.
    Embeddings learn at `embedding_rate`, by default `learning_rate`: where labels are rare, they diverge at rates that
    are good for the tower.
    """

    features: list[str] = []
    embedding_dim: Annotated[int, Meta(ge=1, le=1024)] = 32
    min_count: Pages = 10
    expire: Duration | None = None
    max_rows: Bound = 5_000_000
    quantiles: Annotated[int, Meta(ge=2, le=1024)] = 64
    hidden_units: list[Count] = field(default_factory=lambda: [128, 64])
    learning_rate: Positive = 0.02
    embedding_rate: Positive | None = None
    initial_accumulator: NotNegative = 0.0  # TensorFlow's AdaGrad has 0.1
    half_life: Duration | None = None
    micro_batch: Annotated[int, Meta(ge=1, le=4096)] = 8
    warm_start: WarmStart = WarmStart()


class Label(Part, frozen=True):
    """The join: when an impression becomes a labelled example. `window` is 1 ms at least.

    A new model predicts about `base_rate`, the share of positives that you expect. By default it's a half: where labels
    are rare, the first thousands of examples teach little else. It makes no difference to a model that exists.

    Of negatives a share of `sample_negatives` is learned, by hash, at weights that make up for the others. Statistics
    count all; log loss, AUC and calibration weigh labels as learning does; ranking is judged by the pages of the same
    share of users, which are predicted whole.
    """

    policy: Policy = "eager"
    window: Duration = "30m"
    lateness: Duration = "0s"
    known: Duration = "2s"  # how long after its window a page can still be corrected
    early: Duration | None = None  # how long an install waits for a page that follows it in the log
    skew: Duration = "1s"  # how much older than its page an install may be that names it: clocks differ
    organic: bool | OrganicTo = False  # emit installs without a page: see `organic_in`
    delays: list[Duration] = []  # of `delayed_negative`: when negatives are emitted; quantiles of installs' delays
    base_rate: Probability = 0.5
    sample_negatives: SampleShare = 1.0

    @property
    def base_log_odds(self) -> float:
        """Log-odds of `base_rate`."""
        return math.log(self.base_rate / (1 - self.base_rate))

    @property
    def are_negatives_early(self) -> bool:
        """Whether negatives are emitted before the window closes, so that installs are expected to correct them."""
        return self.policy in ("fake_negative", "delayed_negative")

    @property
    def organic_in(self) -> tuple[OrganicTo, ...]:
        """The topics of organic installs: `true` and "topic" mean `organic`, "examples" means both."""
        if not self.organic:
            return ()
        return ("topic", "examples") if self.organic == "examples" else ("topic",)


class Gate(Part, frozen=True):
    """What a version must satisfy to be published.

    *Without labels*, on recent pages that the live version scored, and an earlier one: the mean log-odds may move by
    `shift_max`, .6 of it from the earlier version; their standard deviation, and norms of layers and embeddings, by a
    factor of `spread_max`, `norm_max`; of pairs of a page's items `agreement_min` must be in the same order, weighted
    by how far apart the older version has them. The bounds widen with the examples learned between the two versions:
    they are twice as wide after `patience` examples; for a young model sooner.

    *By the recent labels*, in a window of at least 2,000 examples and 200 positives: `calibration` bounds mean
    prediction / mean label, unless chance alone explains the difference. `log_loss_rise_max` is relative to always
    predicting the window's own label rate, where half of the labels are positive; elsewhere in proportion to that
    prediction's log loss. Under `fake_negative` labels beyond the model's usual share don't count for the lower bound.

    After `refusals_max` refusals in a row the learner returns to its last checkpoint that was proven good.

    *Continuously*, `holdout` of all pages aren't learned, and judge the model; 0: all are learned. When they find it
    worse than it was, the learner returns to what it was.
    """

    log_loss_rise_max: Positive = 0.05
    calibration: tuple[Positive, Positive] = (0.8, 1.25)
    shift_max: Positive = 0.5
    spread_max: Annotated[float, Meta(gt=1)] = 2.0
    agreement_min: Probability = 0.8
    norm_max: Annotated[float, Meta(gt=1)] = 2.0
    patience: Count = 20_000
    refusals_max: Count = 20
    holdout: Annotated[float, Meta(ge=0, le=0.5)] = 0.01


class Publish(Part, frozen=True):
    """How often snapshots go out."""

    every: Duration = "250ms"
    deep_every: Duration = "1s"
    gate: Gate = Gate()


class Drift(Part, frozen=True):
    """What follows when the model becomes worse beside always predicting the recent label rate.

    Of all examples or, with `slices`, of those of a slice. `bound`: how much worse, in standard deviations of a block
    of fifty labels of the rarer kind, summed up; a lower one finds drift earlier and raises more false alarms.
    "retrain": a new model is trained, as by `thalweg retrain`. "forget": of the sums of squares that slow learning down
    a share of `keeps` is left; weights stay. "freeze": no version is published until the model is as good as before, or
    has learned 2,000 labels of the rarer kind. All raise an alarm in log and metrics; "none": only that.
    """

    action: DriftAction = "retrain"
    slices: bool = True
    bound: Annotated[float, Meta(ge=3, le=1000)] = 10.0
    keeps: Annotated[float, Meta(ge=0.0001, le=1)] = 0.01


class Spec(Part, frozen=True):
    """A model's whole configuration. `fingerprint()` identifies it, `identity()` what its features mean; its snapshots
    live under `name`.
    """

    name: Name
    parts: list[PartName] = field(default_factory=lambda: ["wide", "deep"])
    user: dict[str, ColumnType | Column] = {}
    item: dict[str, ColumnType | Column] = {}
    context: dict[str, ColumnType | Column] = {}
    page: PageTime = PageTime()
    statistics: dict[str, Statistic] = {}
    max_statistics: Bound = 50_000_000  # rows of statistics but likenesses and lifts; the least recently updated go
    max_likenesses: Bound = 50_000_000  # rows of these: users' last labels or installs, and pairs of items
    slices: dict[str, list[str]] = {}  # metrics are also computed for these values of a category
    wide: Wide = field(default_factory=Wide)
    deep: Deep = field(default_factory=Deep)
    label: Label = field(default_factory=Label)
    publish: Publish = field(default_factory=Publish)
    drift: Drift = Drift()

    def fingerprint(self) -> str:
        """16 hex digits: equal for specs whose models are interchangeable.

        It leaves out name, publish, slices, drift and label.organic: no example depends on them (a statistic of organic
        installs is part of it anyway); label.base_rate, of which only a new model knows; label.skew: it was added
        later, and models had to stay valid; and label.sample_negatives, which changes how soon weights move.

        The order of columns and statistics counts: it's the order of a page's words and of the deep part's inputs.
        """
        content = {k: v for k, v in msgspec.to_builtins(self).items() if k not in LEFT_OUT}
        for name in ("organic", "skew", "base_rate", "sample_negatives"):
            content["label"].pop(name, None)
        if self.page == PageTime():  # written out
            content.pop("page", None)
        warm_start = content.get("deep", {}).get("warm_start", {})
        if warm_start.get("every") == EVERY_BEFORE:  # was the default, which isn't written out
            del warm_start["every"]
        return hashlib.blake2b(msgspec.json.encode(content), digest_size=8).hexdigest()

    def without_holdout(self) -> "Spec":
        """The same, but that every example is learned."""
        gate = msgspec.structs.replace(self.publish.gate, holdout=0.0)
        return msgspec.structs.replace(self, publish=msgspec.structs.replace(self.publish, gate=gate))

    def identity(self) -> str:
        """16 hex digits: equal for specs whose features mean the same and whose parts have the same shapes.

        All else in `fingerprint` is a *tunable* (rates, bounds, windows, cadences, the labels' rules): a learner
        resumes from a checkpoint with other tunables, but not of another identity.
        """
        content = msgspec.to_builtins(self)
        kept = {k: v for k, v in content.items() if k in ("parts", "user", "item", "context", "statistics")}
        if self.page != PageTime():
            kept["page"] = content["page"]
        kept["wide"] = [cross.of for cross in self.crosses()]
        deep = self.deep
        kept["deep"] = [deep.features, deep.embedding_dim, deep.quantiles, deep.hidden_units]
        return hashlib.blake2b(msgspec.json.encode(kept), digest_size=8).hexdigest()

    def columns(self) -> dict[str, Column]:
        """Every column by its full name (`user.age`): those declared, bands as columns of their own, then those of
        `built_in_columns` that the spec uses.
        """
        declared, used = self._declared_columns(), {*self.deep.features, *self.slices}
        used |= {name for cross in self.crosses() for name in cross.of}
        used |= {name for statistic in self.statistics.values() for name in statistic.by}
        return declared | {name: column for name, column in self.built_in_columns().items() if name in used}

    def built_in_columns(self) -> dict[str, Column]:
        """Columns that needn't be declared, used or not; a declared one hides that of its name."""
        declared = self._declared_columns()
        numbers = [name for name, one in declared.items() if one.type in NUMBERS and name.startswith("item.")]
        types = built_in_columns([name for name, one in declared.items() if one.of], numbers)
        return {name: Column(type=kind) for name, kind in types.items() if name not in declared}

    def _declared_columns(self) -> dict[str, Column]:
        found: dict[str, Column] = {}
        for origin in ("user", "item", "context"):
            declared: dict[str, ColumnType | Column] = getattr(self, origin)
            for name, column in declared.items():
                whole = Column(type=column) if isinstance(column, str) else column
                found[f"{origin}.{name}"] = whole
                if whole.bands:
                    found[f"{origin}.{name}_band"] = Column(type="category")
        return found

    def served_columns(self) -> frozenset[str]:
        """Columns with `serve_as`, and their bands, but the position, which isn't in a page."""
        columns = self.columns()
        names = [name for name, column in columns.items() if column.serve_as is not None and name != POSITION]
        return frozenset([*names, *(f"{name}_band" for name in names if columns[name].bands)])

    def crosses(self) -> list[Cross]:
        """Every wide feature and cross-product, in order, as a Cross."""
        singles = [Cross(of=[name]) for name in self.wide.features]
        return singles + [c if isinstance(c, Cross) else Cross(of=c) for c in self.wide.crosses]

    def deep_features(self) -> list[str]:
        """The deep part's columns and statistics, with `statistics.*` expanded."""
        names: list[str] = []
        for name in self.deep.features:
            names += [f"statistics.{s}" for s in self.statistics] if name == "statistics.*" else [name]
        return names
