"""Where a partition resumes: the offset to read on from, and the one to emit from. Pure."""

import logging
from typing import NamedTuple

from stream.events.topics import EVENTS
from stream.joiner.commit_metadata import JOIN_VERSION, Commit, rule_differences
from stream.joiner.label_rules import LabelRules
from stream.joiner.record_processor import JoinerOptions
from stream.runtime.errors import LogGap, LogTruncated, SettingsError

log = logging.getLogger(__name__)


class LogRange(NamedTuple):
    """A partition's first and end offsets; `new_from`: its first record that the commit's author can't have read."""

    start: int
    end: int
    new_from: int | None = None


class ResumePoint(NamedTuple):
    """Records from `offset` on rebuild the state, those from `emit_from` on are emitted."""

    offset: int
    emit_from: int
    rules_changed: bool = False


def resume_point(
    partition: int, commit: Commit | None, log_range: LogRange, rules: LabelRules, options: JoinerOptions
) -> ResumePoint:
    """Where a partition with this commit resumes.

    Raises LogGap, LogTruncated, and SettingsError where the commit's author ran by other rules.
    """
    if commit is None:
        check_gap(partition, 0, log_range.start, options)
        return ResumePoint(log_range.start, log_range.start)
    changed = _rules_changed(partition, commit, rules, options)
    offset = commit.restart_point.offset
    emit_from = offset if changed else commit.progress.confirmed
    if max(offset, emit_from) > log_range.end:
        truncated = LogTruncated(EVENTS.name, partition, max(offset, emit_from), log_range.start, log_range.end)
        if not options.accept_gap or log_range.new_from is None:
            raise truncated
        emit_from = min(emit_from, log_range.new_from)
        offset = min(offset, log_range.new_from)
        log.warning("continuing (--accept-gap) with the records from %d on: %s", emit_from, truncated)
    if offset < log_range.start:
        check_gap(partition, offset, log_range.start, options)
        offset, emit_from = log_range.start, max(emit_from, log_range.start)
    log.info(
        "partition %d: reads on at %d, watermark %d ms; the output of the records below %d is confirmed",
        partition, offset, commit.restart_point.watermark_ms, emit_from,
    )  # fmt: skip
    return ResumePoint(offset, emit_from, changed)


def check_gap(partition: int, wanted: int, start: int, options: JoinerOptions) -> None:
    """Raises LogGap where the log starts behind the wanted offset, unless that is accepted."""
    if start <= wanted:
        return
    gap = LogGap(EVENTS.name, partition, wanted, start)
    if not options.accept_gap:
        raise gap
    log.warning("continuing (--accept-gap): %s", gap)


def _rules_changed(partition: int, commit: Commit, rules: LabelRules, options: JoinerOptions) -> bool:
    """Whether its author ran by other rules, which is accepted. Raises SettingsError where it isn't."""
    where = f"the commit of {EVENTS.name}/{partition}"
    if commit.version > JOIN_VERSION:
        raise SettingsError(
            f"{where} was made by a newer joiner (version {commit.version} of the join, this is {JOIN_VERSION}): "
            "start the newer one; this one would emit other labels"
        )
    found = rule_differences(commit, rules, options.model)
    if not found:
        return False
    if not options.accept_rules:
        raise SettingsError(
            f"{where} was made by a joiner with other rules: {'; '.join(found)}. Give it the spec that it had, "
            "or start with --accept-rules: then these rules label open pages again from the commit on, and labels "
            "that were emitted stay"
        )
    log.warning("partition %d: continuing by other rules (--accept-rules): %s", partition, "; ".join(found))
    return True
