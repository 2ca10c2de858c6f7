"""The join's output as records: of `examples` (labels, organic installs), `organic` and `histories`. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain, repeat
from typing import Final, NamedTuple

from stream.events.codec import array_head, encode
from stream.events.topics import ERASED, EXAMPLES, HISTORIES, ORGANIC
from stream.events.types import RECORD_BYTES_MAX, Erase, History, Organic
from stream.joiner.labels import HistoryChange, LabelBatch, encode_examples, user_of
from stream.log.dead_letters import Outgoing
from stream.log.protocol import partition_of

RECORD_BYTES: Final = RECORD_BYTES_MAX // 2  # so that a learner's step stays small

partition_of_user = lru_cache(65_536)(partition_of)


def history_record(change: HistoryChange, partitions: int) -> Outgoing:
    """A change of a user's history; a tombstone where an install was retracted."""
    user, item, time_ms = change.user, change.item, change.time_ms
    value = None if time_ms is None else encode(History(user, item, time_ms))
    return Outgoing(HISTORIES.name, partition_of(user, partitions), value, f"{user}\x00{item}".encode())


def ledger_record(event: Erase) -> Outgoing:
    """The record of an erased user in the topic `erased`. Compaction keeps each time: the last sent may be earlier."""
    return Outgoing(ERASED.name, 0, encode(event), f"{event.user}\x00{event.time_ms}".encode())


class OutputGroup(NamedTuple):
    """Output of some input records.

    `by_record`: of each record the end of its labels, its organic installs (`learned`: `examples` gets them, too), and
    the users that it erased.
    `other_records`: finished output records.
    """

    labels: LabelBatch | None
    by_record: Sequence[tuple[int, Sequence[Organic], Sequence[Erase]]] = ()
    learned: bool = False
    other_records: Sequence[Outgoing] = ()


def output_records(
    group: OutputGroup, partitions: Mapping[str, int], pages: list[bytes], source: int
) -> list[Outgoing]:
    """The output records of a group, in order; all labels are encoded in one call.

    `pages`: the labels' raw pages. `source`: their partition of `events`, which is the key in `examples`: a learner
    deduplicates each source's ids apart. Each input record leads to output records of its own, a large one to several.
    """
    encoded = encode_examples(group.labels, pages) if group.labels else []
    outgoing: list[Outgoing] = []
    begin, key = 0, b"%d" % source
    users: Iterable[str]
    for end, organic, erased in group.by_record:
        learned: list[Organic | Erase] = [*(organic if group.learned else ()), *erased]
        if end > begin or learned:
            events, users = encoded[begin:end], map(user_of, pages[begin:end])
            if learned:
                events, users = [*events, *map(encode, learned)], chain(users, (one.user for one in learned))
            outgoing += pack_records(EXAMPLES.name, events, users, partitions[EXAMPLES.name], key=key)
            begin = end
        if organic:
            events, users = [*map(encode, organic)], (one.user for one in organic)
            outgoing += pack_records(ORGANIC.name, events, users, partitions[ORGANIC.name])
    return [*outgoing, *group.other_records] if group.other_records else outgoing


def pack_records(
    topic: str,
    encoded: Sequence[bytes],
    users: Iterable[str],
    partitions: int,
    bytes_max: int = RECORD_BYTES,
    key: bytes | None = None,
) -> list[Outgoing]:
    """Encoded events, each in its user's partition, as records of at most `bytes_max`; a single event may be larger."""
    if partitions == 1 and sum(map(len, encoded)) <= bytes_max:
        return [_record(topic, 0, encoded, key)]
    targets = repeat(0) if partitions == 1 else (partition_of_user(user, partitions) for user in users)
    records: list[Outgoing] = []
    pending: dict[int, list[bytes]] = {}
    sizes: dict[int, int] = {}
    for raw, partition in zip(encoded, targets, strict=False):
        parts = pending.setdefault(partition, [])
        if parts and sizes[partition] + len(raw) > bytes_max:
            records.append(_record(topic, partition, parts, key))
            parts = pending[partition] = []
        sizes[partition] = len(raw) + (sizes[partition] if parts else 0)
        parts.append(raw)
    return records + [_record(topic, partition, parts, key) for partition, parts in pending.items()]


def _record(topic: str, partition: int, parts: Sequence[bytes], key: bytes | None) -> Outgoing:
    return Outgoing(topic, partition, b"".join((array_head(len(parts)), *parts)), key)
