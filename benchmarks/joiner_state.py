"""A joiner's local state made without Kafka, and the commit that it belongs to, where a joiner keeps local state."""

from collections.abc import Sequence
from typing import Final

from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata

from benchmarks.joiner_world import PARTITIONS
from stream.events.codec import encode_record
from stream.events.topics import EVENTS
from stream.joiner.commit_metadata import Progress, encode_metadata, join_identity
from stream.joiner.faust_service import state_folder
from stream.joiner.join import Joiner, RestartPoint
from stream.joiner.label_rules import LabelRules
from stream.joiner.state_store import StateStore
from stream.log.kafka_client import client_options
from stream.log.kafka_groups import group_commits
from stream.log.kafka_log import KafkaLog
from stream.runtime.settings import Settings

GROUP: Final = "joiner"


def prepare_state(settings: Settings, rules: LabelRules, joins: Sequence[Joiner], records: int) -> None:
    """Save the state of these joins, one a partition, as a joiner with these settings would have saved it.

    Afterwards a joiner that starts with `settings` and `rules` finds its state under `settings.local`, a log whose
    ends are the offsets that the joins have read to (record n of `records` went to partition n % PARTITIONS at offset
    n // PARTITIONS; their content isn't read again), and the commit that belongs to both.
    """
    write_log(settings, records)
    ends = {p: (records - p - 1) // PARTITIONS + 1 for p in range(len(joins))}
    restart_points = {p: join.restart_point(ends[p]) for p, join in enumerate(joins)}
    for p, join in enumerate(joins):
        store = StateStore(state_folder(settings, p), join_identity(rules, ""))
        store.write(store.capture(join.state, ends[p]))
    write_commit(settings, rules, restart_points, ends)


def write_log(settings: Settings, records: int) -> None:
    """This number of empty records in `events`."""
    log = KafkaLog(settings, linger_ms=5)
    for n in range(records):
        log.send(EVENTS.name, n % PARTITIONS, encode_record([]))
    log.flush(60)
    log.close()


def write_commit(
    settings: Settings, rules: LabelRules, restart_points: dict[int, RestartPoint], confirmed: dict[int, int]
) -> None:
    """Commit these as the joiner's group, which has no member now."""
    offsets = {
        TopicPartition(settings.topic(EVENTS.name), p): OffsetAndMetadata(
            one.offset, encode_metadata(one, rules, "", Progress(confirmed[p])), -1
        )
        for p, one in restart_points.items()
    }
    consumer = KafkaConsumer(**client_options(settings), group_id=settings.topic(GROUP), enable_auto_commit=False)
    try:
        consumer.assign(list(offsets))
        consumer.commit(offsets)
    finally:
        consumer.close()


def commit_of(settings: Settings) -> dict[int, tuple[int, str]]:
    """The commits of the joiner's group: offset and metadata by partition."""
    return group_commits(settings, GROUP, EVENTS.name)
