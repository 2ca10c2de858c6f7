"""What the joiner has told, read in columns, and what can be said of it by itself. See `audit.py`."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import polars as pl

from stream.events import (
    LATE_POSITIVE,
    RETRACTION,
    WINDOW_CLOSED,
    Examples,
    decode_organic,
    decode_training,
    example_id,
)
from stream.log import Record
from thalweg.offline import digest_of
from thalweg.rules import AuditRules

KEY: Final = ["request_id", "position"]
TOLD: Final = pl.Schema({
    "order": pl.Int64(), "request_id": pl.String(), "position": pl.Int64(), "item": pl.String(), "time_ms": pl.Int64(),
    "id": pl.UInt64(), "label": pl.Int64(), "weight": pl.Float64(), "reason": pl.Int64(), "founded": pl.Boolean(),
    "digest": pl.UInt64(), "place": pl.String(),
})  # fmt: skip
TOLD_ORGANIC: Final = pl.Schema({
    "user": pl.String(), "item": pl.String(), "time_ms": pl.Int64(), "install_id": pl.String(), "named": pl.String(),
    "ingest_ms": pl.Int64(), "place": pl.String(),
})  # fmt: skip
UNREADABLE: Final = pl.Schema({"place": pl.String(), "why": pl.String()})
CORRECTIONS: Final = [LATE_POSITIVE, RETRACTION]


@dataclass
class Told:
    """All that a log has been told, in columns, as it is read.

    `installs`: user, item and id of all that were read; ids of examples are made of them.
    """

    installs: Iterable[tuple[str, str, str]] = ()
    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in TOLD})
    organic: list[tuple[Any, ...]] = field(default_factory=list)  # in the topic `organic`
    organic_examples: list[tuple[Any, ...]] = field(default_factory=list)  # in `examples`
    unreadable: list[tuple[str, str]] = field(default_factory=list)  # place and why

    def __post_init__(self) -> None:
        self._ids: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for user, item, install_id in self.installs:
            self._ids[user, item].add(install_id)

    def take(self, record: Record) -> None:
        """One record of `examples`; of one partition in offset order."""
        place = f"{record.topic} {record.partition}:{record.offset}"
        found, bad = decode_training(record.value or b"")
        self.unreadable += [(place, why) for _, why in bad]
        columns = self.columns
        for examples in found:
            if not isinstance(examples, Examples):
                self.organic_examples.append((*msgspec.structs.astuple(examples), place))
                continue
            n, page = len(examples.ids), examples.page
            order = len(columns["order"])
            columns["order"] += range(order, order + n)
            columns["request_id"] += [page.request_id] * n
            columns["position"] += examples.positions
            columns["item"] += [page.items[position] for position in examples.positions]
            columns["time_ms"] += [page.time_ms] * n
            columns["id"] += examples.ids
            columns["label"] += examples.labels
            columns["weight"] += examples.weights
            columns["reason"] += examples.reasons
            columns["founded"] += [self._founded(examples, row) for row in range(n)]
            columns["digest"] += [digest_of(page)] * n
            columns["place"] += [place] * n

    def _founded(self, said: Examples, row: int) -> bool:
        """Whether an id is what it has to be: who reads again knows repetitions by it."""
        position, reason = said.positions[row], said.reasons[row]
        causes = {""} if reason == WINDOW_CLOSED else self._ids.get((said.page.user, said.page.items[position]), ())
        return any(example_id(said.page.request_id, position, reason, cause) == said.ids[row] for cause in causes)

    def take_organic(self, record: Record) -> None:
        """One record of `organic`."""
        place = f"{record.topic} {record.partition}:{record.offset}"
        found, bad = decode_organic(record.value or b"")
        self.unreadable += [(place, why) for _, why in bad]
        self.organic += [(*msgspec.structs.astuple(one), place) for one in found]

    def frame(self) -> pl.DataFrame:
        """A row per label and correction."""
        return pl.DataFrame(self.columns, schema=TOLD)


def told_twice(once: pl.DataFrame) -> pl.DataFrame:
    """Items with more than one first label, or told again with the label that they had; a row an item."""
    first = ~pl.col("reason").is_in(CORRECTIONS)
    again = pl.col("label") == pl.col("label").shift(1).over(KEY)
    odd = once.filter((first.sum().over(KEY) > 1) | again.fill_null(value=False))
    return odd.group_by(KEY, maintain_order=True).agg(pl.all().last())


def misnamed(rules: AuditRules) -> pl.Expr:
    """A reason that doesn't go with its label or the policy, or corrects what was never told."""
    negative = pl.col("reason").is_in([WINDOW_CLOSED, RETRACTION])
    odd = negative != (pl.col("label") == 0)
    odd = odd | (pl.col("reason").is_in(CORRECTIONS) & (pl.int_range(pl.len()).over(KEY) == 0))
    if rules.policy == "fake_negative":  # every item is a negative first
        odd = odd | ~pl.col("reason").is_in([WINDOW_CLOSED, *CORRECTIONS])
    return odd
