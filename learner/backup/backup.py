"""One backup: what is on the learner's disk, and what Kafka alone knows. The learner learns on and isn't asked."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from learner.backup.backup_manifest import BackupManifest, StoredRecords, StoredTopic
from learner.backup.backups import Backups, BlobWriter
from learner.backup.local_state import Folders, opened_state
from learner.backup.topic_records import COMPACTED, save_records
from stream.log.protocol import Log
from stream.runtime.errors import BackupError

Describe = Callable[[], Sequence[StoredTopic]]


class Written(NamedTuple):
    """A backup that was written, and what had to be written for it."""

    id: str
    manifest: BackupManifest
    blobs: int
    bytes: int


def back_up(
    backups: Backups, folders: Folders, model: str, log: Log | None, describe: Describe, now_ms: Callable[[], int]
) -> Written:
    """Write a backup. `model`: with the prefix; `describe`: the topics as they are now.

    Without a `log`, topics and records are those of the backup before. Raises BackupError, LogUnavailable, LogError.
    """
    before = backups.newest()
    try:
        with backups.writing() as writer, opened_state(folders) as state:
            known = {one.path: one for one in before.files} if before else {}
            files = [file.store(writer, known) for file in state.files]
            earlier = before.records if before else []
            if log is None:
                topics, records = before.topics if before else [], earlier
            else:
                topics = list(describe())
                is_same_log = before is not None and before.log_ms == state.meta.log_ms
                records = _records(log, earlier if is_same_log else [], writer)
            # Backups are in the order of their times: also where a clock is behind the one before.
            created_ms = max(now_ms(), before.created_ms + 1 if before else 0)
            manifest = BackupManifest(
                model, created_ms, max(state.meta.offset, 0), state.meta.examples, state.checkpoint, files, topics,
                records, state.meta.log_ms,
            )  # fmt: skip
            return Written(backups.add(manifest, writer), manifest, writer.blobs, writer.bytes)
    except OSError as error:
        raise BackupError(f"the learner's files can't be read: {error}; check the disk and your rights") from error


def _records(log: Log, earlier: list[StoredRecords], writer: BlobWriter) -> list[StoredRecords]:
    known = {one.topic: one for one in earlier}
    found = (save_records(log, topic.name, known.get(topic.name), writer) for topic in COMPACTED)
    return [one for one in found if one]
