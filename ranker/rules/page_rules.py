"""The rules of one request: which candidates they take away, and the order that they give to the others.

Filters come first and win over pins; pins win over caps' order and diversity, but no cap is ever exceeded.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ranker.kernels.page_order import (
    NOBODY,
    Caps,
    Likeness,
    PageState,
    fill,
    kept_off,
    next_keys,
    place_pins,
    take,
)
from ranker.kernels.rule_matching import gather, number_ids
from ranker.rules.item_attributes import ItemAttributes
from ranker.rules.item_tests import ItemRows, ItemTest
from ranker.rules.request_values import RequestValues
from stream.spec.rules import AnyRule, Boost, Cap, Diversity, Forbid, Installed, Pin, Require
from stream.tables.dtypes import F64, I64, U64, Bools

INSTALLED: Final = "installed"  # the name of the rule that a spec needn't have
ODDS_MIN: Final = 1e-12


@dataclass(frozen=True)
class NamedRule:
    """A rule, compiled: `test` of those about items, `where` its condition's texts by column."""

    name: str
    rule: AnyRule
    test: ItemTest | None
    where: dict[str, frozenset[str]]


class PageRules:
    """Rules for one page; `removed` counts, by rule, candidates that it took away. `is_cut`: others than what retrieval
    leaves out. `installed_name`: the rule by which it does.

    `owned`: what the user has installed. Call, in this order: `pinned`, `kept`, `places`, `count`.
    """

    def __init__(
        self, rules: Sequence[NamedRule], values: RequestValues, owned: Collection[str], attributes: ItemAttributes
    ) -> None:
        self.removed: dict[str, int] = {}
        self.is_cut = False
        self._values, self._attributes = values, attributes
        self._applied = [one for one in rules if all(values.has_any(*where) for where in one.where.items())]
        self._installed_of, self.installed_name = "retrieved", INSTALLED
        self._pins: list[tuple[int, str]] = []
        for one in self._applied:
            if isinstance(one.rule, Installed):
                self._installed_of, self.installed_name = one.rule.of, one.name  # the last one says
            elif isinstance(one.rule, Pin):
                self._pins.append((one.rule.position, one.rule.item))
        self._owned = frozenset() if self._installed_of == "none" else frozenset(owned)
        self._caps = [(one.name, one.rule) for one in self._applied if isinstance(one.rule, Cap)]
        self._filters = [one for one in self._applied if isinstance(one.rule, Require | Forbid)]
        self._boosts = [(one, one.rule) for one in self._applied if isinstance(one.rule, Boost)]
        self._diversity = next((one.rule for one in reversed(self._applied) if isinstance(one.rule, Diversity)), None)

    @property
    def left_out(self) -> Collection[str]:
        """Items that retrieval leaves out."""
        return self._owned

    @property
    def filters(self) -> bool:
        """Whether `kept` may be false for some."""
        return bool(self._filters or (self._owned and (self._installed_of == "all" or self._pins)))

    @property
    def orders(self) -> bool:
        """Whether the page isn't just the best scores."""
        return bool(self._caps or self._boosts or self._pins or self._diversity)

    def pinned(self, k: int, known: Collection[str]) -> list[str]:
        """Distinct items that are pinned at the first k positions, of those that are known."""
        return [*dict.fromkeys(item for position, item in self._pins if position <= k and item in known)]

    def count_left_out(self, names: Collection[str]) -> None:
        """Add to `removed` which of these, which retrieval had and left out, the user has installed."""
        if count := len(self._owned.intersection(names)):
            self.removed[self.installed_name] = self.removed.get(self.installed_name, 0) + count

    def kept(self, candidates: ItemRows, given: Collection[str]) -> Bools:
        """Which candidates filters leave, bool [n]; one counts for the first rule that removes it.

        `given`: the request's own candidates, from which only `of = "all"` takes what is installed.
        """
        kept = np.ones(len(candidates.names), bool)
        if self._owned and (self._installed_of == "all" or self._pins):
            spared = given if self._installed_of == "retrieved" else ()
            is_owned = [name in self._owned and name not in spared for name in candidates.names]
            self._remove(self.installed_name, kept, np.array(is_owned, bool))
        for one in self._filters:
            assert one.test is not None, "filters are about items"
            matches = one.test.matches(candidates, self._values, self._attributes)
            self._remove(one.name, kept, ~matches if isinstance(one.rule, Require) else matches)
        return kept

    def _remove(self, name: str, kept: Bools, removed: Bools) -> None:
        if count := int(np.count_nonzero(kept & removed)):
            self.removed[name] = self.removed.get(name, 0) + count
            self.is_cut = True
            kept &= ~removed

    def _log_odds(self, candidates: ItemRows, scores: F64) -> F64:
        """Of probabilities [n], boosted."""
        odds = np.clip(scores, ODDS_MIN, 1 - ODDS_MIN)
        keys: F64 = np.log(odds / (1 - odds))
        for one, boost in self._boosts:
            assert one.test is not None, "a boost is about items"
            keys[one.test.matches(candidates, self._values, self._attributes)] += np.log(boost.factor)
        return keys

    def boosts(self, candidates: ItemRows) -> list[dict[str, float]]:
        """Of each candidate: what each boost that matches it adds to its log odds, by the rule's name."""
        found = [dict[str, float]() for _ in candidates.names]
        for one, boost in self._boosts:
            assert one.test is not None, "a boost is about items"
            for i in np.flatnonzero(one.test.matches(candidates, self._values, self._attributes)).tolist():
                found[i][one.name] = float(np.log(boost.factor))
        return found

    def places(self, candidates: ItemRows, scores: F64, k: int, free: Bools | None = None) -> "RulePlaces":
        """The page's positions, for candidates with these probabilities [n].

        `free`, bool [n]: which ones may be shown; others can only be taken, by a page that someone else filled.
        """
        n = len(scores)
        free = np.ones(n, np.bool_) if free is None else free.copy()
        state = PageState(
            self._log_odds(candidates, scores), free, self._pinned(candidates.names, k, free), np.zeros(1, np.int64),
            np.zeros(n), np.full(n, NOBODY), np.full(n, NOBODY), np.full(k, NOBODY),
        )  # fmt: skip
        return RulePlaces(state, self._cap_state(candidates, k), self._likeness(candidates))

    def count(self, places: "RulePlaces") -> None:
        """Add to `removed` what caps kept off this page, which is complete."""
        for (name, _), count in zip(self._caps, places.kept_off(), strict=True):
            if count:
                self.removed[name] = self.removed.get(name, 0) + count
                self.is_cut = True

    def _pinned(self, names: Sequence[str], k: int, may_show: Bools) -> I64:
        """Who of those that may be shown is pinned at each of k positions; a taken one pushes a later pin down."""
        pins, at = np.full(k, NOBODY), {names[i]: i for i in np.flatnonzero(may_show).tolist()} if self._pins else {}
        for position, item in self._pins:
            free = np.flatnonzero(pins[position - 1 :] == NOBODY)
            if len(free) and item in at:
                pins[position - 1 + free[0]] = at.pop(item)
        return pins

    def _cap_state(self, candidates: ItemRows, k: int) -> Caps:
        begins, ids = self._ids(candidates, [cap.of for _, cap in self._caps])
        values, caps = number_ids(begins, ids, max(1, len(self._caps)))
        counts, within = [cap.count for _, cap in self._caps], [cap.within for _, cap in self._caps]
        used, recent = np.zeros((len(caps), k), np.uint8), np.zeros(len(caps), np.int64)
        return Caps(begins, values, caps, np.array(counts, np.int64), np.array(within, np.int64), used, recent)

    def _likeness(self, candidates: ItemRows) -> Likeness:
        by = [*dict.fromkeys(self._diversity.by)] if self._diversity else []
        begins, ids = self._ids(candidates, by)
        strength, n = self._diversity.strength if self._diversity else 0.0, len(candidates.rows)
        begins = begins[:: max(1, len(by))].copy()
        ids = ids[np.lexsort((ids, np.repeat(np.arange(len(begins) - 1), np.diff(begins))))]
        return Likeness(np.array([strength]), begins, ids, np.zeros(n), np.zeros(n))

    def _ids(self, candidates: ItemRows, columns: Sequence[str]) -> tuple[I64, U64]:
        """See `gather`."""
        if not columns:
            return np.zeros(1, np.int64), np.zeros(0, np.uint64)
        arrays = self._attributes.of(candidates.rows)
        slots = np.array([self._attributes.texts.index(name) for name in columns], np.int64)
        begins, ids = gather(arrays.starts, arrays.counts, arrays.ids, candidates.rows, slots)
        return begins, ids


class RulePlaces:
    """Positions of a page under caps, pins and diversity; see `Places`."""

    def __init__(self, state: PageState, caps: Caps, likeness: Likeness) -> None:
        self._state, self._caps, self._likeness = state, caps, likeness
        place_pins(state, caps)

    def keys(self) -> F64:
        """See `Places`: probabilities, as boosts and diversity change them."""
        log_odds: F64 = next_keys(self._state, self._caps, self._likeness)
        return np.where(log_odds > -np.inf, 1 / (1 + np.exp(-log_odds)), -np.inf)

    def take(self, index: int) -> None:
        """See `Places`."""
        take(self._state, self._caps, self._likeness, index)

    def fill(self) -> list[int]:
        """All positions at once, each by the best: what `keys` and `take` would give."""
        order: list[int] = fill(self._state, self._caps, self._likeness).tolist()
        return order

    def kept_off(self) -> list[int]:
        """How many candidates each cap kept off."""
        counts: list[int] = kept_off(self._state, self._caps).tolist()
        return counts
