"""A bounded cache of the profiles that were read lately."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from stream.history.profiles import UserProfile

TTL_S: Final = 60.0
WEIGHT_MAX: Final = 200_000  # users, items of their histories, and attributes, all together


class RecentProfiles:
    """Each user's profile for `ttl_s` since it was read, the oldest evicted first. Threads may share it."""

    def __init__(
        self, now_s: Callable[[], float] = time.monotonic, ttl_s: float = TTL_S, weight_max: int = WEIGHT_MAX
    ) -> None:
        self._now_s, self._ttl_s, self._weight_max = now_s, ttl_s, weight_max
        self._lock = threading.Lock()
        self._profiles: dict[str, tuple[UserProfile, float]] = {}  # and when it was read, oldest first
        self._weight = 0

    def put(self, profiles: Mapping[str, UserProfile]) -> None:
        """Add or replace profiles."""
        now_s = self._now_s()
        with self._lock:
            for user, profile in profiles.items():
                self._remove(user)
                self._profiles[user] = profile, now_s
                self._weight += _weight(profile)
            while self._profiles:
                oldest, (_, read_s) = next(iter(self._profiles.items()))
                if self._weight <= self._weight_max and now_s - read_s < self._ttl_s:
                    break
                self._remove(oldest)

    def remove(self, user: str) -> None:
        """Drop a user's profile, if there is one."""
        with self._lock:
            self._remove(user)

    def get(self, user: str) -> UserProfile | None:
        """The profile, unless it's unknown or expired."""
        profile, read_s = self._profiles.get(user, (None, 0.0))
        return profile if self._now_s() - read_s < self._ttl_s else None

    def _remove(self, user: str) -> None:
        if user in self._profiles:
            self._weight -= _weight(self._profiles.pop(user)[0])


def _weight(profile: UserProfile) -> int:
    return 1 + len(profile.history or ()) + len(profile.attributes or ())
