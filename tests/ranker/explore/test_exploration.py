"""Exploration of requests: from a published spec to propensities in replies."""

from collections import Counter

import numpy as np
import pytest

from ranker import metrics
from stream.events.types import Item, RankReply
from stream.spec.spec_file import parse_spec
from tests.ranker.ranking.test_rank import House
from tests.support.random_models import COLUMNS, items

CANDIDATES = [f"i{n}" for n in range(30)]


def house(explore: str) -> House:
    """A ranker whose live version explores so."""
    spec = parse_spec(f"""name = "m"
{COLUMNS}[wide]
features = ["item.id", "item.tags"]
crosses = [["user.age_band", "item.id"], ["user.history", "item.id"]]
[deep]
features = ["item.tags", "user.age"]
embedding_dim = 3
hidden_units = [4]
[explore]
{explore}
""")
    found = House(spec=spec)
    found.publish()
    return found


def answers(of: House, count: int = 20) -> list[RankReply]:
    """Replies to the same request under other ids."""
    return [of.answer(["i1"], candidates=CANDIDATES, k=10, request_id=f"r{n}") for n in range(count)]


def test_without_exploration_nothing_is_drawn() -> None:
    """By default the best are shown, and there are no propensities."""
    replies = answers(house(""), 3)
    assert [reply.propensities for reply in replies] == [[]] * 3
    assert len({tuple(reply.items) for reply in replies}) == 1


@pytest.mark.parametrize("explore", ['kind = "epsilon"\nepsilon = 0.5', 'kind = "thompson"\nprior = 0.5'])
def test_each_position_has_a_propensity(explore: str) -> None:
    """One for each item shown, above 0 and at most 1; items stay distinct; scores stay those of the model."""
    found = house(explore)
    score = {i: s for reply in answers(house(""), 1) for i, s in zip(reply.items, reply.scores, strict=True)}
    for reply in answers(found):
        assert len(reply.propensities) == len(set(reply.items)) == 10
        assert all(0 < share <= 1 + 1e-3 for share in reply.propensities)
        for item, own in zip(reply.items, reply.scores, strict=True):
            assert score.get(item, own) == pytest.approx(own)


@pytest.mark.parametrize("kind", ["epsilon", "thompson"])
def test_a_page_can_be_drawn_again(kind: str) -> None:
    """The same request id gives the same page by the same version; other ids, or another seed, give others."""
    first, other = (house(f'kind = "{kind}"\nseed = {seed}\nepsilon = 0.5\nprior = 0.1') for seed in (1, 2))
    pages = [[(reply.items, reply.propensities) for reply in answers(one, 5)] for one in (first, first, other)]
    assert pages[0] == pages[1] != pages[2]
    assert len({tuple(items) for items, _ in pages[0]}) > 1


def test_ucb_pages_have_no_propensities() -> None:
    """They are no draws: the same page each time, another than the best one, and a log of them can't be reweighted."""
    replies = answers(house('kind = "ucb"\nscale = 3.0\nprior = 0.1'), 3)
    assert [reply.propensities for reply in replies] == [[]] * 3
    assert len({tuple(reply.items) for reply in replies}) == 1
    assert replies[0].items != answers(house(""), 1)[0].items


def test_explored_positions_are_counted() -> None:
    """The metrics count positions while exploration is on, and those that don't show the best candidate left."""
    before = [one._value.get() for one in (metrics.POSITIONS, metrics.EXPLORED)]
    answers(house('kind = "epsilon"\nepsilon = 0.999'), 10)
    answers(house(""), 10)
    positions, explored = (
        one._value.get() - was for one, was in zip((metrics.POSITIONS, metrics.EXPLORED), before, strict=True)
    )
    assert positions == 100
    assert 80 < explored <= 100


def test_shown_pages_are_not_ordered_by_score() -> None:
    """Exploration moves items, not scores: with ε near 1 pages differ in their order."""
    replies = answers(house('kind = "epsilon"\nepsilon = 0.999'), 5)
    assert any(reply.scores != sorted(reply.scores, reverse=True) for reply in replies)
    assert np.mean([reply.propensities[0] for reply in replies]) < 0.1


@pytest.mark.parametrize("kind", ["epsilon", "thompson"])
def test_what_rules_forbid_is_never_drawn(kind: str) -> None:
    """At a pinned position there's nothing to draw: its propensity is 1. Filters and caps hold on each page."""
    rules = """
[rules]
first = { kind = "pin", item = "i3", position = 2 }
few = { kind = "forbid", items = ["i7", "i8"] }
varied = { kind = "cap", of = "item.tags", count = 2 }
"""
    replies = answers(house(f'kind = "{kind}"\nepsilon = 0.9\nprior = 0.01{rules}'))
    assert len({tuple(reply.items) for reply in replies}) > 1
    for reply in replies:
        assert reply.items[1] == "i3"
        assert reply.propensities[1] == pytest.approx(1, abs=1e-3)
        assert not {"i7", "i8"}.intersection(reply.items)
        counts = Counter(tag for item in items(30) if item.item in reply.items for tag in tags_of(item))
        assert max(counts.values()) == 2
    assert min(min(reply.propensities) for reply in replies) < 0.5


def tags_of(item: Item) -> list[str]:
    """An item's tags."""
    tags = item.attributes.get("tags", [])
    assert isinstance(tags, list)
    return tags
