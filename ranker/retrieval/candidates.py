"""Candidates of a request: each source's share, without duplicates, filled up to their number."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from ranker.retrieval.pools import Query
from ranker.retrieval.sources import found_by
from stream.spec.retrieval import Source

FILLED_UP: Final[Source] = "popular"  # what quotas leave over


@dataclass
class Candidates:
    """Items; what retrieved each, and its rank there, from 1, among those that may be retrieved. Empty: given ones.

    `passed_over`: excluded items that sources had.
    """

    names: list[str]
    sources: list[str] = field(default_factory=list)
    source_ranks: list[int] = field(default_factory=list)
    passed_over: set[str] = field(default_factory=set)


def retrieve(query: Query, excluded: Collection[str], is_deleted: Callable[[str], bool]) -> Candidates:
    """At most `count` items, none of them excluded: each source's quota, in the spec's order; then popular ones, and
    if these don't suffice, what else the sources have.
    """
    settings, found = query.settings, Candidates([])
    seen: set[str] = set()

    def allowed(name: str) -> bool:
        if name in excluded:
            found.passed_over.add(name)
            return False
        return bool(name) and not is_deleted(name)

    quotas = {source: quota for source, quota in settings.quotas().items() if quota} | {FILLED_UP: settings.popular}
    ranked = {source: enumerate(filter(allowed, found_by(source, query)), 1) for source in quotas}

    def take(source: Source, count: int) -> None:
        if count <= 0:
            return
        for rank, name in ranked[source]:
            if name in seen:
                continue
            seen.add(name)
            found.names.append(name)
            found.sources.append(source)
            found.source_ranks.append(rank)
            count -= 1
            if not count:
                return

    for source, quota in quotas.items():
        take(source, quota)
    for source in (FILLED_UP, *quotas):
        take(source, settings.count - len(found.names))
    return found
