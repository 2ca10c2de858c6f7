"""Which items are candidates of a request that names none: the spec's table `retrieval`."""

from typing import Annotated, Final, Literal, get_args

from msgspec import Meta

from stream.spec.values import Count, Duration, Part

Source = Literal["same", "trending", "new", "popular"]
Candidates = Annotated[int, Meta(ge=1, le=1000)]
Quota = Annotated[int, Meta(ge=0, le=1000)]

SOURCES: Final[tuple[Source, ...]] = get_args(Source)


class Retrieval(Part, frozen=True):
    """`count` candidates: of each source as many as its quota says, and what is left over of popular items.

    `same`: items that share a value of a column of `same_by` with the user's last items. `trending`: installs in the
    last `trending_half_life` above what the item's own past leads to expect. `new`: items with less than `new_below`
    impressions, others in each request. `popular`: most installs, which halve with each `popular_half_life` of event
    time (by default as the statistic of installs says). An item counts for the first of the sources, in this order,
    that finds it.
    """

    count: Candidates = 100
    same: Quota = 0
    trending: Quota = 0
    new: Quota = 0
    popular: Quota = 0
    same_by: list[str] = []
    trending_half_life: Duration = "1d"
    new_below: Count = 100
    popular_half_life: Duration | None = None

    def quotas(self) -> dict[Source, int]:
        """The quota of each source."""
        return {source: getattr(self, source) for source in SOURCES}
