"""Deduplicates the installs of one id, and finds the retractions that void them."""

from collections.abc import Iterable

from thalweg.audit.log_events import InstallEvent


def deduplicate(of_id: Iterable[InstallEvent], life_ms: int) -> list[tuple[InstallEvent, InstallEvent | None]]:
    """Of all events of one install id, in order: the installs that count, each with the retraction that voids it.

    An id is known by its first event until that expires, then by its latest retraction, unless that has expired, too.
    Meanwhile other events are duplicates, except an install that is newer than the retraction that the id is known by.
    """
    voids: dict[int, InstallEvent | None] = {}
    installs: list[InstallEvent] = []
    known: InstallEvent | None = None
    retraction: InstallEvent | None = None  # the latest one of the install that the id is known by
    for one in of_id:
        if known is not None and one.watermark_ms >= known.time_ms + life_ms:
            known, retraction = retraction, None
            if known is not None and one.watermark_ms >= known.time_ms + life_ms:
                known = None
        if known is None or (known.retracted and known.time_ms < one.time_ms):
            known, retraction = one, None
            if not one.retracted:
                installs.append(one)
                voids[one.seq] = None
        elif one.retracted and not known.retracted and one.time_ms >= known.time_ms:
            voids[known.seq] = voids[known.seq] or one
            if one.time_ms > (retraction or known).time_ms:
                retraction = one
    return [(one, voids[one.seq]) for one in installs]
