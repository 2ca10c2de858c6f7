"""Candidates of a request: each source's share, without duplicates, filled up to their number."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ranker.retrieval.pools import Query
from ranker.retrieval.sources import found_by
from stream.spec.retrieval import Source

FILLED_UP: Final[Source] = "popular"  # what quotas leave over
FUSED: Final[tuple[Source, ...]] = ("together", "neighbours")  # those that go by the user's own items
RANK_OFFSET: Final = 60


class Found(NamedTuple):
    """An item that a source found, and its rank there, from 1, among those that may be retrieved."""

    source: Source
    rank: int
    name: str


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
    if these don't suffice, what else the sources have. FUSED sources share their quotas, in the order of `fused`.
    """
    settings, found = query.settings, Candidates([])
    seen: set[str] = set()

    def allowed(names: Iterable[str]) -> Iterator[str]:
        for name in names:
            if name in excluded:
                found.passed_over.add(name)
            elif name and not is_deleted(name):
                yield name

    quotas = {source: quota for source, quota in settings.quotas().items() if quota} | {FILLED_UP: settings.popular}
    names = {source: allowed(found_by(source, query)) for source in quotas}
    ranked = {source: _ranked(source, names[source]) for source in quotas}
    if all(map(quotas.get, FUSED)):
        both = {source: quotas.pop(source) for source in FUSED}
        quotas = {FUSED[0]: sum(both.values()), **quotas}
        ranked[FUSED[0]] = fused({source: names[source] for source in FUSED}, both)

    def take(source: Source, count: int) -> None:
        if count <= 0:
            return
        for one in ranked[source]:
            if one.name in seen:
                continue
            seen.add(one.name)
            found.names.append(one.name)
            found.sources.append(one.source)
            found.source_ranks.append(one.rank)
            count -= 1
            if not count:
                return

    for source, quota in quotas.items():
        take(source, quota)
    for source in (FILLED_UP, *quotas):
        take(source, settings.count - len(found.names))
    return found


def fused(ranked: Mapping[Source, Iterable[str]], quotas: Mapping[Source, int]) -> Iterator[Found]:
    """Sources' names merged by reciprocal ranks (Cormack et al. 2009): the sum of quota / (RANK_OFFSET + rank), so what
    both found comes first. An item counts for the source that adds most.
    """
    scores: dict[str, float] = {}
    ranks: dict[Source, dict[str, int]] = {}
    for source, names in ranked.items():
        quota, listed = quotas[source], [*names]
        last = RANK_OFFSET + len(listed)
        ranks[source] = dict(zip(listed, range(1, last), strict=False))
        for name, offset_rank in zip(listed, range(RANK_OFFSET + 1, last + 1), strict=True):
            scores[name] = scores.get(name, 0.0) + quota / offset_rank
    for name in sorted(scores, key=scores.__getitem__, reverse=True):
        most, best = 0.0, None
        for source, by in ranks.items():
            rank = by.get(name, 0)
            if rank and (share := quotas[source] / (RANK_OFFSET + rank)) > most:
                most, best = share, Found(source, rank, name)
        assert best is not None, "a source found it"
        yield best


def _ranked(source: Source, names: Iterable[str]) -> Iterator[Found]:
    return (Found(source, rank, name) for rank, name in enumerate(names, 1))
