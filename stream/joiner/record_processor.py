"""Runs records of one partition through the join; returns output records and counts. No I/O except histories."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from stream.events.codec import decode_events, event_count
from stream.events.topics import EVENTS, HISTORIES
from stream.events.types import CHUNK_EVENTS, BadPart, Impression, Tick
from stream.joiner.join import Joiner
from stream.joiner.label_rules import LabelRules
from stream.joiner.labels import JoinOutput
from stream.joiner.metrics import Tally
from stream.joiner.output_records import OutputGroup, history_record, ledger_record
from stream.joiner.poison_detector import PoisonDetector
from stream.joiner.record_cache import RecordCache
from stream.joiner.record_events import (
    RecordEvents,
    concatenate,
    decode_chunks,
    decode_record,
    scan_kernels,
    scan_records,
    to_record,
)
from stream.log.dead_letters import dead_letter
from stream.log.protocol import Record

if TYPE_CHECKING:
    from stream.history.history_writer import HistoryWriter

RUN_RECORDS, RUN_BYTES = 256, 256 * 1024  # joined at once: some ten milliseconds
DEAD_LETTERS_MAX: Final = 1_024  # dead letters emitted per batch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JoinerOptions:
    """How the service behaves; LabelRules say what it emits."""

    commit_every_ms: int = 250
    idle_ms: int = 500  # a partition without lag that is idle for this long is ticked
    ahead_ms_max: int = 60_000  # an event this much later than its own arrival is a dead letter
    accept_gap: bool = False  # go on when records were lost
    accept_rules: bool = False  # go on from commits of other rules, or of another model
    model: str = ""  # the spec's name: stored in commits
    poison_s: float = 60.0  # stop after nothing but bad records for this long; 0: never
    uncommitted_max: int = 80_000  # examples emitted without a commit: a learner deduplicates 200,000 ids
    outage_grace_s: float = 30.0  # for this long after an outage a partition without events isn't idle


@dataclass(eq=False)
class PartitionState:
    """The join of a partition, and how far its records were joined.

    Records below `emit_from` rebuild the state silently: nothing is emitted for them. `at_boundary`: between two
    records, when all output of those below `next_offset` was handed out.
    """

    joiner: Joiner
    next_offset: int
    emit_from: int
    poison: PoisonDetector
    read_ms: int = 0  # append time of the last record
    late: int = 0  # late events, over all workers
    at_boundary: bool = True
    last_event_offset: int = -1  # the newest record with a page or an install
    shed: int = 0  # pages closed early, as of the last alarm
    cache: RecordCache = field(default_factory=RecordCache)


class Rejected(NamedTuple):
    """An event, or an undecodable part of a record, that becomes a dead letter."""

    record: Record
    raw: bytes
    error: str
    reason: str


class RecordProcessor:
    """Joins records of one worker's partitions; `partitions`: how many each topic has."""

    def __init__(
        self, options: JoinerOptions, partitions: dict[str, int], histories: "HistoryWriter | None", tally: Tally
    ) -> None:
        self._options = options
        self._partitions = partitions
        self._histories = histories
        self.tally = tally

    def process(self, state: PartitionState, records: Sequence[Record]) -> Iterator[OutputGroup | None]:
        """Join the next records; yields what is to be emitted in parts, each before the next one is joined.

        None is a pause for other tasks of the event loop. Raises Poisoned.
        """
        begin, run_max = 0, RUN_RECORDS
        while begin < len(records):
            run = _run(records, begin, run_max, state.emit_from)
            raws = [record.value or b"" for record in run]
            for record, raw in zip(run, raws, strict=True):
                state.cache.put(record.offset, raw)
            events = scan_records(raws, [record.offset for record in run], [record.time_ms for record in run])
            scanned = len(events.records)
            if scanned:
                yield from self._join(state, run[:scanned], events)
                run_max = min(2 * run_max, RUN_RECORDS)
            else:  # another encoding; the next ones may have it, too
                scanned = run_max = 1
                yield from self._decode_and_join(state, run[0])
            begin += scanned
            yield None  # also without output: the cache is trimmed, a commit may be due

    def _decode_and_join(self, state: PartitionState, record: Record) -> Iterator[OutputGroup | None]:
        """A record in any encoding. One of very many events is decoded in chunks, with a pause after each."""
        raw = record.value or b""
        if event_count(raw) <= CHUNK_EVENTS:
            events, undecodable = decode_record(raw)
        else:
            chunks, undecodable = list[RecordEvents](), list[BadPart]()
            for some, bad in decode_chunks(raw):
                chunks.append(some)
                undecodable += bad
                yield None
            events = concatenate(chunks)
        yield from self._join(state, [record], events.at_offset(record.offset, record.time_ms), undecodable)

    def _join(
        self,
        state: PartitionState,
        records: Sequence[Record],
        events: RecordEvents,
        undecodable: Sequence[BadPart] = (),
    ) -> Iterator[OutputGroup | None]:
        """Consecutive records: what is emitted for them, in parts. Raises Poisoned."""
        joiner, rebuilding = state.joiner, records[0].offset < state.emit_from
        state.at_boundary = False
        rejected = [Rejected(records[0], part, "BadEvent", reason) for part, reason in undecodable]
        if not scan_kernels().are_acceptable(
            events.records, events.columns, self._options.ahead_ms_max, records[0].partition,
            self._partitions[EVENTS.name],
        ):  # fmt: skip
            if len(records) > 1:
                for number, record in enumerate(records):
                    yield from self._join(state, [record], events.of_record(number))
                return
            events = self._reject_misplaced(events, rejected, records[0])
        bad_count = len(rejected)
        for output in joiner.join_records(events):
            group = self._output_group(joiner, output, rebuilding=rebuilding)
            if not rebuilding:
                state.late += len(output.late)
                bad_count += len(output.late)
                rejected += [
                    Rejected(records[number], raw, "Late", _late_reason(time_ms, late_ms))
                    for number, raw, time_ms, late_ms in output.late
                ]
            state.at_boundary = False
            if not joiner.is_within_record:  # so that a commit can be taken here
                yield from self._dead_letters(rejected, rebuilding=rebuilding)
                _advance(state, records[joiner.records_joined - 1])
            if group is not None:
                yield group
        if joiner.shed != state.shed:
            self._alarm(records[0].partition, state)
        pages, installs, _ = events.tally
        if pages or installs:
            state.last_event_offset = events.last_offset
        self.tally.add_events(pages, installs, len(events) - pages - installs)
        yield from self._dead_letters(rejected, rebuilding=rebuilding)
        if not rebuilding and (bad_count or state.poison.count):
            state.poison.observe(bool(pages or installs), bad=bool(bad_count))
        _advance(state, records[-1])

    def _dead_letters(self, rejected: list[Rejected], *, rebuilding: bool) -> Iterator[OutputGroup]:
        """Emit dead letters for what was rejected, and clear it."""
        for begin in range(0, 0 if rebuilding else len(rejected), DEAD_LETTERS_MAX):
            some = rejected[begin : begin + DEAD_LETTERS_MAX]
            self.tally.add_dead_letters([one.error for one in some])
            yield OutputGroup(
                None, other_records=[dead_letter(one.raw, one.error, one.reason, one.record) for one in some]
            )
        rejected.clear()

    def _output_group(self, joiner: Joiner, output: JoinOutput, *, rebuilding: bool) -> OutputGroup | None:
        """What is to be written for an output of the join; None: nothing."""
        changes = output.history_changes
        if self._histories is not None:
            for change in changes:  # also while rebuilding: the previous owner may not have written them
                self._histories.put(*change)
        erased = [event for events in output.erased.values() for event in events]
        self.tally.add_erased(len(erased))
        if self._histories is not None and not rebuilding:  # a start erases what the ledger has
            for event in erased:
                self._histories.erase(event.user, event.time_ms)
        if rebuilding or not (output.labels or output.organic or changes or erased):
            return None
        self.tally.add_labels(output.labels)
        by_record = [
            (end, output.organic.get(number, ()), output.erased.get(number, ())) for number, end in output.ends
        ]
        other_records = [history_record(change, self._partitions[HISTORIES.name]) for change in changes]
        other_records += map(ledger_record, erased)
        return OutputGroup(output.labels, by_record, joiner.rules.organic_examples, other_records)

    def _reject_misplaced(self, events: RecordEvents, rejected: list[Rejected], record: Record) -> RecordEvents:
        """Move events from the future, and of other partitions' users, to `rejected`; returns the others."""
        latest_ms, partitions = record.time_ms + self._options.ahead_ms_max, self._partitions[EVENTS.name]
        scan, columns = scan_kernels(), events.columns
        is_ahead = columns[:, scan.TIME] > latest_ms
        is_misplaced = (columns[:, scan.MURMUR2] % partitions != record.partition) & (columns[:, scan.TAG] != scan.TICK)
        for event in (is_ahead | is_misplaced).nonzero()[0].tolist():
            raw = events.bytes_of(event)
            if is_misplaced[event]:
                reason = _misplaced_reason(
                    raw, int(columns[event, scan.MURMUR2]) % partitions, record.partition, partitions
                )
                rejected.append(Rejected(record, raw, "WrongPartition", reason))
            else:
                ahead_ms = int(columns[event, scan.TIME]) - record.time_ms
                reason = f"event time {columns[event, scan.TIME]} ms is {ahead_ms} ms after its arrival"
                rejected.append(Rejected(record, raw, "FromTheFuture", reason))
        return events.select(~(is_ahead | is_misplaced))

    def _alarm(self, partition: int, state: PartitionState) -> None:
        """Log that pages close early, at the first one and at each doubling."""
        before, shed = state.shed, state.joiner.shed
        state.shed = shed
        if not before or shed.bit_length() > before.bit_length():
            log.error(
                "partition %d: %d pages were closed early, because open pages fill their share of the memory: raise "
                "THALWEG_JOINER_MEMORY_MB, shorten the window, or start more workers",
                partition,
                shed,
            )


def warm_up() -> None:
    """Load the kernels that a record passes: the first one must not wait for them."""
    joiner = Joiner(LabelRules())
    joiner.feed([Impression("r", 1, "u", ["a"]), Impression("s", 1, "u", ["a"]), Tick(10_000)], 0, 10_000)
    events = to_record([])
    scan_kernels().are_acceptable(events.records, events.columns, 0, 0, 1)


def _run(records: Sequence[Record], begin: int, run_max: int, emit_from: int) -> Sequence[Record]:
    """The next records that are joined together: all below `emit_from`, or none."""
    size, end = 0, begin
    rebuilding = records[begin].offset < emit_from
    for record in records[begin : begin + run_max]:
        size += len(record.value or b"")
        if end > begin and (size > RUN_BYTES or (rebuilding and record.offset >= emit_from)):
            break
        end += 1
    return records[begin:end]


def _advance(state: PartitionState, record: Record) -> None:
    """All up to this record is joined."""
    state.next_offset, state.read_ms, state.at_boundary = record.offset + 1, record.time_ms, True


def _late_reason(time_ms: int, late_ms: int) -> str:
    return (
        f"event time {time_ms} ms came {late_ms} ms too late: pages of that time are final, and a replay emits no "
        "label of them. Raise [label] lateness or known, so that such events come in time"
    )


def _misplaced_reason(raw: bytes, wanted: int, partition: int, partitions: int) -> str:
    user = decode_events(b"\x91" + raw)[0][0].user  # type: ignore[union-attr]  # a Tick isn't misplaced
    return (
        f"user {user[:100]!r} belongs to partition {wanted} of {partitions}, not to {partition}: producers must "
        "partition by murmur2 of the user id, Kafka's default for keys"
    )
