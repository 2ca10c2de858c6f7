"""The learner's dead letters, until the log has confirmed them."""

from contextlib import closing
from typing import Final

import structlog

from learner.training.training_records import RecordEncoder
from stream.events.codec import encode
from stream.events.topics import ERASED, EXAMPLES
from stream.events.types import Removal
from stream.log.dead_letters import Outgoing, dead_letter
from stream.log.protocol import Log, Record
from stream.runtime.errors import LogGap

BATCH = 100
POLL_S: Final = 0.5
log = structlog.get_logger("learner")


class DeadLetterBuffer:
    """Unconfirmed dead letters in order; `count`: all so far. What erasures removed goes with them."""

    def __init__(self, log_: Log) -> None:
        self._log = log_
        self._unconfirmed: list[Outgoing] = []
        self.count = 0

    def add(self, original: bytes, reason: str, source: Record) -> None:
        """Buffer the dead letter of a rejected event."""
        self.count += 1
        self._unconfirmed.append(dead_letter(original, "BadEvent", reason, source))
        log.warning("a dead letter", reason=reason, offset=source.offset)

    def add_removal(self, removal: Removal) -> None:
        """Buffer what an erasure removed, which goes the same way."""
        key = f"{removal.user}\x00{removal.room}".encode()
        self._unconfirmed.append(Outgoing(ERASED.name, 0, encode(removal), key))
        log.info("a user is erased", **removal.counts)

    def confirm(self) -> None:
        """Send all and wait until the log has them; after a failure the next call resends the others.

        The first is sent alone: while their topic is unavailable, each attempt sends one. Raises LogUnavailable,
        LogError.
        """
        count = 1
        while self._unconfirmed:
            for outgoing in self._unconfirmed[:count]:
                self._log.send(*outgoing)
            self._log.flush()
            del self._unconfirmed[:count]
            count = BATCH


def pass_over(log_: Log, encoder: RecordEncoder, first: int, end: int) -> None:
    """Write the dead letters of records [first, end) that this learner won't learn, since its model has learned them
    elsewhere. Raises LogUnavailable, LogError; records that the log no longer has are passed over.
    """
    letters = DeadLetterBuffer(log_)
    try:
        with closing(log_.reader(EXAMPLES.name, {0: first})) as reader:
            while first < end:
                read = reader.poll(POLL_S)
                for chunk in encoder.records([record for record in read if record.offset < end]):
                    for origin, rejected in zip(chunk.origins, chunk.rejected, strict=True):
                        for raw, reason in rejected:
                            letters.add(raw, reason, origin)
                letters.confirm()
                first = read[-1].offset + 1 if read else first
    except LogGap as gap:
        log.error(
            "records between a checkpoint and its new model are gone, and with them their dead letters", reason=str(gap)
        )
        if gap.start < end:
            pass_over(log_, encoder, gap.start, end)
