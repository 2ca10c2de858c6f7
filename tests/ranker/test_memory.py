"""What a ranker is said to take."""

import tracemalloc
from pathlib import Path

import pytest
from msgspec.structs import replace

from ranker.memory import PROFILES, ranker_needs
from ranker.serving.recent_profiles import WEIGHT_MAX, RecentProfiles
from stream.events.codec import decode_entity, encode
from stream.events.types import User, Value
from stream.history.profiles import UserProfile
from stream.spec.spec_file import load_spec

PART = 20  # of the cache's weight
SPEC_FILE = Path("specs/movielens.toml")


def test_an_index_of_vectors_is_counted() -> None:
    """While a new one is made of a million items of 32 numbers, both take four times the 144 MB that the lists hold."""
    spec = load_spec(SPEC_FILE)
    retrieval = replace(spec.retrieval, kept=replace(spec.retrieval.kept, max_items=1_000_000))
    counted = ranker_needs(replace(spec, retrieval=retrieval)).always
    assert 4 * 144_000_000 < counted["index of vectors"] < 6 * 144_000_000
    assert ranker_needs(replace(spec, retrieval=replace(retrieval, neighbours=0))).always["index of vectors"] == 0


@pytest.mark.parametrize(
    ("items", "attributes", "listed"),
    [(0, 0, 0), (0, 1, 0), (0, 4, 20), (20, 4, 0)],
    ids=["none", "one", "lists", "all"],
)
def test_a_full_cache_of_profiles_is_counted(items: int, attributes: int, listed: int) -> None:
    """Whatever its users have: nothing, attributes, long lists, histories."""
    recent = RecentProfiles(lambda: 0.0, weight_max=WEIGHT_MAX // PART)
    tracemalloc.start()
    for n in range(WEIGHT_MAX // PART // (1 + items + attributes * (1 + listed)) + 1):
        values: dict[str, Value] = {
            f"attribute{k}": [f"value {n} {k} {i}" for i in range(listed)] if listed else f"value {n} {k}"
            for k in range(attributes)
        }
        user = decode_entity(encode(User(f"user-{n:07d}", values)), User)
        recent.put({user.user: UserProfile([f"item-{n} {i}" for i in range(items)], user.attributes)})
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert recent.get("user-0000000") is None
    assert taken <= PROFILES / PART
