"""Which items were shown lately: their names, for rankers to retrieve from. Bounded in number and in event time."""

from collections.abc import Iterable, Sequence
from typing import Final

from stream.snapshots.shown_items import ITEMS_MAX, NAME_MAX

GENERATION_MAX: Final = 5_000  # items
GENERATION_MS: Final = 84 * 3_600_000  # of event time: a name is forgotten about a week after it was shown last


class ShownItems:
    """Two generations of names: when the young one is full or old, it becomes the old one, which is forgotten.

    So an item is known while fewer than 5,000 others are shown, for 84 hours at least. `changed`: whether
    `names` may differ from what they were when its owner last set it to False.
    """

    def __init__(self, young: Iterable[str] = (), old: Iterable[str] = (), since_ms: int = 0) -> None:
        self.young, self.old, self.since_ms = set(young), set(old), since_ms
        self.changed = True

    def show(self, items: Sequence[str], time_ms: int) -> None:
        """A page of these items (at most 1,000) was learned; `time_ms`: its event time."""
        if len(self.young) >= GENERATION_MAX or time_ms - self.since_ms > GENERATION_MS:
            self.young, self.old, self.since_ms, self.changed = set(), self.young, time_ms, True
        young = self.young
        if new := [item for item in items if item not in young and 0 < len(item) <= NAME_MAX]:
            young.update(new)
            self.changed = True

    @property
    def names(self) -> set[str]:
        """All that are known."""
        names = self.young | self.old
        assert len(names) <= ITEMS_MAX, "two generations and a page are fewer"
        return names
