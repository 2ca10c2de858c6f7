"""The partitions that a worker has: from which commit each goes on, what may be committed of it, when it is ticked.

The one place that says how far a partition is done with. A commit holds the offset that `Joiner.checkpoint` names,
where a rebuild of the state starts, and the next offset whose output isn't confirmed: records below that one rebuild
the state and emit nothing. Both are taken between two records only, once everything that came of the records before is
in the outbox, and stored once the broker has acknowledged all of it. No other offset leaves this file, so no commit can
skip a record.

A rebalance revokes all partitions and mostly gives them back. Their state is parked meanwhile: where the group's commit
is still the one that this worker stored last, nobody else has gone on from it, and the state does.
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
from stream.joiner.commit_metadata import JOIN_VERSION, Commit, Progress, author_of, commit_of, differences, metadata_of
from stream.joiner.join import Joiner
from stream.joiner.label_rules import LabelRules
from stream.joiner.record_processor import PartitionState, PoisonWatch, ShellRules
from stream.joiner.silence import Silence
from stream.log.dead_letters import Outgoing
from stream.runtime.errors import LogGap, LogTruncated, SettingsError

if TYPE_CHECKING:
    from stream.joiner.state_store import StateStore

UNBOUNDED: Final = 2**62
PROCESS_BYTES: Final = 256_000_000  # of a joiner that remembers nothing, with what it has fetched
TICKS_A_GRACE: Final = 8  # where no page is open: so many ticks till what is left can be forgotten

log = logging.getLogger(__name__)
StoredCommit = tuple[int, str]  # offset, metadata


class Memory(NamedTuple):
    """What a worker's partitions may take together, bytes: for what they remember, and for recent records."""

    known_bytes: int
    body_bytes: int

    @classmethod
    def of(cls, memory_bytes: int, body_bytes: int) -> "Memory":
        """The shares of a worker's memory: a quarter at most for recent records, the process itself apart."""
        body_bytes = min(body_bytes, memory_bytes // 4)
        return cls(max(memory_bytes // 4, memory_bytes - body_bytes - PROCESS_BYTES), body_bytes)


UNBOUNDED_MEMORY: Final = Memory(UNBOUNDED, UNBOUNDED)


class LogRange(NamedTuple):
    """Where a partition's log starts and ends; `new_from`: its first record that a commit's author can't have read."""

    start: int
    end: int
    new_from: int | None = None


@dataclass(eq=False)
class Assigned(PartitionState):
    """A partition that this worker has now. `stored`: the group's commit, as far as this worker knows."""

    silence: Silence = field(kw_only=True)
    stored: StoredCommit | None = None
    rebuild_from: int | None = None  # while records are read in silence
    began_at: float = 0.0
    store: "StateStore | None" = None

    @property
    def confirmed(self) -> int:
        """The next offset whose output isn't confirmed, by the commit."""
        return 0 if self.stored is None else commit_of(*self.stored).progress.confirmed

    @property
    def is_rebuilt(self) -> bool:
        """Whether its state has reached what the group's commit confirms: from there on records are emitted."""
        return self.next_offset >= self.emit_from

    def trim_bodies(self) -> None:
        """Give up records of which nothing is remembered, or that are too many.

        Between two records only: within one, labels may be on their way whose pages are forgotten already.
        """
        if not self.whole:
            return
        hold = self.joiner.hold_offset()
        self.bodies.trim(self.next_offset if hold is None else hold)


class AssignedPartitions:
    """The partitions of one worker; `memory` is for all together, `folder` where states are saved."""

    def __init__(
        self, rules: LabelRules, shell: ShellRules, memory: Memory = UNBOUNDED_MEMORY, folder: Path | None = None
    ) -> None:
        self.owned: dict[int, Assigned] = {}
        self._parked: dict[int, Assigned] = {}
        self._rules = rules
        self._shell = shell
        self._memory = memory
        self._folder = folder

    # --- partitions come and go ----------------------------------------------------------------------------

    def begin(self, partition: int, stored: StoredCommit | None, ends: LogRange, now: float) -> Assigned:
        """Own a partition whose commit this is; it reads on at its `next_offset`.

        Raises LogGap, LogTruncated, and SettingsError where the commit's author ran by other rules.
        """
        parked = self._parked.pop(partition, None)
        if parked is not None and parked.stored == stored and ends.start <= parked.next_offset <= ends.end:
            owned = parked
            log.info("partition %d: goes on at %d, its state was kept", partition, owned.next_offset)
        elif stored is None:
            self._accept_gap(partition, 0, ends.start)
            owned = self._made(Joiner(self._rules), ends.start, ends.start, now)
            owned.store = self._store(partition)
        else:
            owned = self._restarted(partition, commit_of(*stored), ends, now)
            owned.stored = stored
        self.owned[partition] = owned
        return owned

    def settle(self) -> None:
        """The assignment is known and begun: states of partitions that others have now go; memory is shared out."""
        self._parked.clear()
        for partition, owned in self.owned.items():
            self.took(partition, owned, owned.began_at)

    def park(self, partitions: Iterable[int]) -> None:
        """Keep the states of revoked partitions aside; between two batches, so that all they led to was put out."""
        for partition, owned in self.drop(partitions).items():
            if owned.whole and owned.is_rebuilt:
                self._parked[partition] = owned

    def drop(self, partitions: Iterable[int]) -> dict[int, Assigned]:
        """Forget these: whoever gets them rebuilds their state from the commit."""
        gone = {partition: self.owned.pop(partition) for partition in partitions if partition in self.owned}
        for partition in gone:
            metrics.forget(partition)
        return gone

    def _made(self, joiner: Joiner, next_offset: int, emit_from: int, now: float) -> Assigned:
        # Less memory than the owner before had would close pages whose labels nobody has emitted, in silence.
        joiner.bytes_max = UNBOUNDED
        made = Assigned(
            joiner,
            next_offset,
            emit_from,
            PoisonWatch(self._shell.poison_s),
            silence=Silence(now, joiner.watermark_ms),
            began_at=now,
        )
        made.rebuild_from = next_offset if emit_from > next_offset else None
        return made

    def _restarted(self, partition: int, commit: Commit, ends: LogRange, now: float) -> Assigned:
        checkpoint, progress = commit.checkpoint, commit.progress
        changed = self._check_author(partition, commit)
        offset, emit_from = checkpoint.offset, checkpoint.offset if changed else progress.confirmed
        if max(offset, emit_from) > ends.end:
            truncated = LogTruncated(EVENTS.name, partition, max(offset, emit_from), ends.start, ends.end)
            if not self._shell.accept_gap or ends.new_from is None:
                raise truncated
            emit_from = min(emit_from, ends.new_from)
            offset = min(offset, ends.new_from)
            log.warning("going on (--accept-gap) with the records from %d on: %s", emit_from, truncated)
        if offset < ends.start:
            self._accept_gap(partition, offset, ends.start)
            offset, emit_from = ends.start, max(emit_from, ends.start)
        log.info(
            "partition %d: reads on at %d, watermark %d ms; what came of the records below %d is confirmed",
            partition, offset, checkpoint.watermark_ms, emit_from,
        )  # fmt: skip
        store, joiner = self._store(partition), None
        if store is not None and not changed and (loaded := store.load(self._rules, ends.start, emit_from)) is not None:
            state, offset = loaded
            joiner = Joiner.restored(self._rules, checkpoint, state)
            log.info("partition %d: %d pages were loaded, of the records below %d", partition,
                     joiner.remembered_pages, offset)  # fmt: skip
        if joiner is None:
            joiner = Joiner.start(self._rules, checkpoint)
        owned = self._made(joiner, offset, emit_from, now)
        owned.read_ms, owned.late, owned.store = progress.read_ms, progress.late, store
        return owned

    def _store(self, partition: int) -> "StateStore | None":
        """The partition's saved state, if this worker has a folder for them."""
        if self._folder is None:
            return None
        from stream.joiner.state_store import StateStore  # with numba: the worker has joined its group by now

        return StateStore(self._folder / str(partition), author_of(self._rules, self._shell.model))

    def _accept_gap(self, partition: int, wanted: int, start: int) -> None:
        if start <= wanted:
            return
        gap = LogGap(EVENTS.name, partition, wanted, start)
        if not self._shell.accept_gap:
            raise gap
        log.warning("going on (--accept-gap): %s", gap)

    def _check_author(self, partition: int, commit: Commit) -> bool:
        """Whether it ran by other rules, which is accepted. Raises SettingsError where it isn't."""
        where = f"the commit of {EVENTS.name}/{partition}"
        if commit.version > JOIN_VERSION:
            raise SettingsError(
                f"{where} was made by a newer joiner (version {commit.version} of the join, this is {JOIN_VERSION}): "
                "start the newer one; this one would emit other labels"
            )
        found = differences(commit, self._rules, self._shell.model)
        if not found:
            return False
        if not self._shell.accept_rules:
            raise SettingsError(
                f"{where} was made by a joiner that ran otherwise: {'; '.join(found)}. Give it the spec that it had, "
                "or start with --accept-rules: then open pages are judged anew by these rules from the commit on, and "
                "what was emitted of them stays"
            )
        log.warning("partition %d: going on by other rules (--accept-rules): %s", partition, "; ".join(found))
        return True

    # --- records were taken --------------------------------------------------------------------------------

    def took(self, partition: int, owned: Assigned, now: float) -> None:
        """Records of a partition were taken."""
        owned.silence.heard(owned.joiner.watermark_ms, owned.event_offset, now)
        if owned.rebuild_from is not None and owned.next_offset >= owned.emit_from:
            log.info(
                "partition %d: its state was rebuilt from %d records in %.1f s",
                partition, owned.next_offset - owned.rebuild_from, now - owned.began_at,
            )  # fmt: skip
            metrics.REBUILT.inc(owned.next_offset - owned.rebuild_from)
            owned.rebuild_from = None
        if owned.rebuild_from is None:
            owned.joiner.bytes_max = self._rules.bytes_max or self._memory.known_bytes // len(self.owned)
        owned.bodies.bytes_max = self._memory.body_bytes // len(self.owned)

    def unstored(self, *, all_of_them: bool = False) -> dict[int, tuple[Assigned, StoredCommit]]:
        """What can be committed once all that was put out is confirmed, where that is news or all is wanted."""
        found: dict[int, tuple[Assigned, StoredCommit]] = {}
        for partition, owned in self.owned.items():
            if owned.whole and owned.is_rebuilt:
                commit = self._commit(owned)
                if all_of_them or commit != owned.stored:
                    found[partition] = owned, commit
        return found

    def _commit(self, owned: Assigned) -> StoredCommit:
        checkpoint = owned.joiner.checkpoint(owned.next_offset)
        confirmed = max(owned.next_offset, owned.emit_from)
        progress = Progress(confirmed, owned.read_ms, owned.late, self._shell.uncommitted_max)
        return checkpoint.offset, metadata_of(checkpoint, self._rules, self._shell.model, progress)

    # --- event time ----------------------------------------------------------------------------------------

    def silent(self, now: float) -> list[int]:
        """Partitions that would be ticked if they are read to their end: silent, and something is remembered.

        While pages are open event time must go on evenly. Later it only lets things be forgotten, so that the commit
        catches up.
        """
        found = []
        for partition, owned in self.owned.items():
            joiner = owned.joiner
            if owned.rebuild_from is not None or not owned.whole:
                continue
            if joiner.awaits_time:
                idle_ms = self._shell.idle_ms
            elif joiner.hold_offset() is not None:
                idle_ms = max(self._shell.idle_ms, self._rules.life_ms // TICKS_A_GRACE)
            else:
                continue
            if owned.silence.lasts_ms(now) >= idle_ms:
                found.append(partition)
        return found

    def tick(self, partition: int, now: float) -> Outgoing:
        """The Tick that lets a silent partition's event time go on."""
        owned = self.owned[partition]
        tick = Tick(owned.joiner.tick_ms(owned.silence.lasts_ms(now)))
        owned.silence.ticked(now)
        return Outgoing(EVENTS.name, partition, encode_record([tick]))

    def measure(self, partition: int, end: int | None, now_s: float) -> None:
        """Set a partition's gauges; `end`: the log's, as of the last fetch."""
        owned = self.owned[partition]
        first = owned.joiner.hold_offset()
        held = 0 if first is None else owned.next_offset - first
        lag = max(0, (end or 0) - owned.next_offset)
        metrics.measure(partition, owned.joiner, held, lag, owned.late, now_s)
