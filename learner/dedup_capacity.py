"""Checks that the learner remembers as many example ids as joiners may emit again: at its start and while it learns."""

import threading
from typing import Final

import structlog

from learner.training import metrics
from stream.events.topics import EVENTS
from stream.joiner.commit_metadata import Progress, decode_commit
from stream.log.kafka_groups import group_commits
from stream.runtime.errors import LogError, LogUnavailable, SettingsError
from stream.runtime.settings import Settings

JOINERS: Final = "joiner"  # their consumer group
CHECK_S: Final = 60.0
log = structlog.get_logger("learner")


def check_dedup(settings: Settings) -> None:
    """Raises SettingsError when it remembers too few, judging by the joiners' commits; LogUnavailable, LogError."""
    repeated_max = max((one.uncommitted_max for one in _joiners_progress(settings)), default=0)
    if repeated_max > settings.uncommitted_max:
        raise SettingsError(
            f"a joiner's commit says that it may emit {repeated_max} examples again, but a learner that remembers "
            f"{settings.dedup_ids} ids of each partition is sure to drop only {settings.uncommitted_max}: others would "
            f"be learned twice. Start it with THALWEG_DEDUP_IDS={_ids_needed(repeated_max)} or more, or the joiners "
            f"with THALWEG_DEDUP_IDS={settings.dedup_ids}"
        )


class DedupMonitor:
    """Repeats the check while the learner learns: joiners restart with other settings, and one record of events can
    lead to more examples than a joiner would emit between two commits otherwise.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._alarmed = 0  # ids that the last alarm asked for

    def watch(self, stopping: threading.Event) -> None:
        """Check every CHECK_S until `stopping`."""
        while not stopping.wait(CHECK_S):
            self.check()

    def check(self) -> None:
        """Set the metric, and log an error when more ids are needed than before. An unavailable broker is skipped."""
        try:
            found = _joiners_progress(self._settings)
        except (LogUnavailable, LogError) as error:
            log.info("the joiners' commits can't be read; they are read again in a minute", reason=str(error))
            return
        allowed = self._settings.uncommitted_max
        bounds = [_ids_needed(one.uncommitted_max) for one in found if one.uncommitted_max > allowed]
        needed = max([one.emitted_max for one in found] + bounds, default=0)
        metrics.DEDUP_SHARE.set(needed / self._settings.dedup_ids)
        if self._settings.dedup_ids < needed and needed > self._alarmed:
            self._alarmed = needed
            log.error(
                "if a joiner is killed now, some examples are learned twice: it emits more between two commits than "
                "this learner remembers of a partition. Restart joiners and learner with a greater THALWEG_DEDUP_IDS",
                THALWEG_DEDUP_IDS=needed,
                remembered=self._settings.dedup_ids,
            )


def _joiners_progress(settings: Settings) -> list[Progress]:
    return [decode_commit(*commit).progress for commit in group_commits(settings, JOINERS, EVENTS.name).values()]


def _ids_needed(repeated_max: int) -> int:
    """How many ids a learner must remember for joiners that may emit `repeated_max` examples without a commit."""
    return -(-repeated_max * 5 // 2)
