"""The audit: what stands in `examples` against the labels that `events` should have led to.

A page is *settled* when the joiner's own commit says that it is finished with it: then every label must be there and
right. Other pages are *pending*: their window or the time for corrections isn't over, or the joiner isn't there yet
(*behind*); they are counted, not judged. So it is with organic installs, where the spec has them told.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import polars as pl

from stream.errors import DataError
from stream.events import REASONS
from stream.log import START, Log
from stream.topics import EVENTS, EXAMPLES
from thalweg.joined_by import told_in
from thalweg.offline import Expected
from thalweg.once import NEVER
from thalweg.rules import AuditRules
from thalweg.span import SKEW_MS, span
from thalweg.stretch import Stretch, read_events, told_topics
from thalweg.told import KEY, TOLD_ORGANIC, UNREADABLE, Told, misnamed, told_twice

GROUP: Final = "joiner"
DIFFERENCES_MAX: Final = 20
INSTALL_KEY: Final = ["user", "item", "time_ms", "install_id", "named", "ingest_ms"]


FAULTS: Final = {
    "missing": "a label that should be there isn't",
    "surplus": "examples of a page or item that no event tells of, or that came too late to count",
    "wrong": "the last label told isn't the right one",
    "told_twice": "told again with another id, though the label hadn't changed: metrics count it twice",
    "misnamed": "a reason that doesn't go with its label, with the policy, or with what was told before",
    "unfounded": "an id that isn't made of page, position, reason and an install of the item: repetitions aren't known",
    "weighed": "a weight other than 1: the learner weighs, by the policy",
    "altered": "the page in an example isn't the page that was shown",
    "organic_missing": "an install that no page claimed isn't in `organic`",
    "organic_surplus": "in `organic`, but claimed by a page, taken back, or not as any event tells",
    "organic_unlearned": "an install that no page claimed isn't in `examples`, though the spec wants it there",
    "organic_learned": "an organic install in `examples` that was claimed, taken back, or isn't as any event tells",
    "bad_examples": "told, and can't be read",
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
        if not self.item:
            return "a record"
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
    def judged(self) -> bool:
        """Whether there was anything that could be missing or wrong."""
        return bool(self.figures["settled"] or self.figures["organic"])

    @property
    def verdict(self) -> str:
        """One line."""
        if self.fine and not self.judged:
            waiting = ", ".join(f"{self.figures[name]} {name}" for name in ("pending", "behind", "shed", "unsure"))
            return (
                f"nothing could be judged: of {self.figures['labels']} labels {waiting}. See whether the joiner runs "
                "(`thalweg status`), look again later, or further back with --since"
            )
        faults = [f"{self.figures[fault]} {fault}" for fault in FAULTS if self.figures[fault]]
        judged = f"{self.figures['settled']} labels judged"
        return f"{judged}: " + (", ".join(faults) if faults else "nothing is missing, nothing is wrong")


def audit(log: Log, rules: AuditRules, progress: Mapping[int, Progress] | None, since_ms: int | None = None) -> Audit:
    """Read both topics as they stand now, join, compare.

    `progress`: the joiner's, per partition of `events`, asked for before; None: the log alone decides, as if the
    joiner had read all of it. `since_ms`: judge pages appended then or later.
    Raises DataError when there's nothing to judge, LogError.
    """
    # In this order: an example that is read came of an event that is read.
    told_ends = {topic: log.ends(topic) for topic in told_topics(rules)}
    events, should, stretch = read_events(log, rules, since_ms)
    if not any(events.pages.values()):
        raise DataError("there's no page in that stretch of `events`: nothing to judge; look further back with --since")
    installs = events.installs
    told = Told(zip(installs["user"], installs["item"], installs["install_id"], strict=True))
    for topic, until in told_ends.items():
        take = told.take if topic == EXAMPLES.name else told.take_organic
        from_ms = stretch.judged_ms - SKEW_MS
        from_ = dict.fromkeys(until, START) if not stretch.judged_ms else log.offsets_at(topic, from_ms)
        for record in span(log, topic, from_, until):
            take(record)
    figures = {"bad_events": events.bad, "future_events": events.ahead}
    return judge(should, told, rules, progress, stretch, figures)


def judge(
    should: Expected,
    told: Told,
    rules: AuditRules,
    progress: Mapping[int, Progress] | None,
    stretch: Stretch,
    figures: Mapping[str, int],
) -> Audit:
    """Compare what should be with what was told."""
    labels = should.labels.with_columns(
        settled=_settled(progress), shed=_up_to(progress, "floor_ms"), judged=stretch.recent() & stretch.sure()
    )
    said = told.frame()
    once = said.unique(["id", *KEY], keep="first", maintain_order=True)
    whole = once.join(labels.filter("judged"), on=KEY, how="semi", maintain_order="left")  # all of each was read
    net = once.group_by(KEY, maintain_order=True).agg(pl.all().last())
    both = labels.join(net, on=KEY, how="left", suffix="_told", maintain_order="left")
    due = both.filter(pl.col("settled") & pl.col("judged"))
    # What was closed early can't be told from what is wrong: it is counted, and said.
    shed = due.filter(pl.col("shed") & pl.col("label_told").ne_missing(pl.col("label")))
    due = due.join(shed, on=KEY, how="anti", maintain_order="left")
    found = {
        "missing": due.filter(pl.col("label_told").is_null()),
        "surplus": net.filter(stretch.sure_anywhere()).join(labels, on=KEY, how="anti", maintain_order="left"),
        "wrong": due.filter(pl.col("label_told") != pl.col("label")),
        "told_twice": told_twice(whole),
        "misnamed": whole.filter(misnamed(rules)),
        "unfounded": whole.filter(~pl.col("founded")),
        "weighed": whole.filter(pl.col("weight") != 1),
        "altered": both.filter(pl.col("judged") & (pl.col("digest_told") != pl.col("digest"))),
    }
    organic = _judge_organic(should.organic, told, rules, progress, stretch)
    found |= {name: organic[name] for name in FAULTS if name in organic}
    found["bad_examples"] = pl.DataFrame(told.unreadable, schema=UNREADABLE, orient="row")
    result = Audit(rules)
    judged = labels.filter("judged")
    result.figures = {
        "pages": should.pages, "installs": should.installs, **figures, "late": should.late,
        "repeated_pages": should.repeated, "labels": len(judged), "positives": int(judged["label"].sum()),
        "settled": len(due), "shed": len(shed), "pending": len(judged.filter(~pl.col("settled") & ~pl.col("finished"))),
        "behind": len(judged.filter(~pl.col("settled") & pl.col("finished"))),
        "unsure": len(labels.filter(stretch.recent() & ~stretch.sure())), "told": len(said),
        "duplicates": len(said) - len(once),
        "organic": len(organic["due"]), "organic_told": len(told.organic),
        "organic_in_examples": len(told.organic_examples),
        **{fault: len(rows) for fault, rows in found.items()},
    }  # fmt: skip
    for fault, rows in found.items():
        result.differences += [_difference(fault, row) for row in rows.head(DIFFERENCES_MAX).to_dicts()]
    return result


def _judge_organic(
    should: pl.DataFrame, told: Told, rules: AuditRules, progress: Mapping[int, Progress] | None, stretch: Stretch
) -> dict[str, pl.DataFrame]:
    """The organic installs that must be there, and what is missing and surplus in each topic where they're wanted."""
    back_ms = rules.window_ms  # so much older may be the page that has a claim
    begun = pl.col("time_ms") - rules.window_ms >= _of(progress, "unsure_ms", default=NEVER)
    wanted = pl.lit(rules.organic) if progress is None else begun & rules.organic
    due = should.filter(stretch.recent() & stretch.sure(back_ms) & _settled(progress) & wanted)
    found = {"due": due}
    for missing, surplus, rows, asked in (
        ("organic_missing", "organic_surplus", told.organic, True),
        ("organic_unlearned", "organic_learned", told.organic_examples, rules.organic_examples),
    ):
        said = pl.DataFrame(rows, schema=TOLD_ORGANIC, orient="row").unique(INSTALL_KEY, maintain_order=True)
        sure = said.filter(stretch.recent() & stretch.sure_anywhere(back_ms))
        found[missing] = due.filter(pl.lit(asked)).join(said, on=INSTALL_KEY, how="anti", maintain_order="left")
        found[surplus] = sure.join(should, on=INSTALL_KEY, how="anti", maintain_order="left")
    return found


def progress_of(commits: Mapping[int, tuple[int, str]]) -> dict[int, Progress]:
    """How far the joiner is, per partition, from its commits (offset, metadata).

    A commit whose metadata isn't the joiner's (a tool moved the group) says nothing.
    """
    found: dict[int, Progress] = {}
    for partition, (_, metadata) in commits.items():
        try:
            said = told_in(metadata)
            named = {"finished_ms": 0, "floor_ms": 0, "unsure_ms": NEVER}
            found[partition] = Progress(*(int(said.get(name, default)) for name, default in named.items()))
        except (ValueError, TypeError):
            found[partition] = Progress()
    return found


def _settled(progress: Mapping[int, Progress] | None) -> pl.Expr:
    return pl.col("finished") if progress is None else _up_to(progress, "finished_ms")


def _up_to(progress: Mapping[int, Progress] | None, which: str) -> pl.Expr:
    """Whether a page's time lies up to one of its partition's."""
    return pl.col("time_ms") <= _of(progress, which, default=0)


def _of(progress: Mapping[int, Progress] | None, which: str, default: int) -> pl.Expr:
    """One of its partition's times."""
    times = {partition: getattr(one, which) for partition, one in (progress or {}).items()}
    return pl.col("partition").replace_strict(times, default=default, return_dtype=pl.Int64)


def _difference(fault: str, row: dict[str, Any]) -> Difference:
    """A row of `judge` as a person reads it."""
    if "why" in row:
        return Difference(fault, "", -1, "", "", f"in {row['place']}: {row['why']}")
    if "install_id" in row:
        there = f"in {row['place']}" if "place" in row else "nothing"
        should = "" if "place" in row else f"an organic install ({EVENTS.name} {row['partition']}:{row['offset']})"
        name = f"{row['install_id']} of {row['user']}"
        return Difference(fault, row["named"], -1, row["item"], should, there, name)
    due = "label_told" in row
    should = f"label {row['label']} (page in {EVENTS.name} {row['partition']}:{row['offset']})" if due else ""
    found = "nothing"
    if row.get("place") is not None:
        label = row["label_told"] if due else row["label"]
        found = f"label {label}, {REASONS[row['reason']]}, in {row['place']}"
    return Difference(fault, row["request_id"], row["position"], row["item"], should, found)


def flat(result: Audit) -> dict[str, object]:
    """The figures for `--json`, with the rules that they were judged by."""
    return {**{f"rule_{name}": value for name, value in asdict(result.rules).items()}, **result.figures}
