"""Records of one partition through the join: what is emitted for them, and what is counted. Pure but for histories."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Final

from stream.events.codec import decode_events, event_count
from stream.events.topics import EVENTS, HISTORIES
from stream.events.types import SLICE_EVENTS, BadPart, Impression, Tick
from stream.joiner.bodies import Bodies
from stream.joiner.join import Joiner
from stream.joiner.label_rules import LabelRules
from stream.joiner.labels import Part
from stream.joiner.metrics import Tally
from stream.joiner.output_records import Emission, history_record
from stream.joiner.raw_impression import RecordEvents, plain_records, read_any, read_slices, record_events, together
from stream.log.dead_letters import dead_letter
from stream.log.protocol import Record
from stream.runtime.errors import Poisoned

if TYPE_CHECKING:
    from stream.history.history_writer import HistoryWriter

POISON_MIN: Final = 20  # so many bad records in a row are more than chance
RUN_RECORDS, RUN_BYTES = 256, 256 * 1024  # that are joined at once: some ten milliseconds
LETTERS_MAX: Final = 1_024  # likewise dead letters

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShellRules:
    """How the shell behaves; what labels are is in LabelRules."""

    commit_every_ms: int = 250
    idle_ms: int = 500  # a partition that is read to its end and silent for so long is ticked
    ahead_ms_max: int = 60_000  # an event may be this far after its own arrival; further is a dead letter
    accept_gap: bool = False  # go on when records were lost
    accept_rules: bool = False  # go on from commits of other rules, or of another model
    model: str = ""  # the spec's name: stored in commits
    poison_s: float = 60.0  # stop when nothing but what can't be taken in has come for so long; 0: never
    uncommitted_max: int = 80_000  # examples that a worker emits without a commit: a learner knows 200,000 ids
    outage_grace_s: float = 30.0  # after an outage a partition without events isn't silent for so long


class PoisonWatch:
    """Notices a partition that gets nothing good any more: a producer that broke must not drain into dead letters."""

    def __init__(self, after_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0  # bad records since the last good one
        self._after_s = after_s
        self._clock = clock
        self._since: float | None = None

    def saw(self, good: bool, bad: bool) -> None:
        """A record with events of either kind. Raises Poisoned."""
        if good:
            self._since, self.count = None, 0
        if good or not bad or not self._after_s:
            return
        now = self._clock()
        self._since = now if self._since is None else self._since
        self.count += 1
        if now - self._since >= self._after_s and self.count >= POISON_MIN:
            raise Poisoned(
                f"nothing but events that can't be taken in for {now - self._since:.0f} s ({self.count} records); "
                "`thalweg dlq show` tells why. Mend the producer, then start again; or let all of them become dead "
                "letters with THALWEG_JOINER_POISON_S=0"
            )


@dataclass(eq=False)
class PartitionState:
    """The join of a partition, and how far its records were taken.

    Records below `emit_from` rebuild the state: nothing of them is emitted. `whole`: between two records, when all
    that came of those below `next_offset` was handed out.
    """

    joiner: Joiner
    next_offset: int
    emit_from: int
    poison: PoisonWatch
    read_ms: int = 0  # when the last record was appended
    late: int = 0  # events that came too late, over all owners
    whole: bool = True
    event_offset: int = -1  # the newest record with a page or an install in it
    shed: int = field(default=0)  # pages closed early when that was last looked at
    bodies: Bodies = field(default_factory=Bodies)


class RecordProcessor:
    """Takes records of one worker's partitions, a batch of one partition at a time."""

    def __init__(
        self, shell: ShellRules, partitions: dict[str, int], histories: "HistoryWriter | None", tally: Tally
    ) -> None:
        self._shell = shell
        self._partitions = partitions
        self._histories = histories
        self.tally = tally

    def start(self, joiner: Joiner, next_offset: int = 0, emit_from: int = 0) -> PartitionState:
        """The state of a partition that begins at an offset, with the join as it was there."""
        return PartitionState(joiner, next_offset, emit_from, PoisonWatch(self._shell.poison_s))

    def process(self, state: PartitionState, records: Sequence[Record]) -> Iterator[Emission | None]:
        """Take the next records; gives what is to be emitted, in parts, each before the next is made.

        None is a pause, in which others of the event loop have their turn. Raises Poisoned.
        """
        begin, most = 0, RUN_RECORDS
        while begin < len(records):
            run = _run(records, begin, most, state.emit_from)
            raws = [record.value or b"" for record in run]
            for record, raw in zip(run, raws, strict=True):
                state.bodies.put(record.offset, raw)
            events = plain_records(raws, [record.offset for record in run], [record.time_ms for record in run])
            taken = len(events.records)
            if taken:
                yield from self._take(state, run[:taken], events)
                most = min(2 * most, RUN_RECORDS)
            else:  # another form, in which the next ones may be, too
                taken = most = 1
                yield from self._take_any(state, run[0])
            begin += taken
            yield None  # also where nothing is emitted: bodies are trimmed, a commit may be due

    def _take_any(self, state: PartitionState, record: Record) -> Iterator[Emission | None]:
        """A record of any form. One of very many events is decoded in slices, with a pause after each."""
        raw = record.value or b""
        if event_count(raw) <= SLICE_EVENTS:
            events, undecodable = read_any(raw)
        else:
            slices, undecodable = list[RecordEvents](), list[BadPart]()
            for some, rest in read_slices(raw):
                slices.append(some)
                undecodable += rest
                yield None
            events = together(slices)
        yield from self._take(state, [record], events.placed(record.offset, record.time_ms), undecodable)

    def _take(
        self,
        state: PartitionState,
        records: Sequence[Record],
        events: RecordEvents,
        undecodable: Sequence[BadPart] = (),
    ) -> Iterator[Emission | None]:
        """Records that follow each other: what is emitted for them, in parts. Raises Poisoned."""
        joiner, silent = state.joiner, records[0].offset < state.emit_from
        state.whole = False
        bad = [(records[0], part, "BadEvent", why) for part, why in undecodable]
        if not self._are_in_place(events, records[0].partition):
            if len(records) > 1:
                for number, record in enumerate(records):
                    yield from self._take(state, [record], events.only(number))
                return
            events = self._set_aside(events, bad, records[0])
        spoiled = len(bad)
        for part in joiner.parts(events):
            emission = self._emission(joiner, part, silent=silent)
            if not silent:
                state.late += len(part.late)
                spoiled += len(part.late)
                bad += [
                    (records[number], raw, "Late", _late_reason(time_ms, late_ms))
                    for number, raw, time_ms, late_ms in part.late
                ]
            state.whole = False
            if not joiner.is_within_record:  # so that a commit can be taken here
                yield from self._dead_letters(bad, silent=silent)
                _pass(state, records[joiner.records_taken - 1])
            if emission is not None:
                yield emission
        if joiner.shed != state.shed:
            self._alarm(records[0].partition, state)
        pages, installs, _ = events.tally
        if pages or installs:
            state.event_offset = events.last_offset
        self.tally.add(pages, installs, len(events) - pages - installs)
        yield from self._dead_letters(bad, silent=silent)
        if not silent and (spoiled or state.poison.count):
            state.poison.saw(bool(pages or installs), bad=bool(spoiled))
        _pass(state, records[-1])

    def _dead_letters(self, bad: list[tuple[Record, bytes, str, str]], *, silent: bool) -> Iterator[Emission]:
        """What couldn't be taken, which is then empty."""
        for begin in range(0, 0 if silent else len(bad), LETTERS_MAX):
            some = bad[begin : begin + LETTERS_MAX]
            self.tally.add_letters([error for _, _, error, _ in some])
            yield Emission(None, others=[dead_letter(raw, error, why, record) for record, raw, error, why in some])
        bad.clear()

    def _emission(self, joiner: Joiner, part: Part, *, silent: bool) -> Emission | None:
        """What is to be written of a part; None: nothing."""
        if part.installed and self._histories is not None:
            for installed in part.installed:  # also while rebuilding: the owner before may not have written them
                self._histories.put(*installed)
        if silent or not (part.labels or part.organic or part.installed):
            return None
        self.tally.add_labels(part.labels)
        groups = [(end, part.organic.get(number, ())) for number, end in part.ends]
        others = [history_record(installed, self._partitions[HISTORIES.name]) for installed in part.installed]
        return Emission(part.labels, groups, joiner.rules.organic_examples, others)

    def _are_in_place(self, events: RecordEvents, partition: int) -> bool:
        """Whether no event is from the future, and all are of users of this partition."""
        partitions = self._partitions[EVENTS.name]
        in_place: bool = _scan().are_acceptable(
            events.records, events.columns, self._shell.ahead_ms_max, partition, partitions
        )
        return in_place

    def _set_aside(
        self, events: RecordEvents, bad: list[tuple[Record, bytes, str, str]], record: Record
    ) -> RecordEvents:
        """Events from the future, and of users whose partition is another one, are moved to what can't be taken."""
        latest_ms, partitions = record.time_ms + self._shell.ahead_ms_max, self._partitions[EVENTS.name]
        scan, columns = _scan(), events.columns
        ahead = columns[:, scan.TIME] > latest_ms
        elsewhere = (columns[:, scan.MURMUR2] % partitions != record.partition) & (columns[:, scan.TAG] != scan.TICK)
        for event in (ahead | elsewhere).nonzero()[0].tolist():
            raw = events.bytes_of(event)
            if elsewhere[event]:
                wanted = int(columns[event, scan.MURMUR2]) % partitions
                bad.append(
                    (record, raw, "WrongPartition", _misplaced_reason(raw, wanted, record.partition, partitions))
                )
            else:
                ahead_ms = int(columns[event, scan.TIME]) - record.time_ms
                reason = f"event time {columns[event, scan.TIME]} ms is {ahead_ms} ms after its arrival"
                bad.append((record, raw, "FromTheFuture", reason))
        return events.where(~(ahead | elsewhere))

    def _alarm(self, partition: int, state: PartitionState) -> None:
        """Say that pages close early, at the first one and at each doubling."""
        before, shed = state.shed, state.joiner.shed
        state.shed = shed
        if not before or shed.bit_length() > before.bit_length():
            log.error(
                "partition %d: %d pages were closed before their time, because open pages fill the memory that they "
                "may have: raise THALWEG_JOINER_MEMORY_MB, shorten the window, or start more workers",
                partition,
                shed,
            )


def warm_up() -> None:
    """Load the kernels that a record goes through: the first one must not wait for them."""
    joiner = Joiner(LabelRules())
    joiner.feed([Impression("r", 1, "u", ["a"]), Impression("s", 1, "u", ["a"]), Tick(10_000)], 0, 10_000)
    events = record_events([])
    _scan().are_acceptable(events.records, events.columns, 0, 0, 1)


@cache
def _scan() -> ModuleType:
    """With numba: a joiner joins its group while it's being loaded."""
    from stream.joiner.kernels import record_scan

    return record_scan


def _run(records: Sequence[Record], begin: int, most: int, emit_from: int) -> Sequence[Record]:
    """The next records that are taken together: all silent, or none."""
    size, end = 0, begin
    silent = records[begin].offset < emit_from
    for record in records[begin : begin + most]:
        size += len(record.value or b"")
        if end > begin and (size > RUN_BYTES or (silent and record.offset >= emit_from)):
            break
        end += 1
    return records[begin:end]


def _pass(state: PartitionState, record: Record) -> None:
    """All up to this record is taken."""
    state.next_offset, state.read_ms, state.whole = record.offset + 1, record.time_ms, True


def _late_reason(time_ms: int, late_ms: int) -> str:
    return (
        f"event time {time_ms} ms came {late_ms} ms too late: what happened then is forgotten. Sent again, it is "
        "taken only by a joiner that remembers for longer ([label] lateness, known)"
    )


def _misplaced_reason(raw: bytes, wanted: int, partition: int, partitions: int) -> str:
    user = decode_events(b"\x91" + raw)[0][0].user  # type: ignore[union-attr]  # a Tick isn't misplaced
    return (
        f"user {user[:100]!r} belongs to partition {wanted} of {partitions}, not to {partition}: producers must "
        "partition by murmur2 of the user id, Kafka's default for keys"
    )
