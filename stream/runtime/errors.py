"""Every error that Thalweg raises on purpose.

    ThalwegError
    ├── SettingsError        a setting is missing or makes no sense
    ├── SpecError            a spec file is wrong: the message names line and remedy
    ├── StackError           the local stack can't be started or stopped
    ├── DataError            a data set can't be had, or isn't what it should be
    ├── BadEvent             bytes or fields that can't be taken: they become a dead letter
    ├── LogError             the log refused or failed
    │   ├── LogUnavailable   no broker answers: worth trying again
    │   ├── LogGap           the wanted offset is older than the log's start
    │   ├── LogTruncated     the wanted offset lies behind the log's end
    │   └── Poisoned         nothing but events that can't be taken in has come for long
    ├── SnapshotError        a snapshot can't be trusted or moved
    │   ├── StoreUnavailable no snapshot store answers: worth trying again
    │   ├── BadSnapshot      bytes that aren't what their digest, shape or spec says
    │   └── Fenced           another learner owns the model
    └── CheckpointError      a checkpoint can't be written, read, or belongs to another spec

A message says what happened, why, and what to do next. Errors of libraries are translated where
the library is called (Kafka's in `kafka_client.py`, Redis's in `redis_client.py`), and nowhere else.
"""


class ThalwegError(Exception):
    """Root of all errors that a caller may want to catch or a person may want to read."""


class SettingsError(ThalwegError):
    """A setting is missing or makes no sense."""


class SpecError(ThalwegError):
    """A spec file is wrong; the message names where and the remedy."""


class StackError(ThalwegError):
    """The local stack can't be started or stopped."""


class DataError(ThalwegError):
    """A data set can't be had, or isn't what it should be."""


class BadEvent(ThalwegError):
    """Bytes or fields that can't be taken in; they become a dead letter with this message."""


class LogError(ThalwegError):
    """The log refused or failed."""


class LogUnavailable(LogError):
    """No broker answers; trying again later may help."""


class LogGap(LogError):
    """The wanted offset is older than the log's start: records between them are gone."""

    def __init__(self, topic: str, partition: int, wanted: int, start: int) -> None:
        super().__init__(
            f"{topic}/{partition}: offset {wanted} was wanted, but the log now starts at {start}: {start - wanted} "
            "records are gone (retention); to go on without them, start again with --accept-gap"
        )
        self.topic = topic
        self.partition = partition
        self.wanted = wanted
        self.start = start


class LogTruncated(LogError):
    """The wanted offset lies behind the log's end: its tail was lost, or the topic was made anew."""

    def __init__(self, topic: str, partition: int, wanted: int, start: int, end: int) -> None:
        super().__init__(
            f"{topic}/{partition}: offset {wanted} was wanted, but the log now starts at {start} and ends at {end}: "
            "its tail was lost, or the topic was made anew, and new records would be taken for old ones. To go on with "
            "what was appended since, start again with --accept-gap; what was lost stays lost"
        )
        self.topic = topic
        self.partition = partition
        self.wanted = wanted
        self.start = start
        self.end = end


class Poisoned(LogError):
    """Nothing but events that can't be taken in has come for long: whoever writes them is broken."""


class SnapshotError(ThalwegError):
    """A snapshot can't be trusted or moved."""


class StoreUnavailable(SnapshotError):
    """No snapshot store answers; trying again later may help."""


class BadSnapshot(SnapshotError):
    """Bytes that aren't what their digest, shape or spec says."""


class Fenced(SnapshotError):
    """Another learner owns the model: this one must stop."""


class CheckpointError(ThalwegError):
    """A checkpoint can't be written or read, or belongs to another spec."""
