"""The partitions that are assigned to a worker: the commit that each resumes from, what may be committed, when to tick.

The only file that says how far a partition is done. A commit contains the offset that `Joiner.restart_point` names,
where a rebuild of the state starts, and the next offset whose output isn't confirmed: records below that one rebuild
the state silently. Both are taken between two records only, once all output of the earlier records is in the outbox,
and stored once the broker has acknowledged it. No other offset leaves this file, so no commit can skip a record.

A rebalance revokes all partitions and usually returns most of them. Their state is parked meanwhile: where the group's
commit is still the one that this worker stored last, nobody else has continued from it, so the parked state is current.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from stream.events.codec import encode_record
from stream.events.topics import EVENTS
from stream.events.types import Tick
from stream.joiner import metrics
from stream.joiner.commit_metadata import Progress, decode_commit, encode_metadata, join_identity
from stream.joiner.idleness import Idleness
from stream.joiner.join import Joiner
from stream.joiner.label_rules import LabelRules
from stream.joiner.poison_detector import PoisonDetector
from stream.joiner.record_cache import UNBOUNDED
from stream.joiner.record_processor import JoinerOptions, PartitionState
from stream.joiner.resume_point import LogRange, check_gap, resume_point
from stream.log.dead_letters import Outgoing
from stream.log.lag_age import LagAge
from stream.runtime.clock import now_ms
from stream.runtime.errors import LogTruncated

if TYPE_CHECKING:
    from stream.joiner.state_store import StateStore

PROCESS_BYTES: Final = 256_000_000  # of a joiner with an empty state, including its fetch buffers

log = logging.getLogger(__name__)
StoredCommit = tuple[int, str]  # offset, metadata


class MemoryBudget(NamedTuple):
    """Memory of all of a worker's partitions together, bytes: of their join states, and of recent records."""

    state_bytes: int
    cache_bytes: int

    @classmethod
    def of(cls, memory_bytes: int, cache_bytes: int) -> "MemoryBudget":
        """Split a worker's memory: at most a quarter for recent records; the process itself is left out."""
        cache_bytes = min(cache_bytes, memory_bytes // 4)
        return cls(max(memory_bytes // 4, memory_bytes - cache_bytes - PROCESS_BYTES), cache_bytes)


@dataclass(eq=False)
class AssignedPartition(PartitionState):
    """A partition that is assigned to this worker. `stored_commit`: the group's, as far as this worker knows."""

    idleness: Idleness = field(kw_only=True)
    state_store: "StateStore" = field(kw_only=True)
    stored_commit: StoredCommit | None = None
    rebuild_from: int | None = None  # while records are read silently
    assigned_at: float = 0.0
    lag_age: LagAge = field(default_factory=lambda: LagAge(now_ms()))

    @property
    def confirmed(self) -> int:
        """The next offset whose output isn't confirmed, by the commit."""
        return 0 if self.stored_commit is None else decode_commit(*self.stored_commit).progress.confirmed

    @property
    def can_commit(self) -> bool:
        """Whether it is between two records, and its state has reached what the group's commit confirms."""
        return self.at_boundary and self.next_offset >= self.emit_from

    def trim_cache(self) -> None:
        """Evict records that the state doesn't need, or above the cache's bound.

        Between two records only: within one, labels may be pending whose pages are evicted already.
        """
        if self.at_boundary:
            oldest = self.joiner.oldest_needed_offset()
            self.cache.trim(self.next_offset if oldest is None else oldest)


class AssignedPartitions:
    """The partitions of one worker, by number; they share `budget`, and save states in `folder`."""

    def __init__(
        self,
        rules: LabelRules,
        options: JoinerOptions,
        budget: MemoryBudget,
        folder: Path,
    ) -> None:
        self.partitions: dict[int, AssignedPartition] = {}
        self.emitted_max = 0  # examples between two commits
        self._parked: dict[int, AssignedPartition] = {}
        self._rules = rules
        self._options = options
        self._budget = budget
        self._folder = folder

    # --- assignment and revocation -------------------------------------------------------------------------

    def start(self, partition: int, stored: StoredCommit | None, log_range: LogRange, now: float) -> AssignedPartition:
        """Start a partition with this commit of the group; it reads on at its `next_offset`.

        Raises LogGap, LogTruncated, and SettingsError where the commit's author ran by other rules.
        """
        parked = self._parked.pop(partition, None)
        if (
            parked is not None
            and parked.stored_commit == stored
            and log_range.start <= parked.next_offset <= log_range.end
        ):
            state = parked
            log.info("partition %d: resumes at %d from its parked state", partition, state.next_offset)
        else:
            state = self._resume(partition, stored, log_range, now)
        self.partitions[partition] = state
        return state

    def finish_rebalance(self) -> None:
        """All assigned partitions are started: drop the parked states of others, and share out the memory."""
        self._parked.clear()
        for partition, state in self.partitions.items():
            self.joined(partition, state, state.assigned_at)

    def park(self, partitions: Iterable[int]) -> None:
        """Park the states of revoked partitions; between two batches, once all output is in the outbox."""
        for partition, state in self.drop(partitions).items():
            if state.can_commit:
                self._parked[partition] = state

    def drop(self, partitions: Iterable[int]) -> dict[int, AssignedPartition]:
        """Remove and return these: their next owner rebuilds the state from the commit."""
        dropped = {p: self.partitions.pop(p) for p in partitions if p in self.partitions}
        for partition in dropped:
            metrics.remove_partition_gauges(partition)
        return dropped

    def _resume(
        self, partition: int, stored: StoredCommit | None, log_range: LogRange, now: float
    ) -> AssignedPartition:
        commit = None if stored is None else decode_commit(*stored)
        offset, emit_from, rules_changed = resume_point(partition, commit, log_range, self._rules, self._options)
        from stream.joiner.state_store import StateStore  # with numba: the worker has joined its group by now

        store = StateStore(self._folder / str(partition), join_identity(self._rules, self._options.model))
        resumes = commit is not None and not rules_changed
        saved = store.load(self._rules, log_range.start, emit_from) if resumes else None
        joiner = Joiner(self._rules, commit.restart_point if commit else None, saved and saved[0])
        if saved is not None:
            offset = saved[1]
            log.info("partition %d: %d pages were loaded, of the records below %d", partition,
                     joiner.retained_pages, offset)  # fmt: skip
        # With less memory than the previous owner had, a rebuild would silently close pages without labels.
        joiner.bytes_max = UNBOUNDED
        return AssignedPartition(
            joiner,
            offset,
            emit_from,
            PoisonDetector(self._options.poison_s),
            read_ms=commit.progress.read_ms if commit else 0,
            late=commit.progress.late if commit else 0,
            idleness=Idleness(now, joiner.watermark_ms),
            stored_commit=stored,
            rebuild_from=offset if emit_from > offset else None,
            assigned_at=now,
            state_store=store,
        )

    def skip_gap(self, partition: int, offset: int, log_range: LogRange) -> bool:
        """The log lacked this next offset: skip to its start, if it still does, and gaps are accepted.

        Raises LogGap, LogTruncated.
        """
        state = self.partitions.get(partition)
        if state is None or log_range.start <= offset <= log_range.end:
            return False
        if offset > log_range.end:
            raise LogTruncated(EVENTS.name, partition, offset, log_range.start, log_range.end)
        check_gap(partition, offset, log_range.start, self._options)
        state.next_offset = log_range.start
        return True

    # --- progress ------------------------------------------------------------------------------------------

    def joined(self, partition: int, state: AssignedPartition, now: float) -> None:
        """Records of a partition were joined."""
        state.idleness.observe(state.joiner.watermark_ms, state.last_event_offset, now)
        if state.rebuild_from is not None and state.next_offset >= state.emit_from:
            log.info(
                "partition %d: its state was rebuilt from %d records in %.1f s",
                partition, state.next_offset - state.rebuild_from, now - state.assigned_at,
            )  # fmt: skip
            metrics.REBUILT.inc(state.next_offset - state.rebuild_from)
            state.rebuild_from = None
        if state.rebuild_from is None:
            state.joiner.bytes_max = self._rules.bytes_max or self._budget.state_bytes // len(self.partitions)
        state.cache.bytes_max = self._budget.cache_bytes // len(self.partitions)

    def due_commits(self, *, unchanged: bool = False) -> dict[int, tuple[AssignedPartition, StoredCommit]]:
        """What can be committed once all output is confirmed: commits that differ from the stored ones, or all."""
        found: dict[int, tuple[AssignedPartition, StoredCommit]] = {}
        for partition, state in self.partitions.items():
            if state.can_commit:
                commit = self._commit(state)
                if unchanged or commit != state.stored_commit:
                    found[partition] = state, commit
        return found

    def _commit(self, state: AssignedPartition) -> StoredCommit:
        restart_point = state.joiner.restart_point(state.next_offset)
        allowed = self._options.uncommitted_max
        progress = Progress(state.next_offset, state.read_ms, state.late, allowed, self.emitted_max)
        return restart_point.offset, encode_metadata(restart_point, self._rules, self._options.model, progress)

    # --- event time ----------------------------------------------------------------------------------------

    def idle_partitions(self, now: float) -> list[int]:
        """Partitions to be ticked, if they have no lag: idle ones with a state, which keeps the commit back."""
        return [
            partition
            for partition, state in self.partitions.items()
            if state.rebuild_from is None
            and state.at_boundary
            and state.joiner.oldest_needed_offset() is not None
            and state.idleness.duration_ms(now) >= self._options.idle_ms
        ]

    def tick(self, partition: int, now: float) -> Outgoing:
        """The Tick that advances an idle partition's event time."""
        state = self.partitions[partition]
        tick = Tick(state.joiner.tick_ms(state.idleness.duration_ms(now)))
        state.idleness.restart(now)
        return Outgoing(EVENTS.name, partition, encode_record([tick]))

    def set_gauges(self, partition: int, end: int | None, now_s: float) -> None:
        """Set a partition's gauges; `end`: the log's end offset, as of the last fetch."""
        state = self.partitions[partition]
        oldest = state.joiner.oldest_needed_offset()
        uncommitted = 0 if oldest is None else state.next_offset - oldest
        waiting = max(0, (end or 0) - state.next_offset)
        lag = metrics.Lag(waiting, state.lag_age.seconds(waiting, state.read_ms, int(now_s * 1_000)))
        metrics.set_partition_gauges(partition, state.joiner, uncommitted, lag, state.late, now_s)
