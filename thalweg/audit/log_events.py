"""Events as the audit stores them: each with its offset and the watermark there."""

from typing import Final

import msgspec
import xxhash

from stream.events.codec import encode
from stream.events.types import Impression, Install, SourceEvent

NEVER: Final = 2**62


class PageEvent(msgspec.Struct, array_like=True, tag=1, gc=False, frozen=True):
    """A page, or a further page under its request id."""

    seq: int  # index among the partition's events
    watermark_ms: int  # after it
    partition: int
    offset: int
    ingest_ms: int
    time_ms: int
    user: str
    request_id: str
    items: list[str]
    digest: int


class InstallEvent(msgspec.Struct, array_like=True, tag=2, gc=False, frozen=True):
    """An install or a retraction. `request_id`: the page that it names, if any."""

    seq: int
    watermark_ms: int
    partition: int
    offset: int
    ingest_ms: int
    time_ms: int
    user: str
    item: str
    install_id: str
    request_id: str = ""
    retracted: bool = False


LogEvent = PageEvent | InstallEvent


def page_digest(page: Impression) -> int:
    """A digest of a page's content."""
    return xxhash.xxh3_64_intdigest(encode(page))


class PartitionCursor:
    """Numbers a partition's events as they are read, and advances its watermark."""

    def __init__(self, partition: int, lateness_ms: int) -> None:
        self.watermark_ms = 0
        self._partition = partition
        self._lateness_ms = lateness_ms
        self._seq = 0

    def add(self, event: SourceEvent, offset: int, ingest_ms: int) -> LogEvent | None:
        """The next event; None for a tick, which only advances the watermark. No event advances it past its append."""
        self._seq += 1
        self.watermark_ms = max(self.watermark_ms, min(event.time_ms, ingest_ms) - self._lateness_ms)
        position = (self._seq, self.watermark_ms, self._partition, offset, ingest_ms, event.time_ms)
        if isinstance(event, Impression):
            return PageEvent(*position, event.user, event.request_id, event.items, page_digest(event))
        if isinstance(event, Install):
            return InstallEvent(
                *position, event.user, event.item, event.install_id, event.request_id, retracted=event.retracted
            )
        return None
