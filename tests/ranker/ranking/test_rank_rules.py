"""Requests under rules, from the request to the reply."""

import time
from typing import Any

import msgspec
import numpy as np
import pytest

from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.rank import Ranker
from ranker.ranking.score import Scorer
from ranker.ranking.version_watcher import VersionWatcher
from ranker.versions.model import score_features
from ranker.versions.version_loader import load_version
from stream.events.types import Item, RankReply, RankRequest
from stream.history.profiles import UserProfile
from stream.runtime.errors import BadEvent
from stream.snapshots.memory_store import MemoryStore
from stream.spec.rules import Cap, Forbid
from tests.support.random_models import ToyModel, items, some_spec

NOW_MS = 4_000_000
RULES = {
    "no_cards": Forbid(of="item.tags", values=["c"]),
    "varied": Cap(of="item.tags", count=2, apply="named"),
}


class Ruled:
    """A ranker of one toy model, whose spec has RULES, over 30 items; `live` says whether a version is."""

    def __init__(self, *, live: bool = True) -> None:
        self.store, self.cache = MemoryStore("m"), EntityCache()
        spec = msgspec.structs.replace(some_spec(np.random.default_rng(5), ["wide", "deep"]), rules=RULES)
        for item in items(30):
            self.cache.put(item.item, item)
        self.watcher = VersionWatcher(self.store, "m", self.cache, lambda: NOW_MS)
        self.ranker = Ranker(self.cache, self.watcher, Scorer(1), lambda: NOW_MS)
        self.tags: dict[str, Any] = {item.item: item.attributes.get("tags") or [] for item in items(30)}
        if live:
            ToyModel(spec, 5).publish(self.store)
            assert self.watcher.step(), self.watcher.rejection

    def answer(self, deadline_s: float | None = None, **request: object) -> RankReply:
        """The reply to a request of a user who has i0 and i1."""
        given = RankRequest(**{"request_id": "r", "user": "u1", "k": 30, **request})  # type: ignore[arg-type]
        return self.ranker.answer(given, lambda: UserProfile(["i0", "i1"], {}), time.monotonic(), deadline_s)


def test_a_spec_s_rules_apply_to_every_request() -> None:
    """Retrieved or given: what a filter removes isn't scored, the reply counts it, and says that the page is short."""
    ruled = Ruled()
    allowed = [name for name, tags in ruled.tags.items() if "c" not in tags]
    given = ruled.answer(candidates=[*ruled.tags])
    assert sorted(given.items) == sorted(allowed)
    assert (given.scored, given.removed, given.notes) == (len(allowed), {"no_cards": 30 - len(allowed)}, ["rules_cut"])
    retrieved = ruled.answer()
    assert sorted(retrieved.items) == sorted({*allowed} - {"i0", "i1"})
    assert ruled.answer(k=3).notes == []
    assert ruled.answer(rules=[{"kind": "installed", "of": "none"}]).scored == len(allowed)


def test_a_page_under_rules_can_be_learned_and_recomputed() -> None:
    """Whatever rules did to the order: scores are the model's, and the features are of the items in shown order."""
    ruled = Ruled()
    rules = ["varied", {"kind": "pin", "item": "i1", "position": 3},
             {"kind": "boost", "of": "item.tags", "values": ["b"], "factor": 50}]  # fmt: skip
    reply = ruled.answer(k=5, rules=rules)
    version = load_version(ruled.store, "m", reply.version)
    assert np.abs(score_features(version, reply.features, len(reply.items)) - reply.scores).max() <= 1e-5
    assert reply.items[2:3] != ["i1"], "the user has it"
    reply = ruled.answer(k=5, rules=[*rules, {"kind": "installed", "of": "none"}])
    assert reply.items[2] == "i1"
    shown = [tag for item in reply.items for tag in ruled.tags[item]]
    assert max(map(shown.count, shown)) <= 2
    assert reply.removed["varied"] > 0


def test_a_pinned_item_is_scored_before_the_deadline() -> None:
    """It is among the first that are scored, though a late request scores one batch only; a deleted one isn't shown."""
    ruled = Ruled()
    pins = [{"kind": "pin", "item": "new", "position": 1}]
    assert "new" not in ruled.answer(rules=pins).items
    ruled.cache.put("new", Item("new"))
    ruled.ranker = Ranker(ruled.cache, ruled.watcher, Scorer(1, batch_items=4), lambda: NOW_MS)
    late = ruled.answer(0.0, k=3, candidates=[f"i{n}" for n in range(2, 30)], rules=pins)
    assert (late.items[0], late.scored) == ("new", 4)
    ruled.cache.put("new", None)
    assert "new" not in ruled.answer(rules=pins).items


def test_what_rules_removed_is_counted_once() -> None:
    """A pinned item that the user has is one of the two, not a third."""
    assert Ruled().answer(rules=[{"kind": "pin", "item": "i1", "position": 1}]).removed["installed"] == 2


def test_a_pinned_item_has_a_source_though_nothing_is_retrieved() -> None:
    """Of a user who has all else."""
    ruled = Ruled()
    ruled.cache.put("new", Item("new"))
    reply = ruled.answer(history=[*ruled.tags], rules=[{"kind": "pin", "item": "new", "position": 1}])
    assert (reply.items, reply.sources, reply.source_ranks) == (["new"], ["pinned"], [1])


@pytest.mark.parametrize("odd", [{None: ["a"]}, {"user.id": msgspec.msgpack.Ext(1, b"")}])
def test_rules_in_messagepack_that_json_can_t_have_are_invalid(odd: Any) -> None:
    """The caller's mistake, not the ranker's."""
    with pytest.raises(BadEvent, match="rules: they have a value that no rule can have"):
        Ruled().answer(rules=[{"kind": "forbid", "items": ["i1"], "where": odd}])


def test_an_item_that_changes_is_judged_by_its_new_attributes() -> None:
    """Rules read what the topic `items` says now; an item without a description has no attributes."""
    ruled = Ruled()
    assert "i2" in ruled.answer().items
    ruled.cache.put("i2", Item("i2", {"tags": ["c"]}))
    assert "i2" not in ruled.answer().items
    ruled.cache.put("i2", Item("i2"))
    assert "i2" in ruled.answer().items
    assert ruled.answer(candidates=["nobody"]).items == ["nobody"]


def test_before_the_first_version_rules_are_unknown() -> None:
    """Rules are the spec's: a request that asks for any isn't answered as if it hadn't."""
    ruled = Ruled(live=False)
    assert ruled.answer(k=3).removed == {}
    with pytest.raises(BadEvent, match="rules can't be applied yet"):
        ruled.answer(rules=["varied"])
