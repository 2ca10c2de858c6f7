"""For how long the oldest unprocessed record of a partition has waited, from what its reader knows."""


class LagAge:
    """Of one partition. `started_ms`: when its reader began; times are epoch ms.

    The next record was appended after the last processed one, and after the last moment at which none waited. So the
    age is never less than the true one, and more only by the pause between two records that follow each other, or by
    the time between two calls.

    >>> age = LagAge(started_ms=0)
    >>> age.seconds(0, processed_ms=1_000, now_ms=600_000), age.seconds(1, processed_ms=1_000, now_ms=600_250)
    (0.0, 0.25)
    >>> age.seconds(5, processed_ms=600_200, now_ms=604_200)
    4.0
    """

    def __init__(self, started_ms: int) -> None:
        self._started_ms = started_ms
        self._none_waited_ms = 0

    def seconds(self, records: int, processed_ms: int, now_ms: int) -> float:
        """The age now, seconds, 0 if no record waits. `processed_ms`: append time of the last processed record; 0:
        unknown, then the age counts from the start.
        """
        if not records:
            self._none_waited_ms = now_ms
            return 0.0
        since_ms = max(processed_ms, self._none_waited_ms) or self._started_ms
        return max(0, now_ms - since_ms) / 1_000
