"""The spec: a model's columns, statistics, parts, labels and publishing. TOML → frozen structs.

One file per model (`specs/`); published inside every snapshot, so a ranker needs no copy.
"""

import hashlib
from typing import Any, Final

import msgspec
from msgspec import field

from stream.spec.built_in_columns import NEWEST, built_in_columns
from stream.spec.columns import NUMBERS, POSITION, Column, Cross, PageTime, Statistic
from stream.spec.explore import Explore
from stream.spec.parts import Deep, Drift, Label, Publish, Wide
from stream.spec.retrieval import Retrieval
from stream.spec.rules import AnyRule
from stream.spec.values import Bound, ColumnType, Name, Part, PartName

SLICES_MAX: Final = 100  # each has about 300 KB of metrics
SLICE_BYTES_MAX: Final = 48  # of column=value: metrics of a version have names of at most 64
LEFT_OUT: Final = ("name", "publish", "slices", "drift", "retrieval", "rules", "explore")  # of the fingerprint
ORIGINS: Final = ("user", "item", "context")  # of columns
ATTRIBUTE: Final = "attribute"  # the type of a column that only rules read
EVERY_BEFORE: Final = 20_000  # the default of deep.warm_start.every in earlier builds


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
    retrieval: Retrieval = Retrieval()
    rules: dict[str, AnyRule] = {}  # of what a page may show, in this order
    explore: Explore = Explore()

    def fingerprint(self) -> str:
        """16 hex digits: equal for specs whose models are interchangeable.

        It leaves out what no example depends on: name, publish, slices, drift, retrieval, rules, explore, columns that
        only rules read, and label.organic (a statistic of organic installs is part of it anyway); label.base_rate, of
        which only a new model knows; label.skew: it was added later, and models had to stay valid; and
        label.sample_negatives, which changes how soon weights move.

        The order of columns and statistics counts: it's the order of a page's words and of the deep part's inputs.
        """
        content = {k: v for k, v in self._content().items() if k not in LEFT_OUT}
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
        content = self._content()
        kept = {k: v for k, v in content.items() if k in ("parts", "user", "item", "context", "statistics")}
        if self.page != PageTime():
            kept["page"] = content["page"]
        kept["wide"] = [cross.of for cross in self.crosses()]
        deep = self.deep
        kept["deep"] = [deep.features, deep.embedding_dim, deep.quantiles, deep.hidden_units]
        return hashlib.blake2b(msgspec.json.encode(kept), digest_size=8).hexdigest()

    def _content(self) -> dict[str, Any]:
        """The spec as plain values, without columns that only rules read."""
        content: dict[str, Any] = msgspec.to_builtins(self)
        for origin in ORIGINS:
            left = {name: one for name, one in getattr(self, origin).items() if _whole(one).type != ATTRIBUTE}
            if origin in content:
                content[origin] = {name: one for name, one in content[origin].items() if name in left}
            if not content.get(origin, True):
                del content[origin]
        return content

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
        return {name: column for name, column in self.readable_columns().items() if column.type != ATTRIBUTE}

    def readable_columns(self) -> dict[str, Column]:
        """Every declared column and band, and attributes, which rules can read but no model does."""
        found: dict[str, Column] = {}
        for origin in ORIGINS:
            declared: dict[str, ColumnType | Column] = getattr(self, origin)
            for name, column in declared.items():
                whole = found[f"{origin}.{name}"] = _whole(column)
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

    def explored_crosses(self) -> list[int]:
        """Indices of the wide features and crosses by which exploration knows what is uncertain of an item: those of
        its columns, but not of a user's id or history, whose keys are new for most pages.
        """
        if "wide" not in self.parts:
            return []
        histories = [name for name, column in self._declared_columns().items() if column.of]
        users = {"user.id", *histories, *(history + NEWEST for history in histories)}
        return [
            i
            for i, cross in enumerate(self.crosses())
            if any(name.startswith("item.") for name in cross.of) and not users.intersection(cross.of)
        ]

    def deep_features(self) -> list[str]:
        """The deep part's columns and statistics, with `statistics.*` expanded."""
        names: list[str] = []
        for name in self.deep.features:
            names += [f"statistics.{s}" for s in self.statistics] if name == "statistics.*" else [name]
        return names


def _whole(column: ColumnType | Column) -> Column:
    return Column(type=column) if isinstance(column, str) else column
