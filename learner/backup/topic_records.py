"""Records of compacted topics, in blobs: what Kafka alone knows, and no producer need send again.

A later backup reads what was appended since. Once that is more than there was at first, it reads the whole topic again,
which Kafka has compacted by then.
"""

from collections.abc import Iterator
from typing import Annotated, Final

import msgspec

from learner.backup.backup_manifest import BLOB_BYTES, StoredRecords
from learner.backup.backups import Backups, BlobWriter
from stream.events.topics import ERASED, FORMATS, HISTORIES, ITEMS, NAMES, USERS
from stream.log.log_scan import read_range
from stream.log.protocol import START, Log, Record
from stream.runtime.errors import BackupError, MissingTopic

# The ledger of erasures last: a user who is erased meanwhile may be in the others, and is in the ledger then.
COMPACTED: Final = (ITEMS, USERS, HISTORIES, NAMES, FORMATS, ERASED)
SEGMENT_BYTES: Final = BLOB_BYTES // 2  # of records; one has 2 MiB at most
LATER_MIN: Final = 10_000  # records, until which it isn't worth it to read all again
FRAME: Final = 64  # bytes at most, of a record beside its key and value


class StoredRecord(msgspec.Struct, frozen=True, array_like=True):
    """A record; without a value it's a tombstone."""

    partition: Annotated[int, msgspec.Meta(ge=0)]
    key: bytes | None
    value: bytes | None


_decoder: Final = msgspec.msgpack.Decoder(list[StoredRecord])


def save_records(log: Log, topic: str, known: StoredRecords | None, writer: BlobWriter) -> StoredRecords | None:
    """The topic's records up to now; None: there is no such topic. `known`: as an earlier backup of this log has them.

    Raises LogUnavailable, LogError, BackupError.
    """
    try:
        ends = log.ends(topic)
    except MissingTopic:
        return None
    if known and not (_is_same_log(known, ends) and all(map(writer.has, known.blobs))):
        known = None
    if known and known.later > max(known.first, LATER_MIN):
        known = None
    begin = known.ends if known else dict.fromkeys(ends, START)
    blobs, count = list(known.blobs) if known else [], 0
    for segment in _segments(read_range(log, topic, begin, ends)):
        blobs.append(writer.put(msgspec.msgpack.encode(segment)))
        count += len(segment)
    first, later = (known.first, known.later + count) if known else (count, 0)
    return StoredRecords(topic, ends, first, later, blobs)


def _is_same_log(known: StoredRecords, ends: dict[int, int]) -> bool:
    """Whether the records that are known can be a beginning of this topic's."""
    return known.ends.keys() == ends.keys() and all(known.ends[p] <= end for p, end in ends.items())


def _segments(records: Iterator[Record]) -> Iterator[list[StoredRecord]]:
    segment, size = list[StoredRecord](), 0
    for record in records:
        segment.append(StoredRecord(record.partition, record.key, record.value))
        size += len(record.key or b"") + len(record.value or b"") + FRAME
        if size >= SEGMENT_BYTES:
            yield segment
            segment, size = [], 0
    if segment:
        yield segment


def send_records(log: Log, stored: StoredRecords, backups: Backups) -> int:
    """Append these to the topic, and wait until the log has them; returns how many.

    Raises BackupError where the topic has other partitions, LogUnavailable, LogError.
    """
    partitions = log.partitions(stored.topic)
    if partitions != len(stored.ends):
        raise BackupError(
            f"the topic {stored.topic} has {partitions} partitions, and {len(stored.ends)} in the backup: users would "
            "be looked for in other ones; delete the topic and restore again, which creates it as it was"
        )
    count = 0
    for raw in backups.fetch(stored.blobs):
        for record in _decoded(raw, stored.topic):
            if record.partition >= partitions or (record.key is None and record.value is None):
                raise BackupError(f"a record of {stored.topic} in the backup is invalid: restore another backup")
            log.send(stored.topic, record.partition, record.value, record.key)
            count += 1
    log.flush()
    return count


def _decoded(raw: bytes, topic: str) -> list[StoredRecord]:
    try:
        return _decoder.decode(raw)
    except msgspec.MsgspecError as error:
        raise BackupError(f"records of {topic} in the backup can't be read: {error}; restore another one") from error
