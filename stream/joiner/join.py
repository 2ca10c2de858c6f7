"""The join: pages and installs of one partition become labelled examples. Pure: no clock, no I/O.

Whose install it is: the page that its request id names, else the newest page (greatest event time, then
order in the log) of that user with that item; in both cases only with `page time <= install time < page time
+ window`, where an install that names its page may be stamped `skew` before it. The end is exclusive, so that an
install in time order always finds its window open. A further page under a request id that is remembered extends that
page: items that it doesn't have yet continue its positions, at its event time.

The *watermark* is the greatest event time seen, minus lateness. No event counts for more than its own arrival (the
record's ingest time, which stands in the log): one from the future closes nothing that is still open.

Three things happen to a page as the watermark passes:
at `time + window` it closes and the labels not emitted yet are emitted; until `time + window + known` it can be
corrected (late positives, retractions, a late page's own labels); then it is forgotten. Installs and
retractions are remembered by the same formula, so whatever a page needs is remembered as long as the page.
An install waits for pages that come after it in the log until `time + early`.

**Memory.** What is remembered are numbers in arrays (`state.py`): of a page its user, request id and items as hashes,
its event time, and where it lies in the log; 48 bytes and 6 an item, whatever its features. What is emitted of a page
says where its bytes are (`Labels`). Over `bytes_max` the oldest is finished early: a *floor* rises in event time,
pages up to it close and are forgotten, and whatever comes with a time up to it is late. (A further page that extended
one of these, read again after a restart without it, may then count as a page of its own.)

**Restarts.** A checkpoint is (offset, watermark before that record, event time up to which all is finished, floor).
A joiner that starts there reads a suffix of the log with nothing remembered, and still emits no other label:
* A page later than `finished` was remembered when the checkpoint was taken, and so were its installs (they
  aren't older): all of them stand at or behind the offset.
* A page not later than `finished` is final. Read again, it takes installs but stays silent. An install
  whose page isn't read again can only fall to an older page, which is finished too.
* What is late and what is taken in is decided by watermark and floor, which are the same again.

**Organic installs.** One that no page has claimed when it is forgotten, and that wasn't taken back, is organic. It must
not become so because its page isn't read again. So with `organic` an install holds the commit at the page that has it;
one not later than `finished` was emitted; and what happened within a window after `unsure`, an event time up to which
pages may have claimed what a restart can't know, isn't emitted at all. That is the floor (a page forgotten early is
late when it is read again), and where the joiner that committed had no `organic`, whatever it had finished.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from stream.events.types import Examples, Organic, SourceEvent
from stream.joiner.bodies import Bodies
from stream.joiner.label_rules import LabelRules
from stream.joiner.labels import Part, examples_of
from stream.joiner.raw_impression import RecordEvents, record_events

if TYPE_CHECKING:
    from stream.joiner.kernels.state import JoinState

SLICE: Final = 512  # pages closed and installs forgotten at once: some ten milliseconds until they are written


@dataclass
class Counts:
    """What a joiner has met since it was made (a restart counts what it reads again)."""

    pages: int = 0
    installs: int = 0
    ticks: int = 0
    duplicate: int = 0  # a page or install that is remembered already
    late: int = 0  # older than anything that is remembered: dropped
    early: int = 0  # an install that stood in the log before its page
    organic: int = 0  # an install that surely no page ever claimed
    retracted: int = 0  # an install taken back
    stray: int = 0  # a retraction whose install was forgotten before it came, or never came
    shed: int = 0  # a page that was forgotten early because memory was full
    extended: int = 0  # a page that brought more items under a request id that was remembered


@dataclass(frozen=True)
class Checkpoint:
    """Where a new joiner may start: next record, watermark before it, event time up to which all is final.

    `floor_ms`: event time up to which all was forgotten early. `unsure_ms`: event time up to which a page may have
    claimed an install that a new joiner reads without it (None: whatever is finished).
    """

    offset: int
    watermark_ms: int
    finished_ms: int
    floor_ms: int = 0
    unsure_ms: int | None = None


@cache
def _kernels() -> ModuleType:
    """With numba: a joiner joins its group while they're being loaded."""
    from stream.joiner.kernels import join_record

    return join_record


@cache
def _calls() -> ModuleType:
    """Likewise."""
    from stream.joiner import kernel_calls

    return kernel_calls


@cache
def _fields() -> ModuleType:
    """Likewise."""
    from stream.joiner.kernels import state

    return state


class Joiner:
    """The join state of one partition. Give it every record in offset order."""

    def __init__(
        self, rules: LabelRules, checkpoint: Checkpoint | None = None, state: "JoinState | None" = None
    ) -> None:
        assert rules.window_ms > 0, rules
        assert min(rules.lateness_ms, rules.known_ms, rules.waits_ms, rules.skew_ms) >= 0, rules
        self._fields: Any = _fields()
        self.rules = rules
        self._pages = self._installs = self._ticks = 0  # that came
        self.organic: list[Organic] = []
        self._bodies = Bodies()
        self.state: JoinState = self._fields.JoinState(rules) if state is None else state
        if checkpoint is not None and state is None:
            unsure_ms = checkpoint.finished_ms if checkpoint.unsure_ms is None else checkpoint.unsure_ms
            for field, value in (
                (self._fields.WATERMARK, checkpoint.watermark_ms), (self._fields.FINISHED, checkpoint.finished_ms),
                (self._fields.FLOOR, checkpoint.floor_ms), (self._fields.UNSURE, unsure_ms),
            ):  # fmt: skip
                self.state.numbers[field] = value

    @classmethod
    def start(cls, rules: LabelRules, checkpoint: Checkpoint) -> "Joiner":
        """A joiner that reads on at `checkpoint.offset`."""
        return cls(rules, checkpoint)

    @classmethod
    def restored(cls, rules: LabelRules, checkpoint: Checkpoint, state: "JoinState") -> "Joiner":
        """A joiner that reads on where a saved state ends, the group's commit being at `checkpoint` or behind."""
        made, j = cls(rules, None, state), state.numbers
        for field, value in (
            (made._fields.FINISHED, checkpoint.finished_ms),
            (made._fields.FLOOR, checkpoint.floor_ms),
        ):
            j[field] = max(int(j[field]), value)
        return made

    def feed(self, events: Sequence[SourceEvent], offset: int, ingest_ms: int) -> list[Examples]:
        """Take one record's events; returns the examples that came of them, in a fixed order.

        `organic` is what it has shown to be organic, if the rules want that.
        """
        record = record_events(events)
        self._bodies.put(offset, record.raw)
        part = self.take(record, offset, ingest_ms)
        self.organic = part.organic[0]
        found = examples_of(part.labels, self._bodies)
        hold = self.hold_offset()
        self._bodies.trim(offset + 1 if hold is None else hold)
        return found

    def take(self, events: RecordEvents, offset: int, ingest_ms: int) -> Part:
        """Take one record's events; returns what is emitted because of them, in a fixed order."""
        part: Part = _calls().in_one(list(self.parts(events.placed(offset, ingest_ms))))
        return part

    def parts(self, events: RecordEvents) -> Iterator[Part]:
        """Take the events of records; gives what is emitted because of them in parts.

        One event can close all pages that there are. Between parts whoever writes them can do so. The records are taken
        when there is no further part; `records_taken` says how many are so far.
        """
        join, calls, state = _kernels(), _calls(), self.state
        records, columns, hashes = events.records, events.columns, events.hashes
        raw = calls.prepare(state, events, SLICE)
        pages, installs, _ = events.tally
        self._pages, self._installs = self._pages + pages, self._installs + installs
        self._ticks += len(columns) - pages - installs
        while True:
            said = join.process_records(state.numbers, records, columns, hashes, raw)
            part = calls.take_part(state, events)
            if said == join.GROW_RUNS:
                state.grow_runs()
            elif said == join.GROW_OUT:
                state.grow_out()
            elif said == join.GROW_LABELS:
                state.grow_labels()
            if part is not None:
                yield part
            if said == join.DONE:
                return

    @property
    def records_taken(self) -> int:
        """How many of the records that `parts` takes, or took last, are taken."""
        return int(self.state.numbers[self._fields.RECORD])

    @property
    def is_within_record(self) -> bool:
        """Whether `parts` has taken a record in part."""
        return bool(self.state.numbers[self._fields.STARTED])

    @property
    def counts(self) -> Counts:
        """What it has met."""
        numbers = self.state.numbers[self._fields.N_DUPLICATE : self._fields.WINDOW].tolist()
        return Counts(self._pages, self._installs, self._ticks, *numbers)

    @property
    def shed(self) -> int:
        """Pages that were forgotten early because memory was full."""
        return int(self.state.numbers[self._fields.N_SHED])

    def hold_offset(self) -> int | None:
        """The oldest record of which something is still remembered; None: nothing is. Commit up to it, exclusive."""
        begin, end = self.state.numbers[[self._fields.MARKS_BEGIN, self._fields.MARKS_END]].tolist()
        return int(self.state.marks[begin, self._fields.M_OFFSET]) if begin < end else None

    def checkpoint(self, next_offset: int) -> Checkpoint:
        """Where a restart may begin, `next_offset` being the record after the last one fed.

        True only for what was emitted so far: it may be stored once the log has confirmed all of that.
        """
        scalars = self.state.numbers
        floor_ms = int(scalars[self._fields.FLOOR])
        finished_ms = max(int(scalars[self._fields.FINISHED]), self.watermark_ms - self.rules.life_ms, floor_ms)
        unsure_ms = int(scalars[self._fields.UNSURE]) if self.rules.organic else None
        begin, end = scalars[[self._fields.MARKS_BEGIN, self._fields.MARKS_END]].tolist()
        offset, watermark_ms = next_offset, self.watermark_ms
        if begin < end:
            offset, watermark_ms, *_ = self.state.marks[begin].tolist()
        return Checkpoint(offset, watermark_ms, finished_ms, floor_ms, unsure_ms)

    @property
    def watermark_ms(self) -> int:
        """Event time that is reached, minus lateness."""
        return int(self.state.numbers[self._fields.WATERMARK])

    @property
    def open_pages(self) -> int:
        """Pages whose window isn't over."""
        return int(self.state.numbers[self._fields.OPEN])

    @property
    def remembered_pages(self) -> int:
        """Pages that are remembered, and those behind an older one that is."""
        return int(self.state.numbers[self._fields.PAGE_COUNT])

    @property
    def held_bytes(self) -> int:
        """What pages and installs that are remembered take, bytes."""
        return int(self.state.numbers[self._fields.RETAINED_BYTES])

    @property
    def bytes_max(self) -> int:
        """What they may take; over it the oldest is finished early."""
        return int(self.state.numbers[self._fields.BYTES_MAX])

    @bytes_max.setter
    def bytes_max(self, value: int) -> None:
        self.state.numbers[self._fields.BYTES_MAX] = value

    @property
    def awaits_time(self) -> bool:
        """Whether there would be something to emit or to forget if only event time went on."""
        return self.hold_offset() is not None

    def tick_ms(self, silence_ms: int) -> int:
        """The event time that a silent partition has reached, if event time goes on at the wall's pace."""
        return self.watermark_ms + self.rules.lateness_ms + silence_ms
