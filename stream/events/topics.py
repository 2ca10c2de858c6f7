"""Every topic, declared once: partitions, retention, compaction."""

from dataclasses import dataclass

HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Topic:
    """A topic as it should be. `partitions` 0 means the setting `partitions`.

    `tombstones_ms`: how long a compacted topic keeps the record that takes a key back; 0: as the broker does.
    """

    name: str
    says: str
    partitions: int = 0
    compacted: bool = False
    retention_ms: int = 7 * 24 * HOUR_MS
    tombstones_ms: int = 0

    def config(self, replication: int = 1) -> dict[str, str]:
        """Kafka's topic configuration. Ingest time is the broker's own clock: LogAppendTime.

        A record counts as written once all but one of its replicas have it.
        """
        config = {
            "cleanup.policy": "compact" if self.compacted else "delete",
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(2 * 1024 * 1024),
            "min.insync.replicas": str(max(1, replication - 1)),
        }
        if not self.compacted:
            config["retention.ms"] = str(self.retention_ms)
        if self.tombstones_ms:
            config["delete.retention.ms"] = str(self.tombstones_ms)
        return config


EVENTS = Topic("events", "pages that users saw, installs, ticks; keyed by user")
EXAMPLES = Topic("examples", "labelled examples; one partition per learner shard", partitions=1)
ORGANIC = Topic("organic", "installs that no page claimed, where the spec wants them; keyed by user")
REQUESTS = Topic("rank.requests", "ranking requests", retention_ms=HOUR_MS)
REPLIES = Topic("rank.replies", "ranked lists", retention_ms=HOUR_MS)
# Longer than a learner remembers that an item was shown: what was taken back isn't retrieved by a ranker that starts.
ITEMS = Topic("items", "static attributes of items", compacted=True, tombstones_ms=30 * 24 * HOUR_MS)
USERS = Topic("users", "static attributes of users", compacted=True)
HISTORIES = Topic("histories", "what each user installed; one record per user and item", compacted=True)
EVENTS_DLQ = Topic("events.dlq", "what the joiner could not take", partitions=1)
EXAMPLES_DLQ = Topic("examples.dlq", "what the learner could not take", partitions=1)
REQUESTS_DLQ = Topic("rank.requests.dlq", "requests that a ranker could not take", partitions=1)
# Every ranker meets a bad record of these at every start: copies of a letter have one key, compaction keeps one.
ITEMS_DLQ = Topic("items.dlq", "items that rankers could not take", partitions=1, compacted=True)
USERS_DLQ = Topic("users.dlq", "users that rankers could not take", partitions=1, compacted=True)

TOPICS = (
    EVENTS, EXAMPLES, ORGANIC, REQUESTS, REPLIES, ITEMS, USERS, HISTORIES,
    EVENTS_DLQ, EXAMPLES_DLQ, REQUESTS_DLQ, ITEMS_DLQ, USERS_DLQ,
)  # fmt: skip
DEAD_LETTERS = {
    EVENTS.name: EVENTS_DLQ,
    EXAMPLES.name: EXAMPLES_DLQ,
    REQUESTS.name: REQUESTS_DLQ,
    ITEMS.name: ITEMS_DLQ,
    USERS.name: USERS_DLQ,
}
