"""Stores a worker's commits in its group, and detects that the group has expelled the worker."""

import asyncio
import logging
import time
from collections import deque
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError, UnknownMemberIdError
from aiokafka.structs import OffsetAndMetadata

from stream.joiner.assigned_partitions import AssignedPartition, AssignedPartitions, StoredCommit
from stream.joiner.metrics import Tally
from stream.joiner.outbox import Outbox
from stream.runtime.errors import SettingsError

EXPELLED_MAX: Final = 3  # times within EXPELLED_S: then another worker has the same name
EXPELLED_S: Final = 60.0
LAST_COMMIT_S: Final = 5.0

log = logging.getLogger(__name__)


class CommitWriter:
    """Commits the partitions of `topic` that are assigned to `worker`; `tally` counts the examples that it emits."""

    def __init__(self, topic: str, worker: str, assigned: AssignedPartitions, outbox: Outbox, tally: Tally) -> None:
        self._topic = topic
        self._worker = worker
        self._assigned = assigned
        self._outbox = outbox
        self._tally = tally
        self._committed = 0  # emitted examples that a stored commit covers
        self._committing: asyncio.Future[None] | None = None
        self._expelled_at: deque[float] = deque(maxlen=EXPELLED_MAX)

    @property
    def uncommitted(self) -> int:
        """Emitted examples that no stored commit covers: after a kill they are emitted again."""
        return self._tally.emitted - self._committed

    async def store_last(self, consumer: Any) -> None:
        """Store the last commit of revoked partitions, even unchanged: a rejection shows that the worker is expelled.

        Raises SettingsError at the third expulsion in a minute: two workers of one name would take each other's
        partitions repeatedly.
        """
        if self._committing is not None:
            self._committing.cancel()  # aiokafka would retry it as a member of the next generation
        try:
            rejection = await asyncio.wait_for(
                self.store(consumer, self._assigned.due_commits(unchanged=True)), LAST_COMMIT_S
            )
        except TimeoutError:
            log.warning("the last commit before a rebalance isn't stored: the next owner reads more again")
            return
        if rejection is not None and isinstance(rejection.__cause__, UnknownMemberIdError):
            self._expelled()

    async def store(
        self, consumer: Any, wanted: dict[int, tuple[AssignedPartition, StoredCommit]]
    ) -> CommitFailedError | IllegalStateError | None:
        """Store these once all output is confirmed; returns the group's rejection, if any."""
        emitted = self._tally.emitted
        self._assigned.emitted_max = max(self._assigned.emitted_max, self.uncommitted)
        if not wanted or not await self._outbox.confirm():
            return None
        still = {
            p: (state, commit) for p, (state, commit) in wanted.items() if self._assigned.partitions.get(p) is state
        }
        if not still:
            return None
        offsets = {TopicPartition(self._topic, p): OffsetAndMetadata(*commit) for p, (_, commit) in still.items()}
        committing = self._committing = asyncio.ensure_future(consumer.commit(offsets))
        try:
            await asyncio.wait((committing,))
            if committing.cancelled():
                return None
            committing.result()
        except (CommitFailedError, IllegalStateError) as bad:
            log.info("commit rejected, a rebalance is in progress: %s", bad)
            return bad
        except KafkaError as bad:
            log.warning("commit failed (%s); it is retried", bad)
            return None
        finally:
            committing.cancel()
            if self._committing is committing:
                self._committing = None
        for state, commit in still.values():
            state.stored_commit = commit
        self._committed = max(self._committed, emitted)
        return None

    def _expelled(self) -> None:
        """The member missed its heartbeats, or another took its name."""
        now = time.monotonic()
        self._expelled_at.append(now)
        if len(self._expelled_at) == EXPELLED_MAX and now - self._expelled_at[0] < EXPELLED_S:
            raise SettingsError(
                f"the group has expelled this joiner {EXPELLED_MAX} times within {EXPELLED_S:.0f} s: another is named "
                f"{self._worker}, too. Give each its own name: THALWEG_WORKER=… thalweg run joiner --spec …"
            )
