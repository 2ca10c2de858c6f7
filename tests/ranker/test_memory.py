"""What a ranker is said to take."""

from pathlib import Path

from msgspec.structs import replace

from ranker.memory import ranker_needs
from stream.spec.spec_file import load_spec

SPEC_FILE = Path("specs/movielens.toml")


def test_an_index_of_vectors_is_counted() -> None:
    """While a new one is made of a million items of 32 numbers, both take four times the 144 MB that the lists hold."""
    spec = load_spec(SPEC_FILE)
    retrieval = replace(spec.retrieval, kept=replace(spec.retrieval.kept, max_items=1_000_000))
    counted = ranker_needs(replace(spec, retrieval=retrieval)).always
    assert 4 * 144_000_000 < counted["index of vectors"] < 6 * 144_000_000
    assert ranker_needs(replace(spec, retrieval=replace(retrieval, neighbours=0))).always["index of vectors"] == 0
