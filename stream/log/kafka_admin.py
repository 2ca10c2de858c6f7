"""Compares declared topics with the broker's: what `thalweg apply-topics` shows, then applies."""

from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from kafka import errors
from kafka.admin import ConfigResource, ConfigResourceType, ConfigSourceType

from stream.events.topics import DAY_MS, EVENTS, EXAMPLES, FORMATS, ORGANIC, TOPICS, Topic
from stream.log.format_level import raise_level, read_level
from stream.log.kafka_client import REQUEST_S, admin_client, translated
from stream.log.kafka_log import KafkaLog
from stream.log.replication import check_brokers, in_sync, replicas_of
from stream.runtime.errors import LogError
from stream.runtime.formats import LEVEL
from stream.runtime.settings import Settings

Action = Literal["create", "alter", "leave", "refuse"]
MISSING: Final = errors.UnknownTopicOrPartitionError.errno
UNBOUNDED: Final = "-1"
IN_SYNC: Final = "min.insync.replicas"
RAISED_ONLY: Final = {"retention.ms", "max.message.bytes", IN_SYNC}  # a greater value is an operator's decision


@dataclass(frozen=True)
class Change:
    """One difference of one topic. What is kept or rejected is only shown: `message` has the reason and a remedy.

    `config` and `partitions` (0: as they are) are what will be set; `replication` matters to `create`. `id`: the
    broker's, of one that exists.
    """

    topic: str  # with the prefix
    action: Action
    message: str
    config: tuple[tuple[str, str], ...] = ()
    partitions: int = 0
    replication: int = 0
    id: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.action:<6}  {self.topic}: {self.message}"


def declared_topics(settings: Settings) -> tuple[Topic, ...]:
    """All topics, with the retention that these settings give them."""
    days = dict.fromkeys((EVENTS.name, ORGANIC.name), settings.events_days) | {EXAMPLES.name: settings.examples_days}
    return tuple(
        replace(topic, retention_ms=days[topic.name] * DAY_MS) if topic.name in days else topic for topic in TOPICS
    )


def plan_topics(settings: Settings, topics: tuple[Topic, ...] = (), *, force: bool = False) -> list[Change]:
    """The changes that make the broker's topics as declared; empty when they are. `topics`: default `declared_topics`.

    A value that an operator has raised above its declaration is left, unless `force`; so is a missing topic of a later
    format level, until the upgrade is finalized. Raises LogUnavailable, LogError, SettingsError.
    """
    declared = {settings.topic(topic.name): topic for topic in topics or declared_topics(settings)}
    with admin_client(settings, "comparing topics") as admin:
        found = {topic["name"]: topic for topic in _existing(admin, [*declared])}
        configs = _configs(admin, settings, {name: declared[name] for name in found})
        if found.keys() < declared.keys():
            check_brokers(len(admin.describe_cluster()["brokers"]), settings)
    changes: list[Change] = []
    later = {name for name, topic in declared.items() if name not in found and topic.level > 1}
    level = _level(settings) if later and settings.topic(EVENTS.name) in found else LEVEL
    for name, topic in declared.items():
        if topic.level > level:
            message = "missing until `thalweg apply-topics --finalize`: earlier releases don't know its events"
            changes.append(Change(name, "leave", message))
        elif name in found:
            changes += _differences(settings, topic, found[name]["partitions"], configs[name], force=force)
        else:
            changes.append(_creation(settings, topic))
    return changes


def _level(settings: Settings) -> int:
    with closing(KafkaLog(settings)) as log:
        return read_level(log)


def apply_topics(settings: Settings, changes: list[Change]) -> None:
    """Create and alter topics as `plan_topics` returned, and wait until new topics are ready.

    A deployment without a topic `events` is new: no earlier release runs in it, and this one's formats are written.
    Raises LogUnavailable, LogError.
    """
    new = _wanted(changes)
    alters = [change for change in changes if change.action == "alter"]
    altered = [
        ConfigResource(ConfigResourceType.TOPIC, change.topic, dict(change.config))
        for change in alters
        if change.config
    ]
    grown = {change.topic: change.partitions for change in alters if change.partitions}
    with admin_client(settings, "changing topics") as admin:
        if new:
            _create(admin, new)
        if altered:
            for topic, said in admin.alter_configs(altered)["topic"].items():
                if said != "OK":
                    raise LogError(f"Kafka won't change {topic}: {said}")
        if grown:
            admin.create_partitions(grown, timeout_ms=int(REQUEST_S * 1000))
    if {settings.topic(topic.name) for topic in (EVENTS, FORMATS)} <= new.keys():
        with closing(KafkaLog(settings)) as log:
            raise_level(log)


def create_topics(settings: Settings, changes: list[Change]) -> None:
    """Create these topics, and wait until they are ready. Raises LogUnavailable, LogError."""
    if changes:
        with admin_client(settings, "creating topics") as admin:
            _create(admin, _wanted(changes))


def describe_topics(settings: Settings, topics: tuple[Topic, ...] = TOPICS) -> list[Change]:
    """What creates the broker's topics as they are; missing ones are left out. Raises LogUnavailable, LogError."""
    with admin_client(settings, "describing topics") as admin:
        with translated(settings, "asking for topics"):
            found = _existing(admin, [settings.topic(topic.name) for topic in topics])
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic["name"]) for topic in found]
        configs = _described(admin, settings, resources)
    changed = {
        name: sorted(
            (key, entry["value"])
            for key, entry in config.items()
            if ConfigSourceType[entry["config_source"]].is_modified()
        )
        for name, config in configs.items()
    }
    return [
        Change(
            topic["name"], "create", "",
            tuple(changed[topic["name"]]),
            len(topic["partitions"]), min(len(partition["replica_nodes"]) for partition in topic["partitions"]),
            str(topic.get("topic_id") or ""),
        )
        for topic in found
    ]  # fmt: skip


def _described(admin: Any, settings: Settings, resources: list[ConfigResource]) -> dict[str, dict[str, dict[str, str]]]:
    """The settings of topics. kafka-python gives none where the broker denies them (3.0.12)."""
    found = admin.describe_configs(resources, config_filter="all")["topic"] if resources else {}
    with translated(settings, "describing topics"):
        for name, config in found.items():
            if not config:
                raise errors.TopicAuthorizationFailedError(name)
    return found


def _existing(admin: Any, names: list[str]) -> list[dict[str, Any]]:
    """What the broker says of these topics, as far as there are any. Raises what it denies."""
    found = [topic for topic in admin.describe_topics(names) if topic["error_code"] != MISSING]
    for topic in found:
        if topic["error_code"]:
            raise errors.for_code(topic["error_code"])(topic["name"])
    return found


def drop_topics(settings: Settings, topics: tuple[Topic, ...] = TOPICS) -> None:
    """Delete topics with all their records; missing ones are skipped. Raises LogUnavailable, LogError."""
    with admin_client(settings, "removing topics") as admin:
        names = [settings.topic(topic.name) for topic in topics]
        existing = [topic["name"] for topic in admin.describe_topics(names) if topic["error_code"] != MISSING]
        if existing:
            admin.delete_topics(existing, timeout_ms=int(REQUEST_S * 1000))


def _wanted(changes: list[Change]) -> dict[str, dict[str, Any]]:
    return {
        change.topic: {
            "num_partitions": change.partitions,
            "replication_factor": change.replication,
            "configs": dict(change.config),
        }
        for change in changes
        if change.action == "create"
    }


def _create(admin: Any, new: dict[str, dict[str, Any]]) -> None:
    done = admin.create_topics(new, timeout_ms=int(REQUEST_S * 1000), raise_errors=False)
    for topic in done["topics"]:
        # One that another process has just created is as good; the next plan compares it.
        if topic["error_code"] not in (0, errors.TopicAlreadyExistsError.errno):
            why = topic["error_message"] or errors.for_code(topic["error_code"]).__name__
            raise LogError(f"Kafka won't create {topic['name']}: {why}")
    admin.wait_for_topics(list(new))


def _creation(settings: Settings, topic: Topic) -> Change:
    partitions, replicas = _partitions(settings, topic), replicas_of(settings)
    config = topic.config(in_sync(settings, replicas))
    message = f"{partitions} partitions, replication {replicas}; " + ", ".join(
        f"{key}={value}" for key, value in config.items()
    )
    return Change(settings.topic(topic.name), "create", message, tuple(config.items()), partitions, replicas)


def _partitions(settings: Settings, topic: Topic) -> int:
    return topic.partitions or (settings.rank_partitions if topic.grows else 0) or settings.partitions


def _differences(
    settings: Settings, topic: Topic, partitions: list[dict[str, Any]], config: dict[str, str], *, force: bool
) -> list[Change]:
    name = settings.topic(topic.name)
    changes: list[Change] = []
    replicas = min(len(partition["replica_nodes"]) for partition in partitions)
    declared = topic.config(min(replicas, in_sync(settings, replicas_of(settings))))
    differing = {key: value for key, value in declared.items() if config.get(key) != value}
    raised = [key for key, value in differing.items() if _is_raised(key, config.get(key), value, replicas)]
    for key in [] if force else raised:
        message = f"{key} stays {config[key]}, above the declared {differing.pop(key)}; --force lowers it"
        changes.append(Change(name, "leave", message))
    if differing:
        message = ", ".join(f"{key}: {config.get(key)} -> {value}" for key, value in differing.items())
        changes.append(Change(name, "alter", message, tuple(differing.items())))
    changes += _partition_changes(name, topic, len(partitions), _partitions(settings, topic))
    if replicas != (wanted := replicas_of(settings)):
        message = (
            f"has {replicas} replicas, {wanted} are declared; move replicas with "
            f"kafka-reassign-partitions, or set THALWEG_REPLICATION={replicas}"
        )
        changes.append(Change(name, "refuse", message))
    return changes


def _partition_changes(name: str, topic: Topic, found: int, wanted: int) -> list[Change]:
    """What is done about the number of a topic's partitions: more are added where no order is lost."""
    has = f"has {found} partitions, {wanted} are declared"
    if found == wanted:
        return []
    if topic.grows and found < wanted:
        message = f"partitions: {found} -> {wanted}; then restart rankers, and after them callers"
        return [Change(name, "alter", message, partitions=wanted)]
    if topic.grows:
        return [Change(name, "refuse", f"{has}; Kafka removes none: set THALWEG_RANK_PARTITIONS={found}")]
    if topic.partitions:
        return [Change(name, "refuse", f"{has}; recreate the topic")]
    return [
        Change(
            name,
            "refuse",
            f"{has}; keys would move to other partitions and each user's order would break. Keep it "
            f"(THALWEG_PARTITIONS={found}), or make topics under another THALWEG_TOPIC_PREFIX with {wanted}, replay "
            "the events into them (docs/clusters.md), and move producers and rooms there",
        )
    ]


def _is_raised(key: str, now: str | None, declared: str, replicas: int) -> bool:
    """Whether a value is above the declared one. More in sync than there are replicas doesn't count: writes would fail.

    >>> [_is_raised("retention.ms", now, "7", 1) for now in ("8", "7", "6", "-1", None)]
    [True, False, False, True, False]
    >>> [_is_raised("min.insync.replicas", "2", "1", replicas) for replicas in (3, 1)]
    [True, False]
    """
    if key not in RAISED_ONLY or now is None or (key == IN_SYNC and int(now) > replicas):
        return False
    return now == UNBOUNDED or int(now) > int(declared)


def _configs(admin: Any, settings: Settings, topics: dict[str, Topic]) -> dict[str, dict[str, str]]:
    """The settings in force, by topic and key."""
    if not topics:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, t.config()) for name, t in topics.items()]
    found = _described(admin, settings, resources)
    return {name: {key: entry["value"] for key, entry in config.items()} for name, config in found.items()}
