"""The learner's backups, written beside it: a thread of low priority, whose failures stop nothing."""

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from typing import Final

import structlog

from learner.backup.backup import Written, back_up
from learner.backup.backups import Backups
from learner.backup.kafka_topics import stored_topics
from learner.backup.local_state import Folders
from learner.backup.target import open_target
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.training import metrics
from stream.log.kafka_log import KafkaLog
from stream.runtime.clock import now_ms
from stream.runtime.errors import BackupError, LogError
from stream.runtime.settings import Settings

NICENESS: Final = 10
LOOK_S: Final = 1.0  # between two looks at whether there is a new checkpoint
log = structlog.get_logger("backup")


class ContinuousBackup(threading.Thread):
    """Calls `write` for each new checkpoint, at most every `every_s`, until `stopping`.

    `newest`: the name of the newest checkpoint, or empty; `write` raises BackupError, LogError.
    """

    def __init__(
        self, newest: Callable[[], str], write: Callable[[], Written], every_s: float, stopping: threading.Event
    ) -> None:
        super().__init__(name="backup", daemon=True)
        self._newest, self._write, self._every_s, self._stopping = newest, write, every_s, stopping
        self._warned = ""

    def run(self) -> None:
        """Until `stopping` is set; a backup that is being written then isn't waited for."""
        if sys.platform == "linux":  # elsewhere it would be the whole process's
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        written, due_s = "", 0.0
        while not self._stopping.wait(LOOK_S):
            newest = self._newest()
            if newest == written or time.monotonic() < due_s:
                continue
            due_s = time.monotonic() + self._every_s
            if self._try():
                written = newest

    def _try(self) -> bool:
        try:
            done = self._write()
        except Exception as error:  # noqa: BLE001  # whatever it is, the next one is tried
            metrics.BACKUP_FAILURES.inc()
            if str(error) != self._warned:
                log.error("no backup was written; learning goes on", reason=str(error))
            self._warned = str(error)
            return False
        metrics.BACKUP_TIME.set(done.manifest.created_ms / 1_000)
        metrics.BACKUP_BYTES.inc(done.bytes)
        if self._warned:
            log.info("backups are written again", backup=done.id)
        self._warned = ""
        return True


def continuous_backup(settings: Settings, model: str, stopping: threading.Event) -> ContinuousBackup | None:
    """As the settings say; None: there are none. Raises SettingsError."""
    if not settings.backup:
        return None
    folders, name = Folders.of(settings, model), f"{settings.topic_prefix}{model}"
    backups = Backups(open_target(settings.backup, name, settings.local), now_ms)
    files = CheckpointFiles(folders.checkpoints, owned=False)

    def newest() -> str:
        paths = files.paths()
        return paths[-1].name if paths else ""

    def write() -> Written:
        done = back_up_with_topics(backups, folders, settings, name)
        try:
            backups.prune(settings.backup_keep)
        except BackupError as error:  # such as one that is written by hand meanwhile: next time
            log.warning("old backups weren't removed", reason=str(error))
        return done

    return ContinuousBackup(newest, write, settings.backup_every_s, stopping)


def back_up_with_topics(backups: Backups, folders: Folders, settings: Settings, name: str) -> Written:
    """One backup; while Kafka is unavailable, with topics as they were in the one before.

    Raises BackupError, LogError.
    """
    try:
        with closing(KafkaLog(settings)) as log_:
            return back_up(backups, folders, name, log_, partial(stored_topics, settings), now_ms)
    except LogError as error:
        log.warning("topics aren't backed up again", reason=str(error))
        return back_up(backups, folders, name, None, list, now_ms)
