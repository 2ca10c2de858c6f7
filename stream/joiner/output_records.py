"""What the join says as records: labels and organic installs of `examples`, those of `organic`, histories. Pure."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from stream.dead_letters import Outgoing
from stream.events import RECORD_BYTES_MAX, History, Organic, encode
from stream.joiner.join_state import Installed
from stream.joiner.labels import HEAD, LabelBatch, array_head, columns_of, examples_bytes
from stream.log import partition_of
from stream.topics import EXAMPLES, HISTORIES, ORGANIC

EXAMPLES_BYTES_MAX: Final = RECORD_BYTES_MAX // 2  # of one record, so that a learner's step stays small

partition_of_user = lru_cache(65_536)(partition_of)


def history_record(installed: Installed, partitions: int) -> Outgoing:
    """What an install, or its retraction, makes of the user's history."""
    user, item, time_ms, _ = installed
    value = None if time_ms is None else encode(History(user, item, time_ms))
    return Outgoing(HISTORIES.name, partition_of(user, partitions), value, f"{user}\x00{item}".encode())


def label_records(
    told: Iterable[LabelBatch],
    partitions: int,
    bytes_max: int = EXAMPLES_BYTES_MAX,
    organic: Sequence[Organic] = (),
) -> list[Outgoing]:
    """What one input record led to as one record of `examples` (a partition), cut where it would grow too large.

    Organic installs, where the spec wants them there, come after its labels, in their user's partition. None of
    either: no record.
    """
    told = list(told)
    installs = list(map(encode, organic))
    if not told and not installs:
        return []
    if partitions == 1:
        parts = [array_head(len(told) + len(installs))]
        for one, columns in zip(told, columns_of(told), strict=True):
            parts += (HEAD, one.page.raw, columns)
        if len(value := b"".join(parts + installs)) <= bytes_max:
            return [Outgoing(EXAMPLES.name, 0, value)]
    users = [*(t.page.user for t in told), *(one.user for one in organic)]
    places = [partition_of_user(user, partitions) if partitions > 1 else 0 for user in users]
    return _packed(EXAMPLES.name, places, [*examples_bytes(told), *installs], bytes_max)


def organic_records(organic: Sequence[Organic], partitions: int) -> list[Outgoing]:
    """What one input record showed to be organic as one record of `organic` a partition, cut likewise."""
    places = [partition_of_user(one.user, partitions) for one in organic]
    return _packed(ORGANIC.name, places, list(map(encode, organic)), EXAMPLES_BYTES_MAX)


def _packed(topic: str, places: Sequence[int], written: Sequence[bytes], bytes_max: int) -> list[Outgoing]:
    """Encoded events, each with its partition, as records of at most so many bytes; one event may have more."""
    records: list[Outgoing] = []
    waiting: dict[int, list[bytes]] = {}
    sizes: dict[int, int] = {}
    for partition, raw in zip(places, written, strict=True):
        parts = waiting.setdefault(partition, [])
        if parts and sizes[partition] + len(raw) > bytes_max:
            records.append(_record(topic, partition, parts))
            parts = waiting[partition] = []
        sizes[partition] = len(raw) + (sizes[partition] if parts else 0)
        parts.append(raw)
    return records + [_record(topic, partition, parts) for partition, parts in waiting.items()]


def _record(topic: str, partition: int, parts: Sequence[bytes]) -> Outgoing:
    return Outgoing(topic, partition, b"".join((array_head(len(parts)), *parts)))
