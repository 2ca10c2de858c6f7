"""Topics as the broker has them, for a backup, and as a backup has them, for a new broker."""

from collections.abc import Sequence

from learner.backup.backup_manifest import StoredTopic
from stream.log.kafka_admin import Change, create_topics, describe_topics
from stream.runtime.settings import Settings


def stored_topics(settings: Settings) -> list[StoredTopic]:
    """All that exist, without the prefix. Raises LogUnavailable, LogError."""
    return [
        StoredTopic(
            one.topic.removeprefix(settings.topic_prefix), one.partitions, one.replication, dict(one.config), one.id
        )
        for one in describe_topics(settings)
    ]  # fmt: skip


def create_stored(settings: Settings, topics: Sequence[StoredTopic]) -> None:
    """Create these. Raises LogUnavailable, LogError."""
    changes = [
        Change(settings.topic(one.name), "create", "", tuple(one.config.items()), one.partitions, one.replication)
        for one in topics
    ]
    create_topics(settings, changes)
