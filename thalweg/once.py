"""Which installs of one id count: told apart from their repetitions, and when they are taken back."""

from collections.abc import Iterable
from typing import Final, NamedTuple

NEVER: Final = 2**62


class Told(NamedTuple):
    """An install or a retraction where it stands in its partition, in time for its own page."""

    seq: int
    time_ms: int
    retracted: bool
    watermark_ms: int  # with it


def counted(told: Iterable[Told], life_ms: int) -> dict[int, int]:
    """Of what a partition says of one id, in order: the places of the installs that count, and where each is void.

    An id is known by the first that is read of it, until that is forgotten: then by its latest retraction, if that
    isn't, too. What comes meanwhile is a repetition, unless it is newer than the retraction that the id is known by.

    >>> counted([Told(0, 10, False, 10), Told(1, 12, False, 12), Told(2, 15, True, 15), Told(3, 99, False, 99)], 30)
    {0: 2, 3: 4611686018427387904}
    """
    voids: dict[int, int] = {}
    known: Told | None = None
    back: Told | None = None  # the latest retraction of the install that the id is known by
    for one in told:
        if known is not None and one.watermark_ms >= known.time_ms + life_ms:
            known, back = back, None
            if known is not None and one.watermark_ms >= known.time_ms + life_ms:
                known = None
        if known is None or (known.retracted and known.time_ms < one.time_ms):
            known, back = one, None
            if not one.retracted:
                voids[one.seq] = NEVER
        elif one.retracted and not known.retracted and one.time_ms >= known.time_ms:
            voids[known.seq] = min(voids[known.seq], one.seq)
            if one.time_ms > (back or known).time_ms:
                back = one
    return voids
