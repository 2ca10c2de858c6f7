"""Whether the learner remembers as many example ids as joiners may emit again."""

from typing import Final

from stream.events.topics import EVENTS
from stream.joiner.commit_metadata import commit_of
from stream.log.kafka_admin import group_commits
from stream.runtime.errors import SettingsError
from stream.runtime.settings import Settings

JOINERS: Final = "joiner"  # their group


def check_memory(settings: Settings) -> None:
    """Raises SettingsError where it remembers too few, by what the joiners' commits say; LogUnavailable, LogError."""
    commits = group_commits(settings, JOINERS, EVENTS.name).values()
    again = max((commit_of(*commit).progress.uncommitted_max for commit in commits), default=0)
    if again > settings.uncommitted_max:
        raise SettingsError(
            f"a joiner's commit says that it may emit {again} examples again, but a learner that remembers "
            f"{settings.dedup_ids} ids of each partition drops {settings.uncommitted_max} for sure: others would be "
            f"learned twice. Start it with THALWEG_DEDUP_IDS={-(-again * 5 // 2)} or more, or the joiners with "
            f"THALWEG_DEDUP_IDS={settings.dedup_ids}"
        )
