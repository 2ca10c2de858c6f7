"""Every error that Thalweg raises on purpose.

    ThalwegError
    ├── SettingsError        a setting is missing or makes no sense
    ├── SpecError            a spec file is wrong: the message names line and remedy
    ├── StackError           the local stack can't be started or stopped
    ├── DataError            a data set is unavailable or invalid
    ├── BadEvent             invalid bytes or fields: they become a dead letter
    ├── LogError             the log rejected a request or failed
    │   ├── LogUnavailable   no broker answers: worth a retry
    │   ├── MissingTopic     a topic doesn't exist
    │   ├── LogGap           the requested offset is older than the log's start
    │   ├── LogReset         the requested offset is after the log's end: a reader that runs meets another log
    │   ├── LogTruncated     so is the one from which a joiner would resume
    │   └── Poisoned         only invalid events have arrived for long
    ├── SnapshotError        a snapshot is invalid or can't be transferred
    │   ├── StoreUnavailable no snapshot store answers: worth a retry
    │   ├── BadSnapshot      bytes that don't match their digest, shape or spec
    │   └── Fenced           another learner owns the model
    ├── CheckpointError      a checkpoint can't be written, read, or belongs to another spec
    └── BackupError          a backup can't be written or read, or is damaged

A message says what happened, why, and what to do next. Errors of libraries are translated where
the library is called (Kafka's in `kafka_client.py`, Redis's in `redis_client.py`), and nowhere else.
A service that ends by one of `REFUSALS` would end by it again, however often it is started.
"""

from typing import Final


class ThalwegError(Exception):
    """Root of all errors that Thalweg raises on purpose."""


class SettingsError(ThalwegError):
    """A setting is missing or makes no sense."""


class SpecError(ThalwegError):
    """A spec file is wrong; the message names where and the remedy."""


class StackError(ThalwegError):
    """The local stack can't be started or stopped."""


class DataError(ThalwegError):
    """A data set is unavailable or invalid."""


class BadEvent(ThalwegError):
    """Invalid bytes or fields; they become a dead letter with this message."""


class LogError(ThalwegError):
    """The log rejected a request or failed."""


class LogUnavailable(LogError):
    """No broker answers; a later retry may help."""


class MissingTopic(LogError):
    """A topic doesn't exist."""


class LogGap(LogError):
    """The requested offset is older than the log's start: the records between them are lost."""

    def __init__(self, topic: str, partition: int, wanted: int, start: int) -> None:
        super().__init__(
            f"{topic}/{partition}: offset {wanted} was wanted, but the log now starts at {start}: {start - wanted} "
            "records are gone (retention); to continue without them, start again with --accept-gap"
        )
        self.topic = topic
        self.partition = partition
        self.wanted = wanted
        self.start = start


class LogReset(LogError):
    """The offset that a reader wants is after the log's end: this isn't the log that was read before."""

    def __init__(self, topic: str, partition: int, wanted: int, end: int) -> None:
        super().__init__(
            f"offset {wanted} of {topic}/{partition} is after the log's end {end}: this isn't the log that was read "
            "before (a recreated topic?); start from its beginning with a new model name, or point to the old log"
        )
        self.topic = topic
        self.partition = partition
        self.wanted = wanted
        self.end = end


class LogTruncated(LogError):
    """The requested offset is after the log's end: its tail was lost, or the topic was recreated."""

    def __init__(self, topic: str, partition: int, wanted: int, start: int, end: int) -> None:
        super().__init__(
            f"{topic}/{partition}: offset {wanted} was wanted, but the log now starts at {start} and ends at {end}: "
            "its tail was lost, or the topic was recreated, and new records would be taken for old ones. To continue "
            "with what was appended since, start again with --accept-gap; what was lost stays lost"
        )


class Poisoned(LogError):
    """Only invalid events have arrived for long: their producer is broken."""


class SnapshotError(ThalwegError):
    """A snapshot is invalid or can't be transferred."""


class StoreUnavailable(SnapshotError):
    """No snapshot store answers; a later retry may help."""


class BadSnapshot(SnapshotError):
    """Bytes that don't match their digest, shape or spec."""


class Fenced(SnapshotError):
    """Another learner owns the model: this one must stop."""


class CheckpointError(ThalwegError):
    """A checkpoint can't be written or read, or belongs to another spec."""


class BackupError(ThalwegError):
    """A backup can't be written or read, or is damaged."""


REFUSALS: Final = (SettingsError, SpecError, LogGap, LogReset, LogTruncated, Poisoned, Fenced, CheckpointError)
