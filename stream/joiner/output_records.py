"""What the join says as records: labels and organic installs of `examples`, those of `organic`, histories. Pure."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from stream.events.codec import array_head, encode
from stream.events.topics import EXAMPLES, HISTORIES, ORGANIC
from stream.events.types import RECORD_BYTES_MAX, History, Organic
from stream.joiner.labels import Installed, Labels, examples_bytes, user_of
from stream.log.dead_letters import Outgoing
from stream.log.protocol import partition_of

EXAMPLES_BYTES_MAX: Final = RECORD_BYTES_MAX // 2  # of one record, so that a learner's step stays small

partition_of_user = lru_cache(65_536)(partition_of)


def history_record(installed: Installed, partitions: int) -> Outgoing:
    """What an install, or its retraction, makes of the user's history."""
    user, item, time_ms = installed.user, installed.item, installed.time_ms
    value = None if time_ms is None else encode(History(user, item, time_ms))
    return Outgoing(HISTORIES.name, partition_of(user, partitions), value, f"{user}\x00{item}".encode())


class Emission(NamedTuple):
    """What some input records led to.

    `groups`: of each record where its labels end, and its organic installs (`learned`: they go into `examples`, too).
    `others` are finished records.
    """

    labels: Labels | None
    groups: Sequence[tuple[int, Sequence[Organic]]] = ()
    learned: bool = False
    others: Sequence[Outgoing] = ()


def emission_records(
    emission: Emission, partitions: Mapping[str, int], pages: list[bytes], source: int
) -> list[Outgoing]:
    """The records of it, in order; all labels are encoded together.

    `pages`: those of the labels, as they lie in the log. `source`: the partition of `events` that all of it came of,
    the key of what goes into `examples`: a learner remembers each source's ids apart. Each input record leads to
    records of its own; a large one, or one behind many others, to several.
    """
    written = examples_bytes(emission.labels, pages) if emission.labels else []
    outgoing: list[Outgoing] = []
    begin, key = 0, b"%d" % source
    for end, organic in emission.groups:
        learned = organic if emission.learned else ()
        if end > begin or learned:
            outgoing += label_records(
                written[begin:end], pages[begin:end], partitions[EXAMPLES.name], organic=learned, key=key
            )
            begin = end
        if organic:
            outgoing += organic_records(organic, partitions[ORGANIC.name])
    return [*outgoing, *emission.others] if emission.others else outgoing


def label_records(
    written: Sequence[bytes],
    pages: Sequence[bytes],
    partitions: int,
    bytes_max: int = EXAMPLES_BYTES_MAX,
    organic: Sequence[Organic] = (),
    key: bytes | None = None,
) -> list[Outgoing]:
    """What one input record led to as one record of `examples` (a partition), cut where it would grow too large.

    `written`: the bytes of each Examples, `pages` those of their pages. Organic installs, where the spec wants them
    there, come after the labels, in their user's partition.
    """
    written = [*written, *map(encode, organic)] if organic else written
    if partitions == 1:
        if sum(map(len, written)) + 5 <= bytes_max:
            return [Outgoing(EXAMPLES.name, 0, b"".join((array_head(len(written)), *written)), key)]
        return _packed(EXAMPLES.name, [0] * len(written), written, bytes_max, key)
    places = [partition_of_user(user, partitions) for user in (*map(user_of, pages), *(one.user for one in organic))]
    return _packed(EXAMPLES.name, places, written, bytes_max, key)


def organic_records(organic: Sequence[Organic], partitions: int) -> list[Outgoing]:
    """What one input record showed to be organic as one record of `organic` a partition, cut likewise."""
    places = [partition_of_user(one.user, partitions) for one in organic]
    return _packed(ORGANIC.name, places, list(map(encode, organic)), EXAMPLES_BYTES_MAX)


def _packed(
    topic: str, places: Sequence[int], written: Sequence[bytes], bytes_max: int, key: bytes | None = None
) -> list[Outgoing]:
    """Encoded events, each with its partition, as records of at most so many bytes; one event may have more."""
    records: list[Outgoing] = []
    waiting: dict[int, list[bytes]] = {}
    sizes: dict[int, int] = {}
    for partition, raw in zip(places, written, strict=True):
        parts = waiting.setdefault(partition, [])
        if parts and sizes[partition] + len(raw) > bytes_max:
            records.append(_record(topic, partition, parts, key))
            parts = waiting[partition] = []
        sizes[partition] = len(raw) + (sizes[partition] if parts else 0)
        parts.append(raw)
    return records + [_record(topic, partition, parts, key) for partition, parts in waiting.items()]


def _record(topic: str, partition: int, parts: Sequence[bytes], key: bytes | None) -> Outgoing:
    return Outgoing(topic, partition, b"".join((array_head(len(parts)), *parts)), key)
