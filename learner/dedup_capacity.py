"""Checks that the learner remembers as many example ids as joiners may emit again."""

from typing import Final

from stream.events.topics import EVENTS
from stream.joiner.commit_metadata import decode_commit
from stream.log.kafka_admin import group_commits
from stream.runtime.errors import SettingsError
from stream.runtime.settings import Settings

JOINERS: Final = "joiner"  # their consumer group


def check_dedup(settings: Settings) -> None:
    """Raises SettingsError when it remembers too few, judging by the joiners' commits; LogUnavailable, LogError."""
    commits = group_commits(settings, JOINERS, EVENTS.name).values()
    repeated_max = max((decode_commit(*commit).progress.uncommitted_max for commit in commits), default=0)
    if repeated_max > settings.uncommitted_max:
        raise SettingsError(
            f"a joiner's commit says that it may emit {repeated_max} examples again, but a learner that remembers "
            f"{settings.dedup_ids} ids of each partition is sure to drop only {settings.uncommitted_max}: others would "
            f"be learned twice. Start it with THALWEG_DEDUP_IDS={-(-repeated_max * 5 // 2)} or more, or the joiners "
            f"with THALWEG_DEDUP_IDS={settings.dedup_ids}"
        )
