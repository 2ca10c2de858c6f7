"""Which items are candidates of a request that names none: the spec's table `retrieval`."""

from typing import Annotated, Final, Literal, get_args

from msgspec import Meta

from stream.spec.values import Bound, Count, Duration, Part

Source = Literal["together", "neighbours", "same", "trending", "new", "popular"]
Candidates = Annotated[int, Meta(ge=1, le=1000)]
Quota = Annotated[int, Meta(ge=0, le=1000)]
ListLength = Annotated[int, Meta(ge=2, le=1000, multiple_of=2)]
VectorDim = Annotated[int, Meta(ge=2, le=512, multiple_of=2)]
RankWeight = Annotated[float, Meta(ge=0, le=4)]

SOURCES: Final[tuple[Source, ...]] = get_args(Source)


class Kept(Part, frozen=True):
    """What the learner keeps for `together` and `neighbours`, moved by each install.

    `list_length`: items in the list of those installed with an item, 12 bytes each; `vector_dim`: of an item's vectors.
    `half_life` of lists, in event time. Over `max_items` and `max_users` those that changed least recently are evicted.
    """

    list_length: ListLength = 200
    vector_dim: VectorDim = 32
    half_life: Duration | None = "90d"
    max_items: Bound = 100_000
    max_users: Bound = 1_000_000


class Retrieval(Part, frozen=True):
    """`count` candidates: of each source as many as its quota says, and what is left over of popular items.

    `together`: items that are installed together with the user's last ones; `neighbours`: items whose vectors are near
    those of the user's last ones; these two share their quotas, and what both find comes first. `same`: items that
    share a value of a column of `same_by` with the user's last items. `trending`: installs in the last
    `trending_half_life` above what the item's own past leads to expect. `new`: items with less than `new_below`
    impressions, others in each request. `popular`: most installs, which halve with each `popular_half_life` of event
    time (by default as the statistic of installs says). An item counts for the first of the sources, in this order,
    that finds it.

    `rank_weight`: how much the order in which items are retrieved counts in the page's: rank r of n candidates adds
    `rank_weight` · ln((5 + n) / (5 + r)) to the logit that it's ordered by; its score stays.
    """

    count: Candidates = 100
    together: Quota = 0
    neighbours: Quota = 0
    same: Quota = 0
    trending: Quota = 0
    new: Quota = 0
    popular: Quota = 0
    same_by: list[str] = []
    trending_half_life: Duration = "1d"
    new_below: Count = 100
    popular_half_life: Duration | None = None
    rank_weight: RankWeight = 0.0
    kept: Kept = Kept()

    def quotas(self) -> dict[Source, int]:
        """The quota of each source."""
        return {source: getattr(self, source) for source in SOURCES}

    @property
    def list_length(self) -> int:
        """Items in a list that the learner keeps; 0: `together` isn't used."""
        return self.kept.list_length if self.together else 0

    @property
    def vector_dim(self) -> int:
        """Size of the vectors that the learner keeps; 0: `neighbours` isn't used."""
        return self.kept.vector_dim if self.neighbours else 0

    @property
    def is_learned(self) -> bool:
        """Whether the learner keeps anything for it."""
        return self.list_length + self.vector_dim > 0
