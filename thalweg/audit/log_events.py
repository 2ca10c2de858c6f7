"""Events as the audit holds them: where each stands in its partition, and the watermark there."""

from collections.abc import Iterator
from typing import Final

import msgspec
import xxhash

from stream.events.codec import encode
from stream.events.types import Impression, Install, SourceEvent

NEVER: Final = 2**62


class PageEvent(msgspec.Struct, array_like=True, tag=1, gc=False, frozen=True):
    """A page, or a further page under its request id, where it stands in its partition."""

    seq: int  # order among the partition's events
    watermark_ms: int  # with it
    partition: int
    offset: int
    ingest_ms: int
    time_ms: int
    user: str
    request_id: str
    items: list[str]
    digest: int


class InstallEvent(msgspec.Struct, array_like=True, tag=2, gc=False, frozen=True):
    """An install or a retraction where it stands in its partition. `named`: the page that it names, if any."""

    seq: int
    watermark_ms: int
    partition: int
    offset: int
    ingest_ms: int
    time_ms: int
    user: str
    item: str
    install_id: str
    named: str = ""
    retracted: bool = False


LogEvent = PageEvent | InstallEvent


def digest_of(page: Impression) -> int:
    """Tells pages of different content apart."""
    return xxhash.xxh3_64_intdigest(encode(page))


class Partition:
    """One partition as it is read: the order of its events, and its watermark."""

    def __init__(self, partition: int, lateness_ms: int) -> None:
        self.partition = partition
        self.watermark_ms = 0
        self._lateness_ms = lateness_ms
        self._seq = 0

    def take(self, event: SourceEvent, offset: int, ingest_ms: int) -> Iterator[LogEvent]:
        """The next event. An event moves the watermark to its own arrival at most; a tick is nothing else."""
        self._seq += 1
        self.watermark_ms = max(self.watermark_ms, min(event.time_ms, ingest_ms) - self._lateness_ms)
        where = (self._seq, self.watermark_ms, self.partition, offset, ingest_ms, event.time_ms)
        if isinstance(event, Impression):
            yield PageEvent(*where, event.user, event.request_id, event.items, digest_of(event))
        elif isinstance(event, Install):
            yield InstallEvent(
                *where, event.user, event.item, event.install_id, event.request_id, retracted=event.retracted
            )
