"""A learner's folders, topics in memory, and a target of backups in a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from learner.backup.backup import Written, back_up
from learner.backup.backup_manifest import StoredTopic
from learner.backup.backups import Backups
from learner.backup.local_state import Folders
from learner.backup.target import BackupTarget, open_target
from stream.events.topics import TOPICS
from stream.log.memory_log import MemoryLog
from stream.log.protocol import Log
from stream.runtime.settings import Settings
from tests.support.checkpointed_life import SPEC, Life

NAME: Final = SPEC.name
PARTITIONS: Final = 2
DESCRIBED: Final = [StoredTopic("events", PARTITIONS, 1, {"retention.ms": "86400000"})]


class Clock:
    """A clock in hand, ms."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def __call__(self) -> int:
        """A millisecond later each time."""
        self.ms += 1
        return self.ms


def folders_in(local: Path) -> Folders:
    """Those of the model under this THALWEG_LOCAL."""
    return Folders.of(Settings(local=local), NAME)


def new_log() -> MemoryLog:
    """All topics, empty."""
    return MemoryLog({topic.name: topic.partitions or PARTITIONS for topic in TOPICS}, lambda: 1_000)


def new_backups(folder: Path, clock: Clock) -> Backups:
    """Those in a folder."""
    return Backups(open_target(str(folder), NAME, folder / "elsewhere"), clock)


class Machine:
    """A learner that learns on this machine, and its backups on another."""

    def __init__(self, root: Path, target: BackupTarget | None = None) -> None:
        self.clock, self.local = Clock(), root / "local"
        self.folders, self.log = folders_in(self.local), new_log()
        self.life = Life(self.folders.checkpoints)
        self.backups = Backups(target, self.clock) if target else new_backups(root / "backups", self.clock)

    def learn_until(self, offset: int) -> None:
        """Learn, without checkpoints."""
        self.life.learn_until(offset, sweeps=False)

    def back_up(self, log: Log | None = None, topics: Sequence[StoredTopic] = DESCRIBED) -> Written:
        """One backup now, with the topics in `log`."""
        return back_up(self.backups, self.folders, NAME, log, lambda: topics, self.clock)
