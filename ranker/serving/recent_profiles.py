"""A bounded cache of the profiles that were read lately."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from stream.history.profiles import UserProfile

TTL_S: Final = 60.0
WEIGHT_MAX: Final = 200_000  # users, items of their histories, attributes and values in their lists, all together


class RecentProfiles:
    """Each user's profile for `ttl_s` since it was read, the oldest evicted first. Threads may share it.

    Of an erased user nothing is kept for `ttl_s`: a read that had begun before, or that Redis answers before it has
    erased the user too, would bring the profile back.
    """

    def __init__(
        self, now_s: Callable[[], float] = time.monotonic, ttl_s: float = TTL_S, weight_max: int = WEIGHT_MAX
    ) -> None:
        self._now_s, self._ttl_s, self._weight_max = now_s, ttl_s, weight_max
        self._lock = threading.Lock()
        self._profiles: dict[str, tuple[UserProfile, float]] = {}  # and when it was read, oldest first
        self._erased: dict[str, float] = {}  # when, oldest first
        self._weight = 0

    def put(self, profiles: Mapping[str, UserProfile]) -> None:
        """Add or replace profiles."""
        now_s = self._now_s()
        with self._lock:
            self._expire_erased(now_s)
            for user, profile in profiles.items():
                self._remove(user)
                if user not in self._erased:
                    self._profiles[user] = profile, now_s
                    self._weight += _weight(profile)
            while self._profiles:
                oldest, (_, read_s) = next(iter(self._profiles.items()))
                if self._weight <= self._weight_max and now_s - read_s < self._ttl_s:
                    break
                self._remove(oldest)

    def erase(self, user: str) -> None:
        """Drop a user's profile, and keep none for `ttl_s`."""
        now_s = self._now_s()
        with self._lock:
            self._remove(user)
            self._erased.pop(user, None)
            self._erased[user] = now_s
            self._expire_erased(now_s)

    def clear(self) -> None:
        """Drop all profiles."""
        with self._lock:
            self._profiles.clear()
            self._weight = 0

    def get(self, user: str) -> UserProfile | None:
        """The profile, unless it's unknown or expired."""
        profile, read_s = self._profiles.get(user, (None, 0.0))
        return profile if self._now_s() - read_s < self._ttl_s else None

    def _expire_erased(self, now_s: float) -> None:
        while self._erased and now_s - next(iter(self._erased.values())) >= self._ttl_s:
            del self._erased[next(iter(self._erased))]

    def _remove(self, user: str) -> None:
        if user in self._profiles:
            self._weight -= _weight(self._profiles.pop(user)[0])


def _weight(profile: UserProfile) -> int:
    attributes = profile.attributes or {}
    in_lists = sum(len(value) for value in attributes.values() if isinstance(value, list))
    return 1 + len(profile.history or ()) + len(attributes) + in_lists
