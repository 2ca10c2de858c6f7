"""Restores a backup to a machine: the learner's files, and, where Kafka was lost, what only Kafka knew.

Files are written into a folder beside the checkpoints' own, read as the learner would, and renamed at the end: a
restore that is killed is begun again. Then the learner starts as after any other end. Where the log is a new one
(`rebase`) its offset becomes the new log's start, and its versions are newer than any of the old log.
"""

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from learner.backup.backup_manifest import (
    CHECKPOINTS,
    NUMBERS,
    PINS,
    BackupManifest,
    StoredFile,
    StoredRecords,
    StoredTopic,
)
from learner.backup.backups import Backups
from learner.backup.local_state import Folders
from learner.backup.topic_records import send_records
from learner.checkpoints.checkpoint import Checkpoint
from learner.checkpoints.checkpoint_files import ANCHORED, PASSED, CheckpointFiles
from learner.publishing.version_allocator import HighWater, VersionAllocator
from stream.events.topics import ERASED, EXAMPLES
from stream.log.protocol import Log
from stream.runtime.durable_files import replacing, sync_folder
from stream.runtime.errors import BackupError
from stream.runtime.formats import CHECKPOINT
from stream.snapshots.version_files import VersionFiles

DRAFT: Final = ".restoring"  # suffix of the folder
STARTED: Final = ".restoring.json"  # suffix of the file that names the topics that were empty when it began
log = structlog.get_logger("restore")


class Restored(NamedTuple):
    """What was restored. `offset`: the next one in `examples` that the learner learns; `records`: by topic."""

    manifest: BackupManifest
    offset: int
    examples: int
    records: dict[str, int]


def check_empty(folders: Folders) -> None:
    """Raises BackupError where the learner's folder has checkpoints: they may be newer than the backup."""
    if CheckpointFiles(folders.checkpoints, owned=False).paths():
        raise BackupError(
            f"{folders.checkpoints} has checkpoints, which may be newer than the backup: move them away first"
        )


def restore_files(
    backups: Backups, manifest: BackupManifest, folders: Folders, now_ms: Callable[[], int], rebase: Log | None = None
) -> Restored:
    """Write the learner's files. `rebase`: the new log, where the one that the backup is of was lost.

    Raises BackupError, CheckpointError where the checkpoint can't be read, LogUnavailable, LogError.
    """
    check_empty(folders)
    draft = folders.checkpoints.with_name(folders.checkpoints.name + DRAFT)
    shutil.rmtree(draft, ignore_errors=True)
    try:
        checkpoints = CheckpointFiles(draft)
        for one in manifest.files:
            if one.path.startswith(CHECKPOINTS):
                _fetch(backups, one, draft / one.path.removeprefix(CHECKPOINTS))
        found = checkpoints.newest()
        if found is None or found.origin is None or found.origin.name != manifest.checkpoint:
            raise BackupError(f"the backup's newest checkpoint, {manifest.checkpoint}, is missing in it")
        offset = found.meta.offset
        if rebase is not None:
            offset = rebase.starts(EXAMPLES.name)[0]
            _rebase(checkpoints, found, offset, max(now_ms(), found.meta.log_ms + 1))
        _restore_pins(backups, manifest, folders)
        _reserve_numbers(backups, manifest, folders, found, now_ms())
        with suppress(FileNotFoundError):
            folders.checkpoints.rmdir()  # it's empty, or has what no learner reads: then this says so
        draft.replace(folders.checkpoints)
        sync_folder(folders.checkpoints.parent)
    except OSError as error:
        raise BackupError(
            f"{error.filename} can't be written: {error.strerror}; free space, or move it away"
        ) from error
    return Restored(manifest, offset, found.meta.examples, {})


def restore_records(
    backups: Backups, manifest: BackupManifest, folders: Folders, new: Log, on_topic: Callable[[str], None]
) -> dict[str, int]:
    """Send what compacted topics had to a new log; returns how many records, by topic. Before `restore_files`.

    A topic that had records when it began stays as it is: those are newer. But nobody who was erased comes back: the
    ledger gets the erasures of all backups, whatever it has. Raises BackupError, LogUnavailable, LogError.
    """
    check_empty(folders)
    stored = {one.topic: one for one in manifest.records}
    if ledgers := [one for _, of in backups.readable() for one in of.records if one.topic == ERASED.name]:
        blobs = dict.fromkeys(blob for one in reversed(ledgers) for blob in one.blobs)
        stored[ERASED.name] = msgspec.structs.replace(ledgers[0], blobs=[*blobs])
    empty = _empty_at_first(folders, new, stored)
    sent: dict[str, int] = {}
    for topic, one in stored.items():
        if topic in empty or topic == ERASED.name:
            on_topic(topic)
            sent[topic] = send_records(new, one, backups)
        else:
            log.warning("a topic has records already; it stays as it is", topic=topic)
    return sent


def forget_start(folders: Folders) -> None:
    """A restore has ended."""
    _started(folders).unlink(missing_ok=True)


def missing_topics(manifest: BackupManifest, existing: Sequence[StoredTopic]) -> list[StoredTopic]:
    """The topics that a new broker lacks. Raises BackupError where it isn't new, or one has other partitions."""
    found = {topic.name: topic for topic in existing}
    for topic in manifest.topics:
        if topic.name == EXAMPLES.name and topic.id and topic.name in found and found[topic.name].id == topic.id:
            raise BackupError(
                f"this Kafka has the topic {topic.name} that the backup is of: it isn't lost, and would be learned "
                "again from its start; restore without --rebase, or delete all topics first"
            )
        if topic.name in found and found[topic.name].partitions != topic.partitions:
            raise BackupError(
                f"the topic {topic.name} has {found[topic.name].partitions} partitions, and {topic.partitions} in the "
                "backup: delete it and restore again, which creates it as it was"
            )
    return [topic for topic in manifest.topics if topic.name not in found]


def _started(folders: Folders) -> Path:
    return folders.checkpoints.with_name(folders.checkpoints.name + STARTED)


def _empty_at_first(folders: Folders, new: Log, stored: dict[str, StoredRecords]) -> set[str]:
    """The topics without a record, as of when this restore began; it may have been killed since."""
    path = _started(folders)
    try:
        return msgspec.json.decode(path.read_bytes(), type=set[str])
    except FileNotFoundError:
        pass
    except (OSError, msgspec.MsgspecError) as error:
        raise BackupError(f"{path} can't be read ({error}): delete it, and the topics, and restore again") from error
    empty = {topic for topic in stored if new.starts(topic) == new.ends(topic)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(msgspec.json.encode(sorted(empty)))
    except OSError as error:
        raise BackupError(f"{path} can't be written: {error.strerror}; free space") from error
    return empty


def _fetch(backups: Backups, stored: StoredFile, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        for raw in backups.fetch(stored.blobs):
            file.write(raw)


def _rebase(files: CheckpointFiles, newest: Checkpoint, offset: int, log_ms: int) -> None:
    """Write pinned checkpoints and the newest again, as of a new log's start; those of the old log go."""
    old = files.paths()
    assert newest.origin, "it was read"
    files.version = CHECKPOINT.version  # an earlier one can't say which log it is of
    pinned = {kind: name for kind in (PASSED, ANCHORED) if (name := files.pinned(kind))}
    written: dict[str, str] = {}
    for name in [*sorted({*pinned.values()} - {newest.origin.name}), newest.origin.name]:
        found = newest if name == newest.origin.name else files.named(name)
        meta = msgspec.structs.replace(found.meta, offset=offset, log_ms=log_ms)
        written[name] = files.write(Checkpoint(meta, found.arrays)).name
    for kind, name in pinned.items():
        files.pin(written[name], kind)
    for path in old:
        path.unlink(missing_ok=True)


def _restore_pins(backups: Backups, manifest: BackupManifest, folders: Folders) -> None:
    """The latest decision and the version that it pins, unless a newer decision is here."""
    stored = {one.path: one for one in manifest.files if one.path.startswith(PINS)}
    if not stored or VersionFiles(folders.pins).decision().number:
        return
    last = (PINS + "version", PINS + "decision")  # one that is there has what it names
    for path in (*(stored.keys() - last), *(path for path in last if path in stored)):
        _fetch(backups, stored[path], folders.path(path))


def _reserve_numbers(
    backups: Backups, manifest: BackupManifest, folders: Folders, found: Checkpoint, now_ms: int
) -> None:
    """Numbers go on above all that may have been used: since the backup at most one version a millisecond."""
    used = HighWater(found.meta.version, found.meta.token)
    for one in manifest.files:
        if one.path == NUMBERS:
            with suppress(msgspec.MsgspecError, UnicodeDecodeError):  # the checkpoint knows them, too
                stored = msgspec.json.decode(b"".join(backups.fetch(one.blobs[:1])), type=HighWater)
                used = HighWater(max(used.version, stored.version), max(used.token, stored.token))
    since_ms = max(0, now_ms - manifest.created_ms)
    VersionAllocator(folders.numbers).reserve(used.version + since_ms, used.token)
