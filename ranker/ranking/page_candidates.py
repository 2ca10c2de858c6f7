"""Candidates of a page under rules: given or retrieved, without what filters remove, and with what is pinned."""

from collections.abc import Callable, Collection
from itertools import compress
from typing import Final

from ranker.retrieval.candidates import Candidates
from ranker.rules.item_tests import item_rows
from ranker.rules.page_rules import PageRules
from stream.features.page_features import Catalogue
from stream.runtime.errors import BadEvent

PINNED: Final = "pinned"  # the source of an item that is shown though it was neither given nor retrieved
ROUNDS_MAX: Final = 3  # of retrieval, for what filters remove

Retriever = Callable[[Collection[str]], Candidates]  # of items that aren't among these


def under_rules(
    given: Candidates, retrieved: Retriever, rules: PageRules, catalogue: Catalogue, pinned: list[str]
) -> Candidates:
    """The candidates to be scored; pinned ones come first, so that they are scored whatever the deadline.

    What filters remove of retrieved candidates is retrieved again from the next ones. Empty when nothing is retrieved;
    raises BadEvent when rules leave nothing.
    """
    pinned = [item for item in pinned if item not in given.names]
    pins = _filtered(Candidates(pinned, [PINNED] * len(pinned), [1] * len(pinned)), rules, catalogue, ())
    if given.names:
        found = _filtered(given, rules, catalogue, given.names)
    else:
        found = _filled_up(retrieved, rules, catalogue, pinned)
    if not pins.names and not found.names and rules.is_cut:
        counts = ", ".join(f"{name} {count}" for name, count in rules.removed.items())
        raise BadEvent(f"nothing to rank: rules removed all candidates ({counts}); name others, or other rules")
    if not pins.names:
        return found
    sources = ([], []) if given.names else (pins.sources + found.sources, pins.source_ranks + found.source_ranks)
    return Candidates(pins.names + found.names, *sources)


def _filled_up(retrieved: Retriever, rules: PageRules, catalogue: Catalogue, pinned: list[str]) -> Candidates:
    """Retrieved candidates that filters leave."""
    excluded = {*rules.left_out, *pinned}
    for _ in range(ROUNDS_MAX):
        found = retrieved(excluded)
        kept = _filtered(found, rules, catalogue, ())
        if kept is found:
            break
        excluded |= {*found.names}.difference(kept.names)
    rules.count_left_out(found.passed_over.difference(pinned))  # those are filtered, and counted, by themselves
    return kept


def _filtered(candidates: Candidates, rules: PageRules, catalogue: Catalogue, given: Collection[str]) -> Candidates:
    """The same object when all stay."""
    if not rules.filters or not candidates.names:
        return candidates
    kept = rules.kept(item_rows(candidates.names, catalogue.lookup(candidates.names)[0]), given)
    if kept.all():
        return candidates
    return Candidates(
        [*compress(candidates.names, kept)], [*compress(candidates.sources, kept)],
        [*compress(candidates.source_ranks, kept)],
    )  # fmt: skip
