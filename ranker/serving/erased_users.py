"""Follows the topic `erased`: every ranker drops an erased user's profile, whichever ranker was asked to erase."""

import logging
import threading
from collections.abc import Callable
from typing import Final

from stream.events.codec import decode_ledger
from stream.events.topics import ERASED
from stream.events.types import Erase
from stream.log.protocol import END, Log, Reader
from stream.runtime.errors import BadEvent, LogGap, LogUnavailable, MissingTopic

POLL_S: Final = 0.2
RETRY_S: Final = 1.0
MISSING_S: Final = 60.0  # between two looks for the topic, which earlier releases don't have

log = logging.getLogger(__name__)


class ErasedUsers:
    """Calls `drop` with each user that is erased, and `drop_all` where some may have been missed."""

    def __init__(self, source: Log, drop: Callable[[str], None], drop_all: Callable[[], None]) -> None:
        self._log, self._drop, self._drop_all = source, drop, drop_all

    def run(self, stop: threading.Event) -> None:
        """Follow the topic from now on until `stop` is set. Raises LogError when a retry won't help."""
        reader: Reader | None = None
        failing = False
        while not stop.is_set():
            try:
                reader = reader or self._begin()
                self._poll(reader)
                failing = False
            except MissingTopic:  # nobody can be erased
                stop.wait(MISSING_S)
            except LogUnavailable as error:
                if not failing:
                    log.warning("%s: %s; retrying", ERASED.name, error)
                failing = True
                stop.wait(RETRY_S)
        if reader is not None:
            reader.close()

    def _begin(self) -> Reader:
        reader = self._log.reader(ERASED.name, dict.fromkeys(self._log.ends(ERASED.name), END))
        self._drop_all()  # profiles that were read before it are older than this position
        return reader

    def _poll(self, reader: Reader) -> None:
        try:
            records = reader.poll(POLL_S)
        except LogGap as gap:
            reader.seek(gap.partition, gap.start)
            self._drop_all()
            return
        for record in records:
            try:
                event = decode_ledger(record.value or b"")
            except BadEvent as bad:
                log.warning("%s/%d offset %d is skipped: %s", record.topic, record.partition, record.offset, bad)
            else:
                if isinstance(event, Erase):
                    self._drop(event.user)
