"""What the join says as records: labels of `examples`, organic installs, changes of histories. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from stream.dead_letters import Outgoing
from stream.events import RECORD_BYTES_MAX, History, Organic, encode
from stream.joiner.join_state import Installed
from stream.joiner.labels import HEAD, LabelBatch, array_head, columns_of
from stream.log import partition_of
from stream.topics import EXAMPLES, HISTORIES, ORGANIC

EXAMPLES_BYTES_MAX: Final = RECORD_BYTES_MAX // 2  # of one record, so that a learner's step stays small

partition_of_user = lru_cache(65_536)(partition_of)


def history_record(installed: Installed, partitions: int) -> Outgoing:
    """What an install, or its retraction, makes of the user's history."""
    user, item, time_ms, _ = installed
    value = None if time_ms is None else encode(History(user, item, time_ms))
    return Outgoing(HISTORIES.name, partition_of(user, partitions), value, f"{user}\x00{item}".encode())


class Emission(NamedTuple):
    """What one input record led to, or a part of it; `others` are finished records."""

    labels: Sequence[LabelBatch]
    organic: Sequence[Organic] = ()
    others: Sequence[Outgoing] = ()


def emission_records(emissions: Sequence[Emission], partitions: Mapping[str, int]) -> list[Outgoing]:
    """The records of a batch of emissions, in order; labels of all of them are encoded together.

    Each input record still leads to records of its own, so that they don't depend on how input was read in batches.
    """
    columns = columns_of([batch for emission in emissions for batch in emission.labels])
    outgoing: list[Outgoing] = []
    begin = 0
    for labels, organic, others in emissions:
        if labels:
            end = begin + len(labels)
            outgoing += _label_records(labels, columns[begin:end], partitions[EXAMPLES.name], EXAMPLES_BYTES_MAX)
            begin = end
        if organic:
            outgoing += organic_records(organic, partitions[ORGANIC.name])
        outgoing += others
    return outgoing


def label_records(told: Iterable[LabelBatch], partitions: int, bytes_max: int = EXAMPLES_BYTES_MAX) -> list[Outgoing]:
    """What one input record led to as one record of `examples` (a partition), cut where it would grow too large."""
    told = list(told)
    return _label_records(told, columns_of(told), partitions, bytes_max)


def _label_records(
    labels: Sequence[LabelBatch], columns: Sequence[bytes], partitions: int, bytes_max: int
) -> list[Outgoing]:
    if partitions == 1:
        parts = [array_head(len(labels))]
        for batch, column in zip(labels, columns, strict=True):
            parts += (HEAD, batch.page.raw, column)
        if len(value := b"".join(parts)) <= bytes_max:
            return [Outgoing(EXAMPLES.name, 0, value)]
    users = (batch.page.user for batch in labels)
    places = [partition_of_user(user, partitions) if partitions > 1 else 0 for user in users]
    written = [b"".join((HEAD, batch.page.raw, column)) for batch, column in zip(labels, columns, strict=True)]
    return _packed(EXAMPLES.name, places, written, bytes_max)


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
