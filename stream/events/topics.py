"""The declaration of every topic: partitions, retention, compaction."""

from dataclasses import dataclass

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
# Without a bound Kafka keeps what a tombstone or a newer record has replaced until half of a partition is replaced.
COMPACTION_MS = 7 * DAY_MS


@dataclass(frozen=True)
class Topic:
    """A declared topic. `partitions` 0 means the setting `partitions`, or `rank_partitions` where it `grows`.

    Partitions may be added to a topic that `grows`: its records have no order by key.

    A topic that isn't `compacted` retains records for `retention_ms`; so does a compacted one that `expires`.
    `level`: the format level (`stream/log/format_level.py`) from which it is created, and without it nobody writes the
    events that belong to it. `tombstones_ms`: how long a compacted topic retains tombstones; 0: the broker's default.
    """

    name: str
    partitions: int = 0
    compacted: bool = False
    retention_ms: int = 7 * DAY_MS
    tombstones_ms: int = 0
    expires: bool = False
    level: int = 1
    grows: bool = False

    def config(self, in_sync: int = 1) -> dict[str, str]:
        """Kafka's topic configuration. Ingest time is the broker's own clock: LogAppendTime.

        A record is acknowledged once `in_sync` replicas have it, or more: all that are in sync.
        """
        policies = {"compact": self.compacted, "delete": self.expires or not self.compacted}
        config = {
            "cleanup.policy": ",".join(policy for policy, holds in policies.items() if holds),
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(2 * 1024 * 1024),
            "min.insync.replicas": str(in_sync),
        }
        if policies["delete"]:
            config["retention.ms"] = str(self.retention_ms)
        if self.compacted:
            config["max.compaction.lag.ms"] = str(COMPACTION_MS)
        if self.tombstones_ms:
            config["delete.retention.ms"] = str(self.tombstones_ms)
        return config


EVENTS = Topic("events")  # pages that users saw, installs, ticks; keyed by user
EXAMPLES = Topic("examples", partitions=1)  # labelled examples; one partition per learner shard
ORGANIC = Topic("organic")  # installs that no page claimed, where the spec wants them; keyed by user
REQUESTS = Topic("rank.requests", retention_ms=HOUR_MS, grows=True)  # ranking requests
REPLIES = Topic("rank.replies", retention_ms=HOUR_MS, grows=True)  # ranked lists
# Tombstones outlive the learner's memory of shown items: a ranker that starts doesn't retrieve deleted ones.
ITEMS = Topic("items", compacted=True, tombstones_ms=30 * DAY_MS)  # static attributes of items
# A joiner that was away for as long still learns who was deleted, and deletes the copy in Redis.
USERS = Topic("users", compacted=True, tombstones_ms=30 * DAY_MS)  # static attributes of users
FORMATS = Topic("formats", partitions=1, compacted=True)  # which release's formats are written
HISTORIES = Topic("histories", compacted=True)  # what each user installed; one record per user and item
# Which users were erased, and when: replayed after a restore. Rooms of release 0.2 don't know the event.
ERASED = Topic("erased", partitions=1, compacted=True, level=2)
# Rankers write a value again every day that it's in use: what is older than the topic's retention isn't.
NAMES = Topic("feature.names", partitions=1, compacted=True, retention_ms=30 * DAY_MS, expires=True)
EVENTS_DLQ = Topic("events.dlq", partitions=1)  # what the joiner rejected
EXAMPLES_DLQ = Topic("examples.dlq", partitions=1)  # what the learner rejected
REQUESTS_DLQ = Topic("rank.requests.dlq", partitions=1)  # requests that a ranker rejected
# Rankers reject the same items at every start: the copies of a dead letter have one key, compaction keeps one.
ITEMS_DLQ = Topic("items.dlq", partitions=1, compacted=True)  # items that rankers rejected
USERS_DLQ = Topic("users.dlq", partitions=1, compacted=True)  # users that joiners rejected

TOPICS = (
    EVENTS, EXAMPLES, ORGANIC, REQUESTS, REPLIES, ITEMS, USERS, HISTORIES, NAMES, ERASED, FORMATS,
    EVENTS_DLQ, EXAMPLES_DLQ, REQUESTS_DLQ, ITEMS_DLQ, USERS_DLQ,
)  # fmt: skip
DEAD_LETTERS = {topic.name.removesuffix(".dlq"): topic for topic in TOPICS if topic.name.endswith(".dlq")}
