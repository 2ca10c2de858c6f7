"""The audit: what stands in `examples` against the labels that `events` should have led to.

A page is *settled* when the joiner's own commit says that it is finished with it: then every label must be there and
right. Other pages are *pending*: their window or the time for corrections isn't over, or the joiner isn't there yet
(*behind*); they are counted, not judged. So it is with organic installs, where the spec has them told.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any, Final

import msgspec
import polars as pl

from stream.errors import DataError
from stream.events import LATE_POSITIVE, REASONS, RETRACTION, WINDOW_CLOSED, decode_examples, decode_organic
from stream.log import START, Log, Record
from stream.topics import EVENTS, EXAMPLES, ORGANIC
from thalweg.offline import NEVER, Events, Expected, digest_of, expected
from thalweg.rules import AuditRules
from thalweg.span import span

GROUP: Final = "joiner"
DIFFERENCES_MAX: Final = 20
SKEW_MS: Final = 60_000  # append times of several brokers may differ by less

KEY: Final = ["request_id", "position"]
TOLD: Final = pl.Schema({
    "order": pl.Int64(), "request_id": pl.String(), "position": pl.Int64(), "item": pl.String(), "id": pl.UInt64(),
    "label": pl.Int64(), "reason": pl.Int64(), "digest": pl.UInt64(), "place": pl.String(),
})  # fmt: skip
TOLD_ORGANIC: Final = pl.Schema({
    "user": pl.String(), "item": pl.String(), "time_ms": pl.Int64(), "install_id": pl.String(), "named": pl.String(),
    "ingest_ms": pl.Int64(), "place": pl.String(),
})  # fmt: skip
INSTALL_KEY: Final = ["user", "item", "time_ms", "install_id", "named", "ingest_ms"]


FAULTS: Final = {
    "missing": "a label that should be there isn't",
    "surplus": "examples of a page or item that no event tells of, or that came too late to count",
    "wrong": "the last label told isn't the right one",
    "told_twice": "an item's first label was told with two ids: metrics count it twice",
    "misnamed": "a reason that doesn't go with its label, or with the policy",
    "altered": "the page in an example isn't the page that was shown",
    "organic_missing": "an install that no page claimed isn't in `organic`",
    "organic_surplus": "in `organic`, but claimed by a page, taken back, or not as any event tells",
}


@dataclass(frozen=True)
class Progress:
    """How far the joiner has committed to be with a partition; event times in ms.

    `floor_ms`: pages up to it may have been closed before their time, because memory was full. `unsure_ms`: installs
    are told as organic from a window after it on.
    """

    finished_ms: int = 0
    floor_ms: int = 0
    unsure_ms: int = NEVER


@dataclass(frozen=True)
class Difference:
    """One thing that is wrong: which example, what was expected, what was found and where."""

    fault: str
    request_id: str
    position: int
    item: str
    expected: str
    found: str
    install: str = ""  # "id of user", where it's about an organic install; `request_id` is the page that it named

    @property
    def about(self) -> str:
        """What it is about."""
        of = f"install {self.install}" if self.install else f"page {self.request_id}"
        return f"{of}, item {self.item}" + ("" if self.install else f" at {self.position}")

    @property
    def text(self) -> str:
        """What was expected, if anything, and what was found."""
        return f"expected {self.expected or 'nothing'}, found {self.found}"


@dataclass
class Audit:
    """Figures of one audit, and the first differences of each kind."""

    rules: AuditRules
    figures: dict[str, int] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)

    @property
    def fine(self) -> bool:
        """Nothing is missing, nothing is wrong."""
        return not any(self.figures[fault] for fault in FAULTS)

    @property
    def verdict(self) -> str:
        """One line."""
        faults = [f"{self.figures[fault]} {fault}" for fault in FAULTS if self.figures[fault]]
        judged = f"{self.figures['settled']} labels judged"
        return f"{judged}: " + (", ".join(faults) if faults else "nothing is missing, nothing is wrong")


@dataclass
class Told:
    """All examples of a log in columns, as they are read."""

    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in TOLD})
    organic: list[tuple[Any, ...]] = field(default_factory=list)
    bad: int = 0

    def take(self, record: Record) -> None:
        """One record of `examples`; of one partition in offset order."""
        found, bad = decode_examples(record.value or b"")
        self.bad += len(bad)
        columns, place = self.columns, f"{record.partition}:{record.offset}"
        for examples in found:
            n, items = len(examples.ids), examples.page.items
            order = len(columns["order"])
            columns["order"] += range(order, order + n)
            columns["request_id"] += [examples.page.request_id] * n
            columns["position"] += examples.positions
            columns["item"] += [items[position] for position in examples.positions]
            columns["id"] += examples.ids
            columns["label"] += examples.labels
            columns["reason"] += examples.reasons
            columns["digest"] += [digest_of(examples.page)] * n
            columns["place"] += [place] * n

    def take_organic(self, record: Record) -> None:
        """One record of `organic`."""
        found, bad = decode_organic(record.value or b"")
        self.bad += len(bad)
        self.organic += [(*msgspec.structs.astuple(one), f"{record.partition}:{record.offset}") for one in found]


def audit(log: Log, rules: AuditRules, progress: Mapping[int, Progress] | None, since_ms: int | None = None) -> Audit:
    """Read both topics as they stand now, join, compare.

    `progress`: the joiner's, per partition of `events`, asked for before; None: the log alone decides, as if the
    joiner had read all of it. `since_ms`: judge pages appended then or later.
    Raises DataError when there's nothing to judge, LogError.
    """
    # In this order: an example that is read came of an event that is read.
    told_ends = {topic: log.ends(topic) for topic in _told_topics(rules)}
    ends = log.ends(EVENTS.name)
    judged_ms = _judged_from(log, rules, since_ms)
    begin = dict.fromkeys(ends, START) if not judged_ms else log.offsets_at(EVENTS.name, judged_ms - _margin_ms(rules))
    events = Events(rules)
    events.take(span(log, EVENTS.name, begin, ends))
    if not any(events.pages.values()):
        raise DataError("there's no page in that stretch of `events`: nothing to judge; look further back with --since")
    told = Told()
    for topic, until in told_ends.items():
        take = told.take if topic == EXAMPLES.name else told.take_organic
        from_ = dict.fromkeys(until, START) if not judged_ms else log.offsets_at(topic, judged_ms - SKEW_MS)
        for record in span(log, topic, from_, until):
            take(record)
    return judge(
        expected(events), told, rules, progress, judged_ms, {"bad_events": events.bad, "future_events": events.ahead}
    )


def judge(
    should: Expected,
    told: Told,
    rules: AuditRules,
    progress: Mapping[int, Progress] | None,
    judged_ms: int,
    figures: Mapping[str, int],
) -> Audit:
    """Compare what should be with what was told."""
    labels = should.labels.with_columns(
        settled=_settled(progress), shed=_up_to(progress, "floor_ms"), judged=pl.col("ingest_ms") >= judged_ms
    )
    said = pl.DataFrame(told.columns, schema=TOLD)
    once = said.unique("id", keep="first", maintain_order=True)
    net = once.group_by(KEY, maintain_order=True).agg(pl.all().last())
    both = labels.join(net, on=KEY, how="left", suffix="_told", maintain_order="left")
    due = both.filter(pl.col("settled") & pl.col("judged"))
    # What was closed early can't be told from what is wrong: it is counted, and said.
    shed = due.filter(pl.col("shed") & pl.col("label_told").ne_missing(pl.col("label")))
    due = due.join(shed, on=KEY, how="anti", maintain_order="left")
    found = {
        "missing": due.filter(pl.col("label_told").is_null()),
        "surplus": net.join(labels, on=KEY, how="anti", maintain_order="left"),
        "wrong": due.filter(pl.col("label_told") != pl.col("label")),
        "told_twice": _told_twice(once),
        "misnamed": once.filter(_misnamed(rules)),
        "altered": both.filter(pl.col("judged") & (pl.col("digest_told") != pl.col("digest"))),
    }
    organic = _judge_organic(should.organic, told, rules, progress, judged_ms)
    found |= {name: organic[name] for name in ("organic_missing", "organic_surplus")}
    result = Audit(rules)
    judged = labels.filter("judged")
    result.figures = {
        "pages": should.pages, "installs": should.installs, **figures, "late": should.late,
        "repeated_pages": should.repeated, "labels": len(judged), "positives": int(judged["label"].sum()),
        "settled": len(due), "shed": len(shed), "pending": len(judged.filter(~pl.col("settled") & ~pl.col("finished"))),
        "behind": len(judged.filter(~pl.col("settled") & pl.col("finished"))),
        "told": len(said), "duplicates": len(said) - len(once), "bad_examples": told.bad,
        "organic": len(organic["due"]), "organic_told": len(told.organic),
        **{fault: len(rows) for fault, rows in found.items()},
    }  # fmt: skip
    for fault, rows in found.items():
        result.differences += [_difference(fault, row) for row in rows.head(DIFFERENCES_MAX).to_dicts()]
    return result


def _judge_organic(
    should: pl.DataFrame, told: Told, rules: AuditRules, progress: Mapping[int, Progress] | None, judged_ms: int
) -> dict[str, pl.DataFrame]:
    """The organic installs that must be there, and what is missing and surplus. None, where they aren't told."""
    judged = pl.col("ingest_ms") >= judged_ms
    begun = pl.col("time_ms") - rules.window_ms >= _of(progress, "unsure_ms", default=NEVER)
    wanted = pl.lit(rules.organic) if progress is None else begun & rules.organic
    due = should.filter(judged & _settled(progress) & wanted)
    said = pl.DataFrame(told.organic, schema=TOLD_ORGANIC, orient="row").unique(INSTALL_KEY, maintain_order=True)
    return {
        "due": due,
        "organic_missing": due.join(said, on=INSTALL_KEY, how="anti", maintain_order="left"),
        "organic_surplus": said.filter(judged).join(should, on=INSTALL_KEY, how="anti", maintain_order="left"),
    }


def progress_of(commits: Mapping[int, tuple[int, str]]) -> dict[int, Progress]:
    """How far the joiner is, per partition, from its commits (offset, metadata).

    A commit whose metadata isn't the joiner's (a tool moved the group) says nothing.
    """
    found: dict[int, Progress] = {}
    for partition, (_, metadata) in commits.items():
        try:
            said = json.loads(metadata or "{}")
            named = {"finished_ms": 0, "floor_ms": 0, "unsure_ms": NEVER}
            found[partition] = Progress(*(int(said.get(name, default)) for name, default in named.items()))
        except (ValueError, TypeError, AttributeError):
            found[partition] = Progress()
    return found


def _judged_from(log: Log, rules: AuditRules, since_ms: int | None) -> int:
    """From which append time on pages can be judged: what they need must still be there; 0: all of them."""
    judged_ms = since_ms or 0
    for topic, margin_ms in ((EVENTS.name, _margin_ms(rules)), *((topic, SKEW_MS) for topic in _told_topics(rules))):
        ends = log.ends(topic)
        trimmed = {p: at for p, at in log.starts(topic).items() if 0 < at < ends[p]}
        for first in chain.from_iterable(span(log, topic, {p: at}, {p: at + 1}) for p, at in trimmed.items()):
            judged_ms = max(judged_ms, first.time_ms + margin_ms)
    return judged_ms


def _told_topics(rules: AuditRules) -> list[str]:
    """What the joiner writes, as far as it is judged."""
    return [EXAMPLES.name, ORGANIC.name] if rules.organic else [EXAMPLES.name]


def _margin_ms(rules: AuditRules) -> int:
    """How much is read before what is judged: watermark, installs that came before their page, pages of an install."""
    return rules.life_ms + rules.lateness_ms + rules.ahead_ms + (rules.window_ms if rules.organic else 0)


def _settled(progress: Mapping[int, Progress] | None) -> pl.Expr:
    return pl.col("finished") if progress is None else _up_to(progress, "finished_ms")


def _up_to(progress: Mapping[int, Progress] | None, which: str) -> pl.Expr:
    """Whether a page's time lies up to one of its partition's."""
    return pl.col("time_ms") <= _of(progress, which, default=0)


def _of(progress: Mapping[int, Progress] | None, which: str, default: int) -> pl.Expr:
    """One of its partition's times."""
    times = {partition: getattr(one, which) for partition, one in (progress or {}).items()}
    return pl.col("partition").replace_strict(times, default=default, return_dtype=pl.Int64)


def _told_twice(once: pl.DataFrame) -> pl.DataFrame:
    """Items with more than one first label."""
    firsts = once.filter(~pl.col("reason").is_in([LATE_POSITIVE, RETRACTION]))
    return firsts.filter(pl.col("id").count().over(KEY) > 1).group_by(KEY, maintain_order=True).agg(pl.all().last())


def _misnamed(rules: AuditRules) -> pl.Expr:
    negative = pl.col("reason").is_in([WINDOW_CLOSED, RETRACTION])
    odd = negative != (pl.col("label") == 0)
    if rules.policy == "fake_negative":  # every item is a negative first
        odd = odd | ~pl.col("reason").is_in([WINDOW_CLOSED, LATE_POSITIVE, RETRACTION])
    return odd


def _difference(fault: str, row: dict[str, Any]) -> Difference:
    """A row of `judge` as a person reads it."""
    if "install_id" in row:
        there = f"in {ORGANIC.name} {row['place']}" if "place" in row else "nothing"
        should = "" if "place" in row else f"an organic install ({EVENTS.name} {row['partition']}:{row['offset']})"
        name = f"{row['install_id']} of {row['user']}"
        return Difference(fault, row["named"], -1, row["item"], should, there, name)
    due = "label_told" in row
    should = f"label {row['label']} (page in {EVENTS.name} {row['partition']}:{row['offset']})" if due else ""
    found = "nothing"
    if row.get("place") is not None:
        label = row["label_told"] if due else row["label"]
        found = f"label {label}, {REASONS[row['reason']]}, in {EXAMPLES.name} {row['place']}"
    return Difference(fault, row["request_id"], row["position"], row["item"], should, found)


def flat(result: Audit) -> dict[str, object]:
    """The figures for `--json`, with the rules that they were judged by."""
    return {**{f"rule_{name}": value for name, value in asdict(result.rules).items()}, **result.figures}
