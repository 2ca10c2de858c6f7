"""The learner's dead letters, until the log has confirmed them."""

import structlog

from stream.log.dead_letters import Outgoing, dead_letter
from stream.log.protocol import Log, Record

BATCH = 100
log = structlog.get_logger("learner")


class DeadLetterBuffer:
    """Unconfirmed dead letters in order; `count`: all so far."""

    def __init__(self, log_: Log) -> None:
        self._log = log_
        self._unconfirmed: list[Outgoing] = []
        self.count = 0

    def add(self, original: bytes, reason: str, source: Record) -> None:
        """Buffer the dead letter of a rejected event."""
        self.count += 1
        self._unconfirmed.append(dead_letter(original, "BadEvent", reason, source))
        log.warning("a dead letter", reason=reason, offset=source.offset)

    def confirm(self) -> None:
        """Send all and wait until the log has them; after a failure the next call resends the others.

        The first is sent alone: while their topic is unavailable, each attempt sends one. Raises LogUnavailable,
        LogError.
        """
        count = 1
        while self._unconfirmed:
            for outgoing in self._unconfirmed[:count]:
                self._log.send(outgoing.topic, outgoing.partition, outgoing.value)
            self._log.flush()
            del self._unconfirmed[:count]
            count = BATCH
