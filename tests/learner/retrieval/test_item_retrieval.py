"""What a learner keeps for retrieval: vectors, bounds, and that saved state is the whole of it."""

from typing import Any

import numpy as np
import pytest

from learner.retrieval.item_retrieval import HIGH_WATER, LOW_WATER, ItemRetrieval
from learner.retrieval.item_rows import GROWTH
from learner.retrieval.item_vectors import FADE
from stream.tables.table_runs import copy_all, values_of
from tests.support.retrieval_log import Install, learn, lists_of, retrieval, vectors_of


def two_worlds(installs: int, seed: int = 0) -> list[Install]:
    """Users who install even items only, or odd ones, of 1..40, in random order."""
    random = np.random.default_rng(seed)
    users = random.integers(1, 101, installs)
    items = 2 * random.integers(1, 21, installs) - users % 2
    return [(int(user), int(item), 1.0) for user, item in zip(users, items, strict=True)]


def saved(kept: ItemRetrieval) -> tuple[dict[str, Any], Any, Any, Any]:
    """What a checkpoint has of it."""
    rows = copy_all(kept.items)
    return kept.arrays(), rows, values_of(rows, kept.values), copy_all(kept.memories)


def test_vectors_learn_who_installs_what() -> None:
    """A user of even items is nearer to even items than to odd ones; their last item counts most."""
    kept = retrieval()
    learn(kept, two_worlds(1_500))
    keys, inputs, outputs, biases = vectors_of(kept)
    shares = FADE ** np.arange(3)
    for parity in (0, 1):
        last = inputs[keys % 2 == parity][:3]
        scores = outputs @ (shares @ last / shares.sum()) + biases
        assert np.median(scores[keys % 2 == parity]) > scores[keys % 2 != parity].max()


def test_an_item_without_company_learns_no_vector() -> None:
    """First installs of users train nothing: vectors are as they begin, a hash of the item, and popularity is known."""
    kept, other = retrieval(), retrieval()
    learn(kept, [(user, 1 + user % 3, 1.0) for user in range(1, 10)])
    learn(other, [(1, 1, 1.0), (2, 2, 1.0), (3, 3, 1.0)])
    (_, inputs, outputs, biases), (_, others, other_outputs, _) = vectors_of(kept), vectors_of(other)
    assert (inputs == others).all()
    assert (outputs == other_outputs).all()
    assert biases.tolist() == pytest.approx([np.log1p(3)] * 3)


def test_saved_state_is_the_whole() -> None:
    """Saved and restored anywhere, it goes on to the same bits, in rows that are published and in those that aren't."""
    log = two_worlds(400)
    whole, part = retrieval(half_life="100s"), retrieval(half_life="100s")
    learn(whole, log)
    learn(part, log[:150])
    resumed = retrieval(half_life="100s")
    resumed.restore(*saved(part))
    learn(resumed, log[150:], first_s=150)
    for a, b in zip(saved(whole)[1:], saved(resumed)[1:], strict=True):
        assert sorted(map(bytes, a)) == sorted(map(bytes, b))


def test_other_sizes_take_over_what_fits() -> None:
    """Longer or shorter lists keep the first listed items; vectors stay if they have the same size."""
    kept = retrieval(list_length=4, vector_dim=4)
    learn(kept, two_worlds(300))
    for length, dim in ((8, 4), (2, 4), (4, 6), (4, 0)):
        other = retrieval(length, dim)
        other.restore(*saved(kept))
        before, now = lists_of(kept), lists_of(other)
        for item, weights in before.items():
            assert now[item].items() <= weights.items()
            assert len(now[item]) == min(length, len(weights))
        assert (vectors_of(kept)[1].tobytes() == vectors_of(other)[1].tobytes()) == (dim == 4)
        assert np.isfinite(vectors_of(other)[3]).all()
        learn(other, two_worlds(50, 1), first_s=300)


def test_the_bound_on_items_evicts_the_oldest() -> None:
    """Over HIGH_WATER of the bound those that changed least recently go, down to LOW_WATER; a delta says so."""
    kept = retrieval(max_items=32)
    learn(kept, [(item, item, 1.0) for item in range(1, 31)])
    kept.take_changed()
    learn(kept, [(100, 31, 1.0)], first_s=30)
    evicted = 30 - int(LOW_WATER * 32)
    assert kept.size() == int(LOW_WATER * 32) + 1 <= HIGH_WATER * 32
    changed = kept.take_changed()
    assert changed is not None
    payload = kept.payload(changed)
    assert sorted(payload["dead"].tolist()) == list(range(1, evicted + 1))
    assert payload["keys"].tolist() == [31]
    learn(kept, [(100 + item, 100 + item, 1.0) for item in range(200)], first_s=40)
    assert kept.size() <= 32


def test_a_lower_bound_keeps_the_newest() -> None:
    """State with more items than the bound that is set now: of the newest as many as LOW_WATER allows."""
    kept = retrieval(max_items=100)
    learn(kept, [(1, item, 1.0) for item in range(1, 41)])
    other = retrieval(max_items=16)
    other.restore(*saved(kept))
    assert lists_of(other) == {item: lists_of(kept)[item] for item in range(41 - int(LOW_WATER * 16), 41)}
    learn(other, [(1, item, 1.0) for item in range(41, 80)], first_s=40)
    assert other.size() <= 16


def test_the_bound_on_users_evicts_the_oldest() -> None:
    """A user who was evicted begins again: their next install has no pair."""
    kept = retrieval(max_users=8)
    learn(kept, [(user, 1, 1.0) for user in range(1, 40)])
    assert len(kept.memories) <= 8
    learn(kept, [(1, 2, 1.0), (39, 3, 1.0)], first_s=40)
    assert lists_of(kept)[2] == {}
    assert set(lists_of(kept)[3]) == {1}


def test_a_row_is_published_when_it_has_grown() -> None:
    """A row goes out when its pairs have grown by GROWTH since it last did: early ones each time, later ones seldom."""
    kept, published, pairs = retrieval(vector_dim=0), [], 200
    for n in range(pairs):
        learn(kept, [(n + 1, 1, 1.0), (n + 1, 2, 1.0)], first_s=2 * n)
        changed = kept.take_changed()
        assert changed is not None
        published.append(1 in changed)
    assert all(published[:4])
    assert sum(published) < 4 / GROWTH
    assert any(published[-int(3 * GROWTH * pairs) :])
