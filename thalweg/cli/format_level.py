"""What `thalweg apply-topics` says of the formats that rooms write, and raises."""

from contextlib import closing

from stream.events.topics import FORMATS as LEVEL_TOPIC
from stream.log.format_level import raise_level, read_level
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.log.kafka_log import KafkaLog
from stream.runtime.errors import SettingsError
from stream.runtime.formats import FORMATS, LEVEL, RELEASES
from stream.runtime.settings import Settings
from thalweg.cli.older_rooms import older_rooms


def format_level_line(settings: Settings, *, finalize: bool) -> str:
    """Whose formats are written; with `finalize` this release's from now on.

    Raises SettingsError, also when a room was last seen running an earlier release, LogError, SnapshotError.
    """
    newest = RELEASES[-1]
    if finalize:
        apply_topics(settings, plan_topics(settings, (LEVEL_TOPIC,)))
    with closing(KafkaLog(settings)) as log:
        level = read_level(log)
        if level == LEVEL:
            return f"formats: those of release {newest}"
        if not finalize:
            return (
                f"formats: those of release {RELEASES[level - 1]}, until `thalweg apply-topics --finalize`: run it "
                f"once every room runs release {newest}"
            )
        if older := older_rooms(settings):
            raise SettingsError(
                f"an earlier release than {newest} ran {', '.join(older)} when last seen, and can't read what {newest} "
                f"writes: start these by release {newest}, wait until they are ready, and finalize again"
            )
        raise_level(log)
    changed = [f"{one.name} {one.at(level)} → {one.version}" for one in FORMATS if one.at(level) != one.version]
    return f"formats: those of release {newest} from now on ({', '.join(changed)}): restart learners"
