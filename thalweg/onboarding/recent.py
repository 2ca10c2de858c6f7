"""A map that forgets what is oldest."""

from collections.abc import Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """A map of two generations, of `most` entries each: of more it forgets the oldest."""

    __slots__ = ("most", "old", "young")

    def __init__(self, most: int = 2**62) -> None:
        self.most = most
        self.young: dict[Hashable, V] = {}
        self.old: dict[Hashable, V] = {}

    def get(self, key: Hashable) -> V | None:
        """What was put last, if it isn't forgotten."""
        known = self.young.get(key)
        return self.old.get(key) if known is None else known

    def put(self, key: Hashable, value: V) -> None:
        """Remember it; the generation ends when it is full."""
        self.young[key] = value
        if len(self.young) >= self.most:
            self.turn()

    def turn(self) -> None:
        """End the generation: the one before it is forgotten."""
        self.old, self.young = self.young, {}
