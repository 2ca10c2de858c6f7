"""Processes, cores, memory, disk and network of each room for a load."""

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Final, NamedTuple

from learner.memory import learner_needs
from ranker.memory import ITEMS, ranker_needs
from stream.events.topics import DAY_MS
from stream.joiner.assigned_partitions import PROCESS_BYTES
from stream.joiner.kernels.pages import page_bytes
from stream.joiner.label_rules import label_rules
from stream.log.replication import REPLICAS
from stream.runtime.memory import JOINER_MB_MIN, JOINER_SHARE, MB
from stream.runtime.settings import Settings
from stream.snapshots.part_sizes import base_bytes_of, part_sizes
from stream.snapshots.redis_memory import BASES
from stream.snapshots.retrieval_rows import RETRIEVAL_PART
from stream.spec.spec import Spec
from stream.spec.values import duration_ms
from thalweg.sizing import costs, wire
from thalweg.sizing.keys import Keys, bounded, keys_of
from thalweg.sizing.load import Load
from thalweg.sizing.work import Work, layers, work_of
from thalweg.text.retention import needed_ms

RANKERS_MIN: Final = 2  # one may fail
BROKER_CORES: Final = 4  # of one broker, at most
MERGED_EVERY: Final = 64  # versions
MERGED_SHARE: Final = 0.25  # of a base, at most
CHECKPOINTS: Final = 4  # as large as a base: two chains of a base and increments, half as large, and a pinned one
TABLES: Final = {  # of a version's parts, by their bounds
    "wide": ("wide.max_keys",),
    "statistics": ("max_statistics", "max_likenesses"),
    "deep": ("deep.max_rows",),
    RETRIEVAL_PART: ("retrieval.kept.max_items",),
}
LEARNER_CORES: Final = 2.0  # what learns, and what decodes ahead and publishes


@dataclass(frozen=True)
class Room:
    """What a room needs in all its processes; `memory_each` is that of one, bytes."""

    name: str
    processes: int
    cores: float
    memory_each: int
    disk: int = 0
    in_bytes_s: float = 0.0
    out_bytes_s: float = 0.0

    @property
    def memory(self) -> int:
        """Of all processes, bytes."""
        return self.processes * self.memory_each


class SizePlan(NamedTuple):
    """What a load needs. `models`: into how many of the same kind its users must be split; `rooms` are of all of them,
    and `keys` of each. `learner_pages_s`: pages a second that one learner can learn.
    """

    rooms: list[Room]
    keys: dict[str, Keys]
    models: int
    partitions: int
    learner_pages_s: float
    example_us: float
    request_us: float
    event_bytes: float
    open_pages: int
    replication: int
    events_days: int


def plan_for(spec: Spec, load: Load, settings: Settings) -> SizePlan:
    """The rooms for a load. Raises SpecError."""
    learner_pages_s = pages_s_of_learner(spec, load)
    models = _models(spec, load, settings)
    part = wire.share_of(load, models)
    keys = keys_of(spec, part, part.seconds)
    fitting = bounded(spec, keys)
    joiners, open_pages = _joiners(spec, part)
    partitions = max(settings.partitions, 1 << (2 * joiners.processes - 1).bit_length())
    settings = settings.model_copy(update={"partitions": partitions})
    rankers = _rankers(fitting, part)
    learner = Room(
        "learner", 1, LEARNER_CORES, learner_needs(fitting, settings).most, CHECKPOINTS * _checkpoint_bytes(fitting),
        wire.example_bytes(spec, part) * part.pages_s, version_bytes_s(fitting, part),
    )  # fmt: skip
    rooms = [_times(room, models) for room in (joiners, learner, rankers, _redis(fitting, part, settings, rankers))]
    return SizePlan(
        rooms=[*rooms, _kafka(spec, load, settings)],
        keys=keys,
        models=models,
        partitions=partitions,
        learner_pages_s=learner_pages_s,
        example_us=example_us(spec, load),
        request_us=request_us(spec),
        event_bytes=wire.event_bytes(spec, load),
        open_pages=models * open_pages,
        replication=settings.replication or REPLICAS,
        events_days=_events_days(spec, settings),
    )


def _models(spec: Spec, load: Load, settings: Settings) -> int:
    """As few as one learner and one Redis, which has one thread, can serve each."""

    def redis_serves(models: int) -> bool:
        part = wire.share_of(load, models)
        return _redis(spec, part, settings, _rankers(spec, part)).cores <= 1

    least = most = math.ceil(load.pages_s / pages_s_of_learner(spec, load))
    while not redis_serves(most) and load.pages_s > most:
        most *= 2
    return bisect_left(range(most), True, lo=least, key=redis_serves)


def example_us(spec: Spec, load: Load) -> float:
    """CPU time of an example for the thread that learns."""
    return costs.us_of(learned(spec, load), costs.LEARNED_US)


def pages_s_of_learner(spec: Spec, load: Load) -> float:
    """Pages a second that one learner can learn."""
    return costs.USED * 1e6 / (example_us(spec, load) * wire.examples_s(spec, load) / load.pages_s)


def learned(spec: Spec, load: Load) -> Work:
    """The work of an example on average: of negatives that aren't sampled, only statistics move."""
    work, label = work_of(spec, load), spec.label
    share = load.installs_share + (1 - load.installs_share) * label.sample_negatives
    return Work(1.0, work.wide_keys * share, work.statistics_rows, work.embedding_values * share, work.weights * share)


def request_us(spec: Spec) -> float:
    """CPU time of a request over HTTP. The first layer is mostly kept from request to request."""
    behind = 2 * sum(layers(spec)[1:]) / costs.FLOPS_US
    return costs.REQUEST_US + spec.retrieval.count * (costs.CANDIDATE_US + behind)


def _times(room: Room, models: int) -> Room:
    return Room(
        room.name, models * room.processes, models * room.cores, room.memory_each, models * room.disk,
        models * room.in_bytes_s, models * room.out_bytes_s,
    )  # fmt: skip


def open_page_bytes(items: int) -> float:
    """Of an open page in a joiner."""
    return costs.OPEN_PAGE_SHARE * float(page_bytes(items))


def _joiners(spec: Spec, load: Load) -> tuple[Room, int]:
    """And the pages that are open or can be corrected."""
    rules = label_rules(spec)
    open_pages = math.ceil(load.pages_s * (rules.life_ms + rules.lateness_ms) / 1_000)
    us = costs.RECORD_US / load.record_pages + costs.PAGE_US * max(1.0, load.page_items / costs.PAGE_ITEMS)
    cores = load.pages_s * us / 1e6 / costs.USED
    processes = math.ceil(cores)
    state = open_pages * open_page_bytes(load.page_items)
    each = max(JOINER_MB_MIN * MB, PROCESS_BYTES + Settings().joiner_bodies_mb * MB + state / processes)
    events, examples = (of(spec, load) * load.pages_s for of in (wire.event_bytes, wire.example_bytes))
    return Room("joiner", processes, processes, int(each / JOINER_SHARE), int(state), events, examples), open_pages


def _rankers(spec: Spec, load: Load) -> Room:
    busy = load.pages_s * request_us(spec) / 1e6 / costs.USED
    processes = max(RANKERS_MIN, math.ceil(busy))
    versions_s = 1_000 / duration_ms(spec.publish.every)
    cores = max(busy, processes) + processes * versions_s * costs.VERSION_US / 1e6
    memory = ranker_needs(spec, max(ITEMS, load.items)).most
    answers = wire.event_bytes(spec, load) * load.pages_s
    bytes_s = version_bytes_s(spec, load) * processes
    return Room("ranker", processes, cores, memory, processes * base_bytes_of(spec), bytes_s, answers)


def _kafka(spec: Spec, load: Load, settings: Settings) -> Room:
    """Producers' pages and labels' pages, each read once; replicas are further brokers."""
    copies = settings.replication or REPLICAS
    events, examples = (of(spec, load) * load.pages_s for of in (wire.event_bytes, wire.example_bytes))
    retained = DAY_MS * (events * _events_days(spec, settings) + examples * settings.examples_days)
    written, sent = copies * (events + examples), copies * (events + examples)
    cores = (written + sent) / costs.BROKER_BYTES_S / costs.USED
    brokers = max(copies, math.ceil(cores / BROKER_CORES))
    return Room(
        "Kafka", brokers, max(brokers, cores), costs.BROKER_MEMORY, int(copies * retained / 1_000), written, sent
    )


def _events_days(spec: Spec, settings: Settings) -> int:
    """How long Kafka keeps pages: as set, and as long as a joiner needs them."""
    return max(settings.events_days, needed_ms(label_rules(spec)) // DAY_MS + 1)


def _redis(spec: Spec, load: Load, settings: Settings, rankers: Room) -> Room:
    memory = profile_bytes(load) + versions_bytes(spec, load, settings)
    profiles = load.pages_s * (costs.USER_BYTES + costs.HISTORY_ITEM_BYTES * load.history)
    bytes_s = rankers.in_bytes_s + profiles
    cores = (load.pages_s * costs.READ_US / 1e6 + bytes_s / costs.REDIS_BYTES_S) / costs.USED
    return Room("Redis", 1, max(1.0, cores), int(memory), 0, version_bytes_s(spec, load), bytes_s)


def user_bytes(history: float) -> float:
    """Of a user in Redis."""
    each = costs.HISTORY_ITEM_BYTES if history <= costs.PACKED_ITEMS else costs.LOOSE_ITEM_BYTES
    return costs.USER_BYTES + (costs.HISTORY_BYTES + each * history if history else 0)


def profile_bytes(load: Load) -> float:
    """Of all users in Redis."""
    return load.users * user_bytes(load.history)


def versions_bytes(spec: Spec, load: Load, settings: Settings) -> float:
    """Of all versions that are retained, while Redis isn't nearly full: bases, merged deltas, small ones."""
    kept, base = settings.keep_versions, base_bytes_of(spec)
    small = kept * version_bytes_s(spec, load) * duration_ms(spec.publish.every) / 1_000
    return BASES * base + kept / MERGED_EVERY * MERGED_SHARE * base + small


def version_bytes_s(spec: Spec, load: Load) -> float:
    """Bytes a second of the versions' deltas: rows that examples touch between two, and dense layers."""
    sizes, found = part_sizes(spec), 0.0
    if "deep" in sizes:
        found = 4 * sum(layers(spec)) * 1_000 / duration_ms(spec.publish.deep_every)
    for name, part in sizes.items():
        every = spec.publish.deep_every if name == "deep" else spec.publish.every
        seconds = duration_ms(every) / 1_000
        touched = keys_of(spec, load, seconds)
        found += sum(touched[table].kept for table in TABLES[name] if table in touched) * part.row_bytes / seconds
    return found


def _checkpoint_bytes(spec: Spec) -> int:
    """Of a base: 16 bytes and a stamp a wide key, sums beside embeddings' vectors."""
    return base_bytes_of(spec) + 8 * spec.wide.max_keys + 4 * spec.deep.embedding_dim * spec.deep.max_rows
