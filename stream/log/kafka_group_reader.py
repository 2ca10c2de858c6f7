"""A reader of a group member's share of a topic on Kafka: it joins, commits without waiting, and leaves at its end."""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from kafka import errors
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import OffsetAndMetadata, TopicPartition

from stream.log.kafka_client import REQUEST_S, with_timeout
from stream.log.kafka_reader import KafkaReader
from stream.log.protocol import Record, fenced_member
from stream.runtime.formats import CLIENT_ID
from stream.runtime.settings import Settings

STOCK_SESSION_MS: Final = 6_000  # the shortest session that a broker allows by default
HEARTBEATS: Final = 20  # a session; a rebalance waits until each member's next one
REBALANCE_MS: Final = 10_000  # how long a rebalance waits for a member that is alive but doesn't poll
LOST: Final = errors.CommitFailedError, errors.RebalanceInProgressError  # partitions were revoked

log = logging.getLogger(__name__)


class KafkaGroupReader(KafkaReader):
    """Reads the partitions assigned to a group member. One thread only.

    It is static: restarted within its session, it gets its partitions back at once. `close` leaves the group, so that
    others get them at once. In a rebalance it keeps the partitions that don't move, and goes on where it was.
    """

    def __init__(self, settings: Settings, topic: str, group: str, member: str) -> None:
        self._group, self._member = settings.topic(group), member
        self._committed: dict[int, int] = {}
        self._pending: tuple[Any, dict[int, int]] | None = None  # the commit in flight
        self._join(settings, topic, settings.ranker_session_ms)

    def poll(self, timeout_s: float, records_max: int = 500) -> list[Record]:
        """Records in offset order per partition; empty after `timeout_s`."""
        try:
            return super().poll(timeout_s, records_max)
        finally:
            coordinator = self._consumer._coordinator
            join = coordinator._join_task
            if join is not None and not isinstance(join, _Join):
                coordinator._join_task = _Join(join)

    def assigned(self) -> frozenset[int]:
        """The partitions that are assigned now."""
        return frozenset(tp.partition for tp in self._consumer.assignment())

    def commit(self, positions: Mapping[int, int], timeout_s: float = REQUEST_S) -> None:
        """Store the next offset to be read, per partition that is still this member's; waits for the broker."""
        try:
            self._consumer.commit(self._offsets(positions), timeout_ms=timeout_s * 1000)
        except LOST:
            return  # their next owner reads again from the last commit
        except errors.KafkaError as bad:
            self._explain(bad)

    def commit_async(self, positions: Mapping[int, int]) -> None:
        """`commit` without waiting; does nothing while an earlier one is pending. Raises what the broker refused."""
        if self._pending is not None and not self._settle():
            return
        assigned = self.assigned()
        self._committed = {p: offset for p, offset in self._committed.items() if p in assigned}
        due = {p: offset for p, offset in positions.items() if p in assigned and self._committed.get(p) != offset}
        if due:
            self._pending = self._consumer.commit_async(self._offsets(due), callback=_ignore), due

    def _settle(self) -> bool:
        """Whether the pending commit is over. What may succeed later isn't an error: the next commit contains it."""
        assert self._pending is not None, "nothing is pending"
        future, positions = self._pending
        if not future.is_done:
            return False
        self._pending = None
        if future.succeeded():
            self._committed.update(positions)
        elif not isinstance(future.exception, (*LOST, errors.RetriableError, OSError)):
            self._explain(future.exception)
        return True

    def _offsets(self, positions: Mapping[int, int]) -> dict[TopicPartition, OffsetAndMetadata]:
        assigned = self.assigned()
        return {self._tp(p): OffsetAndMetadata(offset, "", -1) for p, offset in positions.items() if p in assigned}

    def _join(self, settings: Settings, topic: str, session_ms: int) -> None:
        self._session_ms = session_ms
        self._open(
            settings,
            topic,
            client_id=CLIENT_ID,
            group_id=self._group,
            group_instance_id=self._member,
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // HEARTBEATS,
            max_poll_interval_ms=max(REBALANCE_MS, session_ms),
            partition_assignment_strategy=(CooperativeStickyAssignor,),
        )
        coordinator = self._consumer._coordinator
        # A static member would leave its partitions unread until its session ends.
        coordinator.is_dynamic_member = lambda: True
        # Every poll asks its I/O thread for the coordinator, also a known one: a handover to that thread and back.
        find = coordinator.ensure_coordinator_ready
        coordinator.ensure_coordinator_ready = lambda timeout_ms=None: (
            not coordinator.coordinator_unknown() or find(timeout_ms)
        )
        with self._translated("joining the group"):
            self._consumer.subscribe([self._name])
            # Else the group's leader may know no partitions yet, and the first rebalance assigns none.
            with_timeout(REQUEST_S, partial(self._consumer.partitions_for_topic, self._name), late=None)

    def _explain(self, bad: Exception) -> None:
        if isinstance(bad, errors.NoOffsetForPartitionError):
            for tp in bad.args[0]:
                self._consumer.seek_to_beginning(tp)  # the group has never committed here
            return
        if isinstance(bad, errors.FencedInstanceIdError):
            raise fenced_member(self._member) from bad
        if isinstance(bad, errors.InvalidSessionTimeoutError) and self._session_ms < STOCK_SESSION_MS:
            log.warning(
                "the broker doesn't allow a session of %d ms: it is %d ms, which the partitions of a ranker that "
                "dies wait; set the broker's group.min.session.timeout.ms lower, or THALWEG_RANKER_SESSION_MS higher",
                self._session_ms, STOCK_SESSION_MS,
            )  # fmt: skip
            self.close()
            self._join(self._settings, self._topic, STOCK_SESSION_MS)
            return
        super()._explain(bad)


class _Join:
    """The future of a join that the next poll waits for again.

    kafka-python drops a join that is done between two polls, and starts another (3.0.12). So two members that poll in
    turns may never join.
    """

    is_done = False

    def __init__(self, join: Any) -> None:
        self.add_callback, self.add_errback = join.add_callback, join.add_errback


def _ignore(offsets: object, outcome: object) -> None:
    """kafka-python would log the outcome, which the commit's future has."""
