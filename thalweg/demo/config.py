"""What a demo plays, and how fast."""

import math
from dataclasses import dataclass
from typing import Final, Literal

World = Literal["store", "movielens"]
REPLIES_CHECKED: Final = 500
MOVIELENS_PAGES: Final = 100_000  # of MovieLens-100k
STORE_SECONDS: Final = 100.0  # a day of the store's world


@dataclass(frozen=True)
class DemoConfig:
    """`limit`: pages at most; `seconds`: time at most; 0 of both: all of MovieLens, or a day of the store.

    `rate`: pages a second, 0: 100 of the store, 1,000 of MovieLens. `rps`: requests a second of MovieLens' client; in
    the store each page is a request. `keep`: the demo stays up.
    """

    world: World = "store"
    seconds: float = 0.0
    limit: int = 0
    rate: float = 0.0
    rps: float = 50.0
    keep: bool = False
    seed: int = 0

    @property
    def pages_a_second(self) -> float:
        """The rate, or the world's own."""
        return self.rate or {"store": 100.0, "movielens": 1_000.0}[self.world]

    @property
    def pages(self) -> int:
        """How many pages are played."""
        if self.world == "store":
            seconds = self.seconds or (math.inf if self.limit else STORE_SECONDS)
            return max(1, round(min(self.limit or math.inf, seconds * self.pages_a_second)))
        by_time = round(self.seconds * self.pages_a_second) if self.seconds else MOVIELENS_PAGES
        return max(1, min(MOVIELENS_PAGES, self.limit or MOVIELENS_PAGES, by_time))

    @property
    def sample_every(self) -> int:
        """Every Nth reply is kept whole for a check: twice as many as are needed."""
        replies = self.pages if self.world == "store" else self.pages / self.pages_a_second * self.rps
        return max(1, round(replies / (2 * REPLIES_CHECKED)))
