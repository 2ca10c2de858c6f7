"""A clock that a simulation moves."""

from dataclasses import dataclass


@dataclass
class VirtualClock:
    """`wall_ms` is what the simulation has set; nobody sleeps."""

    time_ms: int

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return self.time_ms

    def now_s(self) -> float:
        """Seconds since 1970: it never goes back."""
        return self.time_ms / 1_000
