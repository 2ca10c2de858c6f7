"""Stores a worker's commits in its group, and notices when the group doesn't know the worker any more."""

import asyncio
import logging
import time
from collections import deque
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError, UnknownMemberIdError
from aiokafka.structs import OffsetAndMetadata

from stream.joiner.assigned_partitions import Assigned, AssignedPartitions, StoredCommit
from stream.joiner.metrics import Tally
from stream.joiner.outbox import Outbox
from stream.runtime.errors import SettingsError

EXPELLED_MAX: Final = 3  # times in
EXPELLED_S: Final = 60.0  # that who has a name of its own isn't
LAST_S: Final = 5.0

log = logging.getLogger(__name__)


class CommitWriter:
    """Of one worker, named `worker`, on `topic`; `tally` counts what it emits."""

    def __init__(self, topic: str, worker: str, assigned: AssignedPartitions, outbox: Outbox, tally: Tally) -> None:
        self._topic = topic
        self._worker = worker
        self._assigned = assigned
        self._outbox = outbox
        self._tally = tally
        self._committed = 0  # of the examples emitted
        self._committing: asyncio.Future[None] | None = None
        self._expelled_at: deque[float] = deque(maxlen=EXPELLED_MAX)

    @property
    def uncommitted(self) -> int:
        """How many examples were emitted that no stored commit covers: a kill now has them emitted again."""
        return self._tally.emitted - self._committed

    async def store_last(self, consumer: Any) -> None:
        """The last commit of partitions that go, in any case: whether it is taken tells whether the group knows us.

        Raises SettingsError where it doesn't for the third time in a minute: two of one name would take each other's
        partitions for ever.
        """
        if self._committing is not None:
            self._committing.cancel()  # aiokafka would try it again as a member of the next generation
        try:
            refusal = await asyncio.wait_for(self.store(consumer, self._assigned.unstored(all_of_them=True)), LAST_S)
        except TimeoutError:
            log.warning("the last commit before a rebalance isn't stored: whoever comes next reads more again")
            return
        if refusal is not None and isinstance(refusal.__cause__, UnknownMemberIdError):
            self._expelled()

    async def store(
        self, consumer: Any, wanted: dict[int, tuple[Assigned, StoredCommit]]
    ) -> CommitFailedError | IllegalStateError | None:
        """Store these once everything that was put out is confirmed; returns why the group refused, if it did."""
        emitted = self._tally.emitted
        if not wanted or not await self._outbox.confirm():
            return None
        still = {p: (owned, commit) for p, (owned, commit) in wanted.items() if self._assigned.owned.get(p) is owned}
        if not still:
            return None
        offsets = {
            TopicPartition(self._topic, partition): OffsetAndMetadata(*commit)
            for partition, (_, commit) in still.items()
        }
        committing = self._committing = asyncio.ensure_future(consumer.commit(offsets))
        try:
            await asyncio.wait((committing,))
            if committing.cancelled():
                return None
            committing.result()
        except (CommitFailedError, IllegalStateError) as bad:
            log.info("commit refused, the partitions are changing hands: %s", bad)
            return bad
        except KafkaError as bad:
            log.warning("commit failed (%s); it is tried again", bad)
            return None
        finally:
            committing.cancel()
            if self._committing is committing:
                self._committing = None
        for owned, commit in still.values():
            owned.stored = commit
        self._committed = max(self._committed, emitted)
        return None

    def _expelled(self) -> None:
        """The member was silent for too long, or another took its name."""
        now = time.monotonic()
        self._expelled_at.append(now)
        if len(self._expelled_at) == EXPELLED_MAX and now - self._expelled_at[0] < EXPELLED_S:
            raise SettingsError(
                f"the group has let this joiner go {EXPELLED_MAX} times within {EXPELLED_S:.0f} s: another is named "
                f"{self._worker}, too. Give each its own name: THALWEG_WORKER=… thalweg run joiner --spec …"
            )
