"""The labels that a log should have led to: an offline join of all its events at once, sorted, with Polars.

It shares no code with the joiner (`stream/joiner/join.py`); only the rules are the same, written down a second time:

* The *watermark* at an event is the greatest event time up to and with it in its partition, less `lateness`; an
  event counts for its own arrival at most.
* An event is *late*, and as if it had never been, when its time + life ≤ watermark; life = window + known.
* Events that are further than `ahead` after their own arrival go to the dead letters.
* A page's labels are decided by what stands in the log before the watermark reaches its time + life.
* An install belongs to the page that its request id names, else to the newest page (event time, then order) of
  that user with that item; in both cases with page time ≤ install time < page time + window.
* A page that stands behind its install in the log gets it only while the watermark there is before install time +
  `early` (life, where the spec doesn't say).
* Repeated pages and installs count once, installs while their id is known (`once.py`); an install is void when a
  retraction of its id isn't older than it.
* An install is *organic* when no page ever had a claim on it, and it isn't void when the watermark reaches its time +
  life.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import numpy as np
import polars as pl
import xxhash

from stream.events import Impression, Install, SourceEvent, decode_events, encode
from stream.log import Record
from thalweg.once import NEVER, Told, counted
from thalweg.rules import AuditRules

PAGE: Final = pl.Schema({
    "partition": pl.Int32(), "seq": pl.Int64(), "offset": pl.Int64(), "ingest_ms": pl.Int64(), "time_ms": pl.Int64(),
    "user": pl.String(), "request_id": pl.String(), "items": pl.List(pl.String()), "digest": pl.UInt64(),
})  # fmt: skip
INSTALL: Final = pl.Schema({
    "partition": pl.Int32(), "seq": pl.Int64(), "offset": pl.Int64(), "ingest_ms": pl.Int64(), "time_ms": pl.Int64(),
    "user": pl.String(), "item": pl.String(), "install_id": pl.String(), "named": pl.String(),
    "retracted": pl.Boolean(),
})  # fmt: skip


def digest_of(page: Impression) -> int:
    """Tells pages of different content apart."""
    return xxhash.xxh3_64_intdigest(encode(page))


@dataclass
class Events:
    """All events of a log in columns, as they are read. Features and the like are dropped at once."""

    rules: AuditRules
    times: dict[int, "array[int]"] = field(default_factory=dict)  # by partition: event times, at most their arrivals
    pages: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in PAGE})
    installs: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in INSTALL})
    bad: int = 0
    ahead: int = 0

    def take(self, records: Iterable[Record]) -> None:
        """Records in offset order per partition."""
        for record in records:
            events, bad = decode_events(record.value or b"")
            self.bad += len(bad)
            times = self.times.setdefault(record.partition, array("q"))
            for event in events:
                if event.time_ms > record.time_ms + self.rules.ahead_ms:
                    self.ahead += 1
                    continue
                self._put(event, record, len(times))
                times.append(min(event.time_ms, record.time_ms))

    def _put(self, event: SourceEvent, record: Record, seq: int) -> None:
        row: tuple[Any, ...]
        if isinstance(event, Impression):
            columns = self.pages
            row = (record.partition, seq, record.offset, record.time_ms, event.time_ms, event.user, event.request_id,
                   event.items, digest_of(event))  # fmt: skip
        elif isinstance(event, Install):
            columns = self.installs
            row = (record.partition, seq, record.offset, record.time_ms, event.time_ms, event.user, event.item,
                   event.install_id, event.request_id, event.retracted)  # fmt: skip
        else:
            return
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)


@dataclass(frozen=True)
class Expected:
    """What a log should have led to.

    `labels`: partition, request_id, position, item, label, time_ms, ingest_ms, offset, digest, finished, open; a row
    per item of each page that counts. `finished`: the log's own watermark has passed its life; `open`: its window
    isn't over by that watermark. `organic`: partition, offset, ingest_ms, time_ms, user, item, install_id, named,
    finished; a row per organic install. `pages` includes the late and the repeated.
    """

    labels: pl.DataFrame
    organic: pl.DataFrame
    pages: int
    installs: int
    late: int
    repeated: int


def expected(events: Events) -> Expected:
    """The net label of every item of every page, by sorting and joining."""
    rules = events.rules
    marks = {
        p: np.maximum(np.maximum.accumulate(np.frombuffer(times, np.int64)) - rules.lateness_ms, 0)
        for p, times in events.times.items()
        if times
    }
    pages = pl.DataFrame(events.pages, schema=PAGE)
    installs = pl.DataFrame(events.installs, schema=INSTALL)
    n_pages, n_installs = len(pages), len(installs)
    pages = _in_time(pages, marks, rules)
    installs = _in_time(installs, marks, rules)
    late = n_pages + n_installs - len(pages) - len(installs)
    in_time = len(pages)
    pages = pages.unique(["partition", "request_id"], keep="first", maintain_order=True)
    pages = _with_ends(pages, marks, rules).with_row_index("page")
    shown = pages.with_columns(position=pl.int_ranges(pl.col("items").list.len())).explode("items", "position")
    shown = shown.rename({"items": "item"})
    firsts = _firsts(installs, rules)
    fitting = _fitting(shown, firsts, rules)
    positives = _positives(fitting)
    labels = shown.join(positives, on=["page", "position"], how="left", maintain_order="left")
    labels = labels.with_columns(pl.col("label").fill_null(0)).select(
        "partition", "request_id", "position", "item", "label", "time_ms", "ingest_ms", "offset", "digest",
        "finished", "open",
    )  # fmt: skip
    organic = _with_ends(firsts.join(fitting, on="install", how="anti"), marks, rules).filter(
        _void_at() >= pl.col("end")
    )
    return Expected(labels, organic, n_pages, n_installs, late, in_time - len(pages))


def _in_time(frame: pl.DataFrame, marks: dict[int, Any], rules: AuditRules) -> pl.DataFrame:
    """With the watermark at each row, and without what was late where it stood."""
    mark = np.zeros(len(frame), np.int64)
    partition, seq = frame["partition"].to_numpy(), frame["seq"].to_numpy()
    for p, marks_p in marks.items():
        mine = partition == p
        mark[mine] = marks_p[seq[mine]]
    frame = frame.with_columns(pl.Series("mark", mark, dtype=pl.Int64))
    return frame.filter(pl.col("time_ms") + rules.life_ms > pl.col("mark"))


def _with_ends(frame: pl.DataFrame, marks: dict[int, Any], rules: AuditRules) -> pl.DataFrame:
    """With `end`, the first place that comes too late for each row, and how far the log is."""
    end = np.zeros(len(frame), np.int64)
    last = np.zeros(len(frame), np.int64)
    partition, time_ms = (frame[name].to_numpy() for name in ("partition", "time_ms"))
    for p, marks_p in marks.items():
        mine = partition == p
        end[mine] = np.searchsorted(marks_p, time_ms[mine] + rules.life_ms, side="left")
        last[mine] = marks_p[-1]
    return frame.with_columns(
        pl.Series("end", end, dtype=pl.Int64),
        pl.Series("finished", last >= time_ms + rules.life_ms, dtype=pl.Boolean),
        pl.Series("open", last < time_ms + rules.window_ms, dtype=pl.Boolean),
    )


def _firsts(installs: pl.DataFrame, rules: AuditRules) -> pl.DataFrame:
    """Each install once, with the place in the log at which it becomes void, if there is one."""
    key = ["partition", "user", "install_id"]
    several = (~pl.col("retracted")).sum().over(key) > 1
    lone = installs.filter(~several)
    void = (
        lone.filter(~pl.col("retracted"))
        .join(lone.filter("retracted"), on=key, suffix="_back")
        .filter(pl.col("time_ms_back") >= pl.col("time_ms"))
        .group_by("partition", "seq")
        .agg(pl.col("seq_back").min().alias("void"))
    )
    place = {"partition": pl.Int32(), "seq": pl.Int64(), "void": pl.Int64()}
    counting = pl.DataFrame(list(_several(installs.filter(several), key, rules)), schema=place, orient="row")
    firsts = pl.concat([
        lone.filter(~pl.col("retracted")).join(void, on=["partition", "seq"], how="left"),
        installs.join(counting, on=["partition", "seq"]),
    ])  # fmt: skip
    return firsts.drop("mark").with_row_index("install")


def _several(installs: pl.DataFrame, key: list[str], rules: AuditRules) -> Iterator[tuple[int, int, int]]:
    """(partition, place, place where it is void) of those that count, of ids that came more than once."""
    rows = installs.sort(*key, "seq").select(*key, "seq", "time_ms", "retracted", "mark").iter_rows()
    for (partition, *_), of_id in groupby(rows, key=itemgetter(slice(3))):
        for seq, void in counted((Told._make(row[3:]) for row in of_id), rules.life_ms).items():
            yield partition, seq, void


def _void_at() -> pl.Expr:
    return pl.col("void").fill_null(NEVER)


def _fitting(shown: pl.DataFrame, firsts: pl.DataFrame, rules: AuditRules) -> pl.DataFrame:
    """Every install with each page that has a claim on it, the best one first."""
    return (
        firsts.join(shown, on=["partition", "user", "item"], suffix="_page")
        .filter(
            (pl.col("time_ms_page") <= pl.col("time_ms"))
            & (pl.col("time_ms") < pl.col("time_ms_page") + rules.window_ms)
            & ((pl.col("named") == "") | (pl.col("named") == pl.col("request_id")))
            & (pl.col("seq") < pl.col("end"))
            & ((pl.col("seq_page") < pl.col("seq")) | (pl.col("time_ms") + rules.waits_ms > pl.col("mark")))
        )
        .sort("install", "time_ms_page", "seq_page", descending=[False, True, True])
        .with_columns(rival=pl.col("seq_page").cum_min().shift(1).over("install"))
    )


def _positives(fitting: pl.DataFrame) -> pl.DataFrame:
    """(page, position, label 1) of every item that an install belongs to, in what the page lived to see."""
    # A newer page takes the install, and a retraction voids it, only if they stand before the page's end.
    kept = fitting.filter((pl.col("rival").fill_null(NEVER) >= pl.col("end")) & (_void_at() >= pl.col("end")))
    return kept.select("page", "position").unique().with_columns(label=pl.lit(1, pl.Int64))
