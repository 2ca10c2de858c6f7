"""`thalweg backup` and `thalweg restore`: the learner's state and what Kafka alone knows, kept elsewhere."""

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from stream.runtime.errors import SettingsError
from thalweg.cli.options import JsonFile, ModelSpec, model_name, print_stderr, read_settings, write_json

if TYPE_CHECKING:
    from learner.backup.backups import Backups
    from learner.backup.local_state import Folders
    from stream.runtime.settings import Settings

Target = Annotated[
    str, typer.Argument(help="A folder, or s3://bucket/prefix.", show_default="THALWEG_BACKUP", metavar="[TARGET]")
]


def backup(
    target: Target = "",
    list_: Annotated[bool, typer.Option("--list", help="List the backups there; write none.")] = False,
    keep: Annotated[int, typer.Option(min=0, help="Leave the newest N backups, remove older ones; 0: all.")] = 0,
    spec: ModelSpec = None,
    json_file: JsonFile = None,
) -> None:
    """Back up the learner's state, and what Kafka alone knows.

    The newest checkpoint, pins, version numbers, the settings of all topics, the records of compacted ones. The learner
    goes on meanwhile; run it on the learner's machine. What an earlier backup has isn't written again. With --list and
    --keep it only removes. See docs/backup.md.
    """
    from learner.backup.continuous import back_up_with_topics
    from thalweg.views.backups import backups_table
    from thalweg.views.tables import print_table

    settings, name, backups, folders = _open(target, spec)
    figures: dict[str, object] = {}
    if not list_:
        settings.need_kafka()
        done = back_up_with_topics(backups, folders, settings, name)
        print(f"{done.id}: offset {done.manifest.offset:,}, {done.manifest.examples:,} examples")
        print(f"{done.blobs:,} new blobs of {done.bytes:,} bytes")
        figures = {"backup": done.id, "offset": done.manifest.offset, "blobs": done.blobs, "bytes": done.bytes}
    if keep:
        pruned = backups.prune(keep)
        print(f"removed {pruned.backups:,} backups, {pruned.blobs:,} blobs of {pruned.bytes:,} bytes")
        figures |= {f"removed_{what}": count for what, count in pruned._asdict().items()}
    if list_:
        ids = backups.ids()
        readable = dict(backups.readable())
        print_table(backups_table(name, [(one, readable.get(one)) for one in ids]))
        figures |= {"backups": len(ids), "newest": ids[-1] if ids else ""}
    write_json(json_file, figures)


def restore(
    target: Target = "",
    backup_id: Annotated[
        str, typer.Option("--backup", help="A backup's id, as --list shows it.", show_default="the newest")
    ] = "",
    rebase: Annotated[
        bool, typer.Option("--rebase", help="Kafka was lost: create the topics, go on at the new log's start.")
    ] = False,
    spec: ModelSpec = None,
    json_file: JsonFile = None,
) -> None:
    """Restore a backup to this machine; then start the learner.

    Where Kafka is still there, the learner goes on at the backup's offset, and ends in the bits that it would have had.
    With --rebase, on a new Kafka, topics are created as they were, compacted ones get their records, everyone who was
    ever erased is erased again, and the learner goes on at the new log's start. See docs/backup.md.
    """
    from learner.backup.kafka_topics import create_stored, stored_topics
    from learner.backup.restore import check_empty, forget_start, missing_topics, restore_files, restore_records
    from learner.retraining.retrain_files import RetrainFiles
    from stream.log.kafka_log import KafkaLog
    from stream.runtime.clock import now_ms
    from thalweg.views.erasure import erase_again

    settings, name, backups, folders = _open(target, spec)
    ids = backups.ids()
    if not ids or (backup_id and backup_id not in ids):
        raise SettingsError(f"{backups.target} has no backup {backup_id}".rstrip() + ": `thalweg backup --list` says")
    manifest = backups.read(backup_id or ids[-1])
    check_empty(folders)
    records: dict[str, int] = {}
    if rebase:
        create_stored(settings, missing_topics(manifest, stored_topics(settings)))
        with closing(KafkaLog(settings)) as log:
            records = restore_records(backups, manifest, folders, log, lambda topic: print_stderr(f"{topic} ..."))
            erased = len(list(erase_again(log))) if records.get("erased") else 0
            _copy_users_again(settings)
            restored = restore_files(backups, manifest, folders, now_ms, log)
        for topic, count in records.items():
            print(f"{topic}: {count:,} records")
        print(f"{erased:,} users are erased again")
    else:
        restored = restore_files(backups, manifest, folders, now_ms)
    RetrainFiles(settings, name.removeprefix(settings.topic_prefix)).clear()
    forget_start(folders)
    print(f"restored: {restored.examples:,} examples, next offset {restored.offset:,}; start the learner")
    figures = {"backup": backup_id or ids[-1], "offset": restored.offset, "examples": restored.examples}
    write_json(json_file, {**figures, **{f"{topic} records": count for topic, count in records.items()}})


def _copy_users_again(settings: "Settings") -> None:
    """Joiners copy all of the topic to Redis: where they ended is an offset of the lost log."""
    from stream.history.user_writer import offsets_key
    from stream.snapshots.redis_client import connect, translated

    if settings.redis:
        with closing(connect(settings)) as client, translated(client):
            client.delete(offsets_key(settings.topic_prefix))


def _open(target: str, spec: ModelSpec) -> "tuple[Settings, str, Backups, Folders]":
    """Settings, the model's name with the prefix, its backups, and its folders."""
    from learner.backup.backups import Backups
    from learner.backup.local_state import Folders
    from learner.backup.target import open_target
    from stream.runtime.clock import now_ms

    settings = read_settings()
    model = model_name(settings, spec)
    if not (target or settings.backup):
        raise SettingsError("no target is named: pass a folder or s3://bucket/prefix, or set THALWEG_BACKUP")
    name = f"{settings.topic_prefix}{model}"
    backups = Backups(open_target(target or settings.backup, name, settings.local), now_ms)
    return settings, name, backups, Folders.of(settings, model)
