"""Names of items shown lately, for rankers to retrieve from. Bounded in number and in event time."""

from collections.abc import Iterable, Sequence
from typing import Final

from stream.snapshots.item_names import ITEMS_MAX, NAME_MAX

GENERATION_MAX: Final = 5_000  # items
GENERATION_MS: Final = 84 * 3_600_000  # of event time: a name expires about a week after it was last shown


class ShownItems:
    """Two generations of names: a full or old young one becomes the old one, and the old one is dropped.

    So an item stays while fewer than 5,000 others are shown, for 84 hours at least. `changed`: whether `names` may
    have changed since its owner last set it to False.
    """

    def __init__(self, young: Iterable[str] = (), old: Iterable[str] = (), since_ms: int = 0) -> None:
        self.young, self.old, self.since_ms = set(young), set(old), since_ms
        self.changed = True

    def add(self, items: Sequence[str], time_ms: int) -> None:
        """A page of these items (at most 1,000) was learned; `time_ms`: its event time."""
        if len(self.young) >= GENERATION_MAX or time_ms - self.since_ms > GENERATION_MS:
            self.young, self.old, self.since_ms, self.changed = set(), self.young, time_ms, True
        young = self.young
        if new := [item for item in items if item not in young and 0 < len(item) <= NAME_MAX]:
            young.update(new)
            self.changed = True

    @property
    def names(self) -> set[str]:
        """The names of both generations."""
        names = self.young | self.old
        assert len(names) <= ITEMS_MAX, "two generations and a page are fewer"
        return names
