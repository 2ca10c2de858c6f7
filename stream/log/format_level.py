"""The format level of a deployment: which release's formats its rooms write.

After an upgrade rooms go on writing what the release before reads, until `thalweg apply-topics --finalize` raises the
level: so old and new rooms run side by side, in any order, and one can go back. The level is a record of the compacted
topic `formats`: Redis may be wiped, and a file belongs to one machine. Rooms that write a format with several versions
read it when they start: the learner. Deployments of release 0.2 have no such topic: level 1.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from stream.events.topics import ERASED, FORMATS
from stream.log.log_scan import read_range
from stream.log.protocol import START, Log
from stream.runtime.errors import MissingTopic, SettingsError
from stream.runtime.formats import LEVEL, RELEASES

KEY: Final = b"level"
FIRST: Final = 1


class FormatLevel(msgspec.Struct, frozen=True):
    """A record of the topic. `release`: whose formats they are."""

    level: int
    release: str


def read_level(log: Log) -> int:
    """The level at which this deployment's rooms write.

    Raises SettingsError when this build doesn't know it, LogError, LogUnavailable.
    """
    found = FormatLevel(FIRST, RELEASES[0])
    try:
        ends = log.ends(FORMATS.name)
    except MissingTopic:
        return FIRST
    for record in read_range(log, FORMATS.name, {0: START}, ends):
        if record.key == KEY and record.value is not None:
            found = _decoded(record.value)
    if found.level > LEVEL:
        raise SettingsError(
            f"this deployment's formats were raised to those of release {found.release} (level {found.level}), and "
            f"this build knows those up to {RELEASES[-1]} (level {LEVEL}): start release {found.release} or a later one"
        )
    return found.level


def check_erasable(partitions: Callable[[str], int]) -> None:
    """Raises MissingTopic where nobody can be erased yet, LogUnavailable. `partitions`: of a topic, as a Log says."""
    try:
        partitions(ERASED.name)
    except MissingTopic:
        raise MissingTopic(
            f"nobody can be erased here yet: the topic {ERASED.name} doesn't exist. Run `thalweg apply-topics`, in a "
            "deployment that release 0.2 made with --finalize, once all rooms are of 0.3 or later (docs/upgrading.md)"
        ) from None


def raise_level(log: Log) -> None:
    """Have rooms that start from now on write this release's formats. Raises LogError, LogUnavailable."""
    log.send(FORMATS.name, 0, msgspec.json.encode(FormatLevel(LEVEL, RELEASES[-1])), KEY)
    log.flush()


def _decoded(raw: bytes) -> FormatLevel:
    try:
        return msgspec.json.decode(raw, type=FormatLevel)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"the format level in the topic {FORMATS.name} can't be read ({error}): a later release may have written "
            "it; start the newest one that ran here"
        ) from None
