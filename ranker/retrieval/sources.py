"""All sources by name. A new one is a file with a function, a line here, and a quota in the spec."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from ranker.retrieval.neighbours import neighbours
from ranker.retrieval.new import few_impressions, new
from ranker.retrieval.pools import Keys, Query, SweptItems
from ranker.retrieval.popular import popular
from ranker.retrieval.same import same
from ranker.retrieval.together import together
from ranker.retrieval.trending import trending

# Items are ordered for all users alike, off the request path.
ORDERS: Final[Mapping[str, Callable[[SweptItems], Keys]]] = {
    "popular": popular,
    "trending": trending,
    "new": few_impressions,
}
# Names of items, best first, for one request; the user's own ones may be among them.
BY_REQUEST: Final[Mapping[str, Callable[[Query], Iterable[str]]]] = {
    "together": together,
    "neighbours": neighbours,
    "same": same,
    "new": new,
}


def found_by(source: str, query: Query) -> Iterable[str]:
    """What a source retrieves for a request, best first."""
    by_request = BY_REQUEST.get(source)
    return by_request(query) if by_request else query.pools.orders.get(source, ())
