"""The join: pages and installs of one partition become labelled examples. Pure: no clock, no I/O.

An install is attributed to the page that its request id names, else to the newest page (greatest event time, then order
in the log) of that user with that item; in both cases only if `page time <= install time < page time + window`, except
that an install that names its page may be stamped `skew` before it. The end is exclusive, so that an install in time
order always finds its window open. A further page under a retained request id extends that page: items that it doesn't
have yet continue its positions, at its event time.

The *watermark* is the greatest event time seen, minus lateness. An event advances it at most to its own arrival (the
record's ingest time, which is in the log): one from the future closes no open page.

A page passes through three states as the watermark advances: at `time + window` it closes, and the labels not emitted
yet are emitted; until `time + window + known` it can be corrected (late positives, retractions, a late page's own
labels); then it is evicted. Installs and retractions are retained by the same formula, so whatever a page needs is
retained as long as the page. An install waits until `time + early` for pages behind it in the log.

**Memory.** The state consists of numbers in arrays (`state.py`): of a page its user, request id and items as hashes,
its event time, and its position in the log; 48 bytes and 6 an item, whatever its features. Emitted labels name their
page by that position (`LabelBatch`). Above `bytes_max` the oldest entries are finished early: a *floor* rises in event
time, pages up to it close and are evicted, and later events with a time up to it are late. (A further page that
extended one of these, read again after a restart without it, may then count as a page of its own.)

**Restarts.** A restart point is (offset, watermark before that record, event time up to which all is final, floor). A
joiner that starts there reads a suffix of the log with an empty state, and still emits the same labels:
* A page later than `finished` was retained when the restart point was taken, and so were its installs (they aren't
  older): all of them are at or behind the offset.
* A page not later than `finished` is final. Read again, it is assigned installs but emits nothing. An install whose
  page isn't read again can only be attributed to an older page, which is final, too.
* Watermark and floor decide what is late and what is retained, and they are restored.

**Organic installs.** An install that has no page when it is evicted, and wasn't retracted, is organic. It must not
become so because its page isn't read again. So with `organic` an install keeps the commit at its page; one not later
than `finished` was emitted; and what happened within a window after `unsure`, an event time up to which pages may have
claimed installs unknown to a restarted joiner, isn't emitted at all. That is the floor (a page evicted early is late
when it is read again), and where the joiner that committed had no `organic`, its `finished`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from stream.events.types import Examples, Organic, SourceEvent
from stream.joiner.label_rules import LabelRules
from stream.joiner.labels import JoinOutput, PageLabels, page_labels, to_examples
from stream.joiner.record_cache import RecordCache
from stream.joiner.record_events import RecordEvents, scan_runs, to_record

if TYPE_CHECKING:
    from stream.joiner.kernels.state import JoinState

FIRED_MAX: Final = 512  # pages closed and installs expired at once: some ten milliseconds until they are written


class JoinCounts(NamedTuple):
    """What a joiner has counted since it was created (a restart counts what it reads again)."""

    duplicate: int  # a page or install that is retained already
    late: int  # dropped: older than anything that is retained
    early: int  # an install before its page in the log
    organic: int  # an install that surely no page ever claimed
    retracted: int  # a retracted install
    stray: int  # a retraction whose install was evicted before it came, or never came
    shed: int  # a page that was evicted early because memory was full
    extended: int  # a page with more items under a retained request id


class RecordOutput(NamedTuple):
    """What a record leads to: labels of pages in order, and organic installs."""

    labels: list[PageLabels]
    organic: list[Organic]


@dataclass(frozen=True)
class RestartPoint:
    """Where a new joiner may start: next record, watermark before it, event time up to which all is final.

    `floor_ms`: event time up to which all was evicted early. `unsure_ms`: event time up to which a page may have
    claimed an install that a new joiner reads without it (None: `finished_ms`).
    """

    offset: int
    watermark_ms: int
    finished_ms: int
    floor_ms: int = 0
    unsure_ms: int | None = None


@cache
def _kernels() -> tuple[ModuleType, ModuleType]:
    """The calls and the state's fields; with numba, loaded at first use: a joiner joins its group meanwhile."""
    from stream.joiner import kernel_calls
    from stream.joiner.kernels import state

    return kernel_calls, state


class Joiner:
    """The join state of one partition. Feed it every record in offset order.

    Starts reading at `restart_point.offset`; a saved `state` starts where it ends.
    """

    def __init__(
        self, rules: LabelRules, restart_point: RestartPoint | None = None, state: "JoinState | None" = None
    ) -> None:
        assert rules.window_ms > 0, rules
        assert min(rules.lateness_ms, rules.known_ms, rules.waits_ms, rules.skew_ms) >= 0, rules
        self._calls, fields = _kernels()
        self._fields: Any = fields
        self.rules = rules
        self.organic: list[Organic] = []
        self._record_cache = RecordCache()
        self.state: JoinState = fields.JoinState(rules) if state is None else state
        if restart_point is not None:
            numbers = self.state.numbers
            if state is None:
                unsure_ms = restart_point.finished_ms if restart_point.unsure_ms is None else restart_point.unsure_ms
                numbers[[fields.WATERMARK, fields.UNSURE]] = restart_point.watermark_ms, unsure_ms
            for field, time_ms in (
                (fields.FINISHED, restart_point.finished_ms),
                (fields.FLOOR, restart_point.floor_ms),
            ):
                numbers[field] = max(int(numbers[field]), time_ms)

    def feed(self, events: Sequence[SourceEvent], offset: int, ingest_ms: int) -> list[Examples]:
        """Join one record's events; returns the examples that they lead to, in a fixed order.

        `organic`: the installs that they prove organic, if the rules want those.
        """
        record = to_record(events)
        self._record_cache.put(offset, record.raw)
        output = self.join_record(record, offset, ingest_ms)
        self.organic = output.organic[0]
        found = to_examples(output.labels, self._record_cache)
        oldest = self.oldest_needed_offset()
        self._record_cache.trim(offset + 1 if oldest is None else oldest)
        return found

    def join_apart(self, raws: Sequence[bytes], offsets: Sequence[int], ingest_ms: Sequence[int]) -> list[RecordOutput]:
        """Join encoded records in one go; returns what each leads to, as if they were fed one by one.

        The caller retains the pages, from `oldest_needed_offset` on: their features don't matter here.
        """
        found = [RecordOutput([], []) for _ in raws]
        for first, events in scan_runs(raws, offsets, ingest_ms):
            for output in self.join_records(events):
                begin = 0
                for number, end in output.ends:
                    labels, organic = found[first + number]
                    labels += page_labels(output.labels, begin, end)
                    organic += output.organic.get(number, ())
                    begin = end
        return found

    def join_record(self, events: RecordEvents, offset: int, ingest_ms: int) -> JoinOutput:
        """Join one record's events; returns what is emitted because of them, in a fixed order."""
        output: JoinOutput = self._calls.merge_outputs(list(self.join_records(events.at_offset(offset, ingest_ms))))
        return output

    def join_records(self, events: RecordEvents) -> Iterator[JoinOutput]:
        """Join the events of records; the iterator yields what is emitted because of them in parts.

        One event can close all open pages, so the caller may write between parts. The records are joined when there is
        no further part; `records_joined` says how many are so far.
        """
        outputs: Iterator[JoinOutput] = self._calls.join_records(self.state, events, FIRED_MAX)
        return outputs

    @property
    def records_joined(self) -> int:
        """How many of the records of the current or last `join_records` are joined."""
        return int(self.state.numbers[self._fields.RECORD])

    @property
    def is_within_record(self) -> bool:
        """Whether `join_records` has joined a record in part."""
        return bool(self.state.numbers[self._fields.STARTED])

    @property
    def counts(self) -> JoinCounts:
        """What it has counted."""
        return JoinCounts(*self.state.numbers[self._fields.N_DUPLICATE : self._fields.WINDOW].tolist())

    @property
    def shed(self) -> int:
        """Pages that were evicted early because memory was full."""
        return int(self.state.numbers[self._fields.N_SHED])

    def oldest_needed_offset(self) -> int | None:
        """The oldest record that the state still needs, which the next commit names; None: it needs none."""
        begin, end = int(self.state.numbers[self._fields.MARKS_BEGIN]), int(self.state.numbers[self._fields.MARKS_END])
        return int(self.state.marks[begin, self._fields.M_OFFSET]) if begin < end else None

    def restart_point(self, next_offset: int) -> RestartPoint:
        """Where a restart may begin, `next_offset` being the record after the last one fed.

        It may be stored once the log has confirmed all that was emitted so far.
        """
        scalars = self.state.numbers
        floor_ms = int(scalars[self._fields.FLOOR])
        finished_ms = max(int(scalars[self._fields.FINISHED]), self.watermark_ms - self.rules.life_ms, floor_ms)
        unsure_ms = int(scalars[self._fields.UNSURE]) if self.rules.organic else None
        begin, end = scalars[[self._fields.MARKS_BEGIN, self._fields.MARKS_END]].tolist()
        offset, watermark_ms = next_offset, self.watermark_ms
        if begin < end:
            offset, watermark_ms, *_ = self.state.marks[begin].tolist()
        return RestartPoint(offset, watermark_ms, finished_ms, floor_ms, unsure_ms)

    @property
    def watermark_ms(self) -> int:
        """Greatest event time, minus lateness."""
        return int(self.state.numbers[self._fields.WATERMARK])

    @property
    def open_pages(self) -> int:
        """Number of pages whose window isn't over."""
        return int(self.state.numbers[self._fields.OPEN])

    @property
    def retained_pages(self) -> int:
        """Number of pages in memory, including expired ones that an older retained page keeps from being evicted."""
        return int(self.state.numbers[self._fields.PAGE_COUNT])

    @property
    def state_bytes(self) -> int:
        """Size of the retained pages and installs, bytes."""
        return int(self.state.numbers[self._fields.RETAINED_BYTES])

    @property
    def bytes_max(self) -> int:
        """Bound of `state_bytes`; above it the oldest entries are finished early."""
        return int(self.state.numbers[self._fields.BYTES_MAX])

    @bytes_max.setter
    def bytes_max(self, value: int) -> None:
        self.state.numbers[self._fields.BYTES_MAX] = value

    def tick_ms(self, idle_ms: int) -> int:
        """The event time of a partition that has been idle for this long, if it advances like the wall clock."""
        return self.watermark_ms + self.rules.lateness_ms + idle_ms
