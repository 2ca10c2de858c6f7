"""A bounded map that evicts the oldest entries."""

from collections.abc import Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class RecentMap(Generic[V]):
    """A map of two generations of up to `capacity` entries each; the older one is evicted as a whole."""

    __slots__ = ("capacity", "old", "young")

    def __init__(self, capacity: int = 2**62) -> None:
        self.capacity = capacity
        self.young: dict[Hashable, V] = {}
        self.old: dict[Hashable, V] = {}

    def get(self, key: Hashable) -> V | None:
        """The value that was put last; None if it was evicted."""
        known = self.young.get(key)
        return self.old.get(key) if known is None else known

    def put(self, key: Hashable, value: V) -> None:
        """Put a value; a full generation ends."""
        self.young[key] = value
        if len(self.young) >= self.capacity:
            self.rotate()

    def rotate(self) -> None:
        """End the young generation and evict the old one."""
        self.old, self.young = self.young, {}
