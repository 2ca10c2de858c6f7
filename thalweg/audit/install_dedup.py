"""Which installs of one id count: deduplicated, and when they are taken back."""

from collections.abc import Iterable

from thalweg.audit.log_events import InstallEvent


def counted(of_id: Iterable[InstallEvent], life_ms: int) -> list[tuple[InstallEvent, InstallEvent | None]]:
    """Of all events of one install id, in order: the installs that count, each with the retraction that voids it.

    An id is known by the first event that is read of it, until that is forgotten: then by its latest retraction, if
    that isn't forgotten, too. What comes meanwhile is a duplicate, unless it is newer than the retraction that the id
    is known by.
    """
    voids: dict[int, InstallEvent | None] = {}
    installs: list[InstallEvent] = []
    known: InstallEvent | None = None
    back: InstallEvent | None = None  # the latest retraction of the install that the id is known by
    for one in of_id:
        if known is not None and one.watermark_ms >= known.time_ms + life_ms:
            known, back = back, None
            if known is not None and one.watermark_ms >= known.time_ms + life_ms:
                known = None
        if known is None or (known.retracted and known.time_ms < one.time_ms):
            known, back = one, None
            if not one.retracted:
                installs.append(one)
                voids[one.seq] = None
        elif one.retracted and not known.retracted and one.time_ms >= known.time_ms:
            voids[known.seq] = voids[known.seq] or one
            if one.time_ms > (back or known).time_ms:
                back = one
    return [(one, voids[one.seq]) for one in installs]
