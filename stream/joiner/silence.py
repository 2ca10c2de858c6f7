"""When a quiet partition's event time may go on by itself. Pure: times are passed in.

Only a watermark that moves is a sign of life: events that are late, from the future or can't be read are none. After an
outage of the broker silence says nothing for a while: producers come back later than the joiner, with events that they
held back. So a partition isn't silent then until an event was appended after the outage, or a grace has passed.
"""

from dataclasses import dataclass


@dataclass
class Silence:
    """Of one partition; times are the monotonic clock's, in s."""

    heard_at: float
    watermark_ms: int
    _resumes_at: int | None = None  # after an outage: where the log ended when it was over
    _grace_until: float = 0.0

    def heard(self, watermark_ms: int, event_offset: int, now: float) -> None:
        """Records were taken: the watermark behind them, and the newest record with an event that was taken so far."""
        if watermark_ms > self.watermark_ms:
            self.watermark_ms = watermark_ms
            self.heard_at = now
        if self._resumes_at is not None and event_offset >= self._resumes_at:
            self._resumes_at = None
            self.heard_at = now  # what was held back follows

    def ticked(self, now: float) -> None:
        """Event time was told to go on."""
        self.heard_at = now

    def outage_over(self, end: int, now: float, grace_s: float) -> None:
        """A broker answers again; the log ends here now."""
        self._resumes_at = end
        self._grace_until = now + grace_s

    def lasts_ms(self, now: float) -> int:
        """How long it has been silent for; 0 while that isn't known."""
        if self._resumes_at is not None and now < self._grace_until:
            return 0
        return max(0, round((now - self.heard_at) * 1000))
