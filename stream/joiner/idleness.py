"""When a partition is idle, so that its event time may advance by wall-clock time. Pure: times are passed in.

Only a watermark that advances ends idleness: events that are late, from the future or undecodable don't. After a broker
outage producers return later than the joiner, with buffered events. So a partition isn't idle until an event was
appended after the outage, or a grace period has passed.
"""

from dataclasses import dataclass


@dataclass
class Idleness:
    """Of one partition; times are the monotonic clock's, in s."""

    active_at: float
    watermark_ms: int
    _resumes_at: int | None = None  # after an outage: the log's end offset when it was over
    _grace_until: float = 0.0

    def observe(self, watermark_ms: int, event_offset: int, now: float) -> None:
        """Records were joined: the watermark behind them, and the newest offset with a page or an install."""
        if watermark_ms > self.watermark_ms:
            self.watermark_ms = watermark_ms
            self.active_at = now
        if self._resumes_at is not None and event_offset >= self._resumes_at:
            self._resumes_at = None
            self.active_at = now  # buffered events follow

    def restart(self, now: float) -> None:
        """A Tick was written."""
        self.active_at = now

    def end_outage(self, end_offset: int, now: float, grace_s: float) -> None:
        """A broker is reachable again; the log ends here now."""
        self._resumes_at = end_offset
        self._grace_until = now + grace_s

    def duration_ms(self, now: float) -> int:
        """How long the partition has been idle; 0 while an outage makes that unknown."""
        if self._resumes_at is not None and now < self._grace_until:
            return 0
        return max(0, round((now - self.active_at) * 1000))
