"""A worker's share of `events`: a join per partition, where each reads on, and what may be committed of it.

The one place that says how far a partition is done with. Records are taken strictly in offset order. One that isn't
the next raises LogGap where the log begins behind the next. Else it came before its turn, and is left: it comes again,
or the joiner begins again at its last commit. What may be committed is what `Joiner.checkpoint` says, and only once
everything that came of the records before it is in the outbox; no other offset leaves this file, so no commit can skip
a hole.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from stream.dead_letters import Outgoing
from stream.errors import LogError, LogGap
from stream.events import Tick, encode_record
from stream.joiner import metrics
from stream.joiner.join import Checkpoint, Joiner
from stream.joiner.label_rules import LabelRules
from stream.joiner.record_processor import RecordProcessor, ShellRules
from stream.log import Record
from stream.topics import EVENTS

OUT_OF_TURN_S: Final = 10.0  # so long the next record may not come, while others do

log = logging.getLogger(__name__)


@dataclass
class Owned:
    """A partition that this worker has now."""

    joiner: Joiner
    next_offset: int | None  # None: nothing was ever committed, the log's first record is next
    stored: Checkpoint | None
    settled: bool = False  # all that came of the records taken so far was put out
    heard_at: float = 0.0
    waits_since: float | None = None  # for the next offset, while others come


class AssignedPartitions:
    """The partitions of one worker. `put` takes what has to be written."""

    def __init__(
        self, rules: LabelRules, shell: ShellRules, turn: RecordProcessor, put: Callable[[Outgoing], None]
    ) -> None:
        self.owned: dict[int, Owned] = {}
        self._rules = rules
        self._shell = shell
        self._turn = turn
        self._put = put

    def begin(self, checkpoint: Checkpoint | None) -> Owned:
        """The state at a commit: an empty join with the watermark that was stored there."""
        if checkpoint is None:
            return Owned(Joiner(self._rules), next_offset=None, stored=None)
        return Owned(Joiner.start(self._rules, checkpoint), checkpoint.offset, checkpoint)

    def drop(self, partitions: Iterable[int]) -> None:
        """Forget these: whoever gets them reads them again from the commit."""
        for partition in partitions:
            self.owned.pop(partition, None)
            metrics.forget(partition)

    @staticmethod
    def jumps(owned: Owned, begin: int) -> bool:
        """Whether records may be missing before one of which this is known: then `take` must know the log's start."""
        return begin > (owned.next_offset or 0)

    def take(self, owned: Owned, record: Record, now: float, begin: int, start: int | None) -> Iterator[None]:
        """The next record of a partition; to be run to its end. Raises LogGap, Poisoned.

        Where very much comes of it there are pauses, in which what was put out can be handed over. Till the end
        nothing of the partition may be committed.

        `begin`: from there on the log holds nothing before this record. `start`: where the record `jumps`, the log's
        first offset, as of some moment after this record or a later one was read.
        """
        if owned.next_offset is not None and record.offset < owned.next_offset:
            return  # behind the commit, which moved while the partition changed hands
        if start is not None:
            wanted = start if owned.next_offset is None else owned.next_offset
            if start > wanted:
                gap = LogGap(EVENTS.name, record.partition, wanted, start)
                if not self._shell.accept_gap:
                    raise gap
                log.warning("going on, as told: %s", gap)
                owned.next_offset = start
            if begin > max(start, wanted):
                owned.waits_since = now if owned.waits_since is None else owned.waits_since
                return
        owned.settled, owned.waits_since = False, None
        for n, part in enumerate(self._turn.parts(owned.joiner, record)):
            if n:
                yield
            for outgoing in part:
                self._put(outgoing)
        owned.heard_at = now
        owned.next_offset = record.offset + 1
        owned.settled = True

    def unstored(self) -> dict[int, tuple[Owned, Checkpoint]]:
        """What can be committed once all that was put out is confirmed, where that is news."""
        return {
            partition: (owned, checkpoint)
            for partition, owned in self.owned.items()
            if owned.settled
            and owned.next_offset is not None
            and (checkpoint := owned.joiner.checkpoint(owned.next_offset)) != owned.stored
        }

    def still(self, wanted: dict[int, tuple[Owned, Checkpoint]]) -> dict[int, Checkpoint]:
        """Of these, those whose partition didn't change hands meanwhile."""
        return {p: checkpoint for p, (owned, checkpoint) in wanted.items() if self.owned.get(p) is owned}

    def tick(self, now: float, end_of: Callable[[int], int | None]) -> None:
        """Put a Tick into silent partitions that are read to their end and wait for event time to go on.

        Raises LogError where a partition's next record doesn't come, though others do.
        """
        for partition, owned in self.owned.items():
            if owned.waits_since is not None and now - owned.waits_since > OUT_OF_TURN_S:
                raise LogError(
                    f"{EVENTS.name}/{partition}: offset {owned.next_offset or 0} hasn't come for "
                    f"{OUT_OF_TURN_S:.0f} s, though later ones have"
                )
            silence_ms = round((now - owned.heard_at) * 1000)
            if silence_ms < self._shell.idle_ms or not owned.joiner.awaits_time or not owned.settled:
                continue
            end = end_of(partition)
            if end is None or owned.next_offset is None or owned.next_offset < end:
                continue
            owned.heard_at = now
            tick = Tick(owned.joiner.tick_ms(silence_ms))
            self._put(Outgoing(EVENTS.name, partition, encode_record([tick])))

    def measure(self, now_s: float, end_of: Callable[[int], int | None]) -> None:
        """Set the gauges."""
        for partition, owned in self.owned.items():
            at = owned.next_offset or 0
            first = owned.joiner.hold_offset()
            held = 0 if first is None else at - first
            lag = max(0, (end_of(partition) or 0) - at)
            metrics.measure(partition, owned.joiner, held, lag, now_s)
