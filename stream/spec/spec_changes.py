"""What two specs of one model share: the columns, crosses and statistics that mean the same in both.

A name alone isn't enough: a band's id is its number's, so other bounds give the same ids another meaning.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Final, NamedTuple

from stream.runtime.errors import SpecError
from stream.spec.built_in_columns import HOUR, NEWEST, RANK, WEEKDAY
from stream.spec.columns import Column, Cross, Statistic
from stream.spec.spec import Spec
from stream.spec.statistic_kinds import MEMORY_LEARNS, kind_of

CATEGORIES: Final = ("category", "categories")
BIAS: Final = "bias"


class Difference(NamedTuple):
    """Names of one kind of thing that only one of two specs has, or that mean something else in each."""

    kind: str
    added: list[str]
    dropped: list[str]
    changed: list[str]

    def __str__(self) -> str:
        parts = [
            f"{word} {', '.join(names)}"
            for word, names in (("added", self.added), ("dropped", self.dropped), ("changed", self.changed))
            if names
        ]
        return f"{self.kind}: {'; '.join(parts)}" if parts else ""


class SpecChanges:
    """From an old spec to a new one of the same model."""

    def __init__(self, old: Spec, new: Spec) -> None:
        self.old, self.new = old, new
        self._columns = old.columns(), new.columns()

    def is_shared(self, column: str) -> bool:
        """Whether both have this column, with values of the same meaning."""
        old, new = self._columns
        if column not in old or column not in new:
            return False
        source = column.removesuffix("_band")
        if source != column and source in old and source in new and (old[source].bands or new[source].bands):
            return old[source].bands == new[source].bands and self.is_shared(source)
        if column in (HOUR, WEEKDAY):
            return self.old.page == self.new.page
        for suffix in (NEWEST, RANK):
            if column.endswith(suffix) and column in self.new.built_in_columns():
                return self.is_shared(column.removesuffix(suffix))
        return _value_kind(old[column]) == _value_kind(new[column])

    @cached_property
    def statistics(self) -> frozenset[str]:
        """Statistics whose rows are the same. They may be read otherwise: a rate, a count and a since share rows."""
        old, new = self.old.statistics, self.new.statistics
        return frozenset(name for name in new if name in old and self._shares_rows(old[name], new[name]))

    def _shares_rows(self, old: Statistic, new: Statistic) -> bool:
        return _columns_of(old) == _columns_of(new) and _row_kind(old) == _row_kind(new) and all(
            map(self.is_shared, _columns_of(new))
        )  # fmt: skip

    @cached_property
    def logged_statistics(self) -> frozenset[str]:
        """Of these, statistics whose logged values mean the same, too."""
        old, new = self.old.statistics, self.new.statistics
        return frozenset(name for name in self.statistics if old[name].layout_text() == new[name].layout_text())

    @cached_property
    def crosses(self) -> dict[int, int]:
        """Indices of the crosses that both have, old to new; the bias is the last of each."""
        old, new = ([*(tuple(c.of) for c in _crosses(spec)), (BIAS,)] for spec in (self.old, self.new))
        shared: dict[int, int] = {}
        for index, names in enumerate(old):
            if names != (BIAS,) and not all(map(self.is_shared, names)):
                continue
            places = [place for place, other in enumerate(new) if other == names and place not in shared.values()]
            if places:
                shared[index] = places[0]
        return shared

    def check(self) -> None:
        """Raises SpecError when nothing can be carried over as it should be."""
        if self.old.name != self.new.name:
            raise SpecError(
                f"the spec is of model {self.new.name!r}, the checkpoint of {self.old.name!r}: a model that evolves "
                "keeps its name"
            )
        for name, new in self.new.statistics.items():
            old = self.old.statistics.get(name)
            if old and name not in self.statistics and _columns_of(old) == _columns_of(new):
                raise SpecError(
                    f"statistics.{name} has the keys that it had, but its rows would mean something else: give it a "
                    "new name, so that it starts from nothing"
                )

    def differences(self) -> list[Difference]:
        """For people; the differences that there are."""
        old, new = self._columns
        crosses = [[" x ".join(c.of) for c in _crosses(spec)] for spec in (self.old, self.new)]
        shared = {crosses[0][i] for i in self.crosses if i < len(crosses[0])}
        inputs = [spec.deep_features() if "deep" in spec.parts else [] for spec in (self.old, self.new)]
        shapes = [
            {f"{key} = {getattr(spec.deep, key)}" for key in ("embedding_dim", "quantiles", "hidden_units")}
            for spec in (self.old, self.new)
        ]
        found = [
            _difference("parts", self.old.parts, self.new.parts, {*self.old.parts}),
            _difference("columns", old, new, {name for name in new if self.is_shared(name)}),
            _difference("statistics", self.old.statistics, self.new.statistics, self.logged_statistics),
            _difference("crosses", crosses[0], crosses[1], shared),
            _difference("deep inputs", inputs[0], inputs[1], inputs[0]),
            _difference("deep shapes", shapes[0], shapes[1], shapes[0]),
        ]
        return [one for one in found if str(one)]


def _difference(kind: str, old: Iterable[str], new: Iterable[str], same: Iterable[str]) -> Difference:
    was, now, alike = {*old}, {*new}, {*same}
    return Difference(kind, sorted(now - was), sorted(was - now), sorted((was & now) - alike))


def _crosses(spec: Spec) -> list[Cross]:
    return spec.crosses() if "wide" in spec.parts else []


def _value_kind(column: Column) -> str:
    """What makes values comparable: ids of a column's texts, of items in a history, or numbers of one type."""
    if column.of:
        return f"history of {column.of}"
    return "ids" if column.type in CATEGORIES else str(column.type)


def _columns_of(statistic: Statistic) -> list[str]:
    return statistic.by or [statistic.to, statistic.of]


def _row_kind(statistic: Statistic) -> tuple[object, ...]:
    """What a row's numbers are. A half-life may change: a row fades from then on as the new one says."""
    learn = kind_of(statistic.kind).learn
    neighbours = statistic.neighbours if learn in MEMORY_LEARNS else 0
    return learn, statistic.of, statistic.window, neighbours
