"""What a learner is said to take is what its model's arrays take at most."""

from pathlib import Path

import pytest

from learner.memory import learner_needs, model_bytes
from learner.training.model import Model
from stream.runtime.settings import Settings
from stream.spec.spec_file import load_spec, parse_spec

SPECS = sorted(Path("specs").glob("*.toml"))


@pytest.mark.parametrize("file", SPECS, ids=lambda file: file.stem)
def test_arrays_that_are_whole_from_the_start_are_counted(file: Path) -> None:
    """Embeddings and items' rows have all their rows at once: they are most of what is counted for them."""
    spec = load_spec(file)
    model, found = Model(spec, draws=False), model_bytes(spec, Settings())
    assert model.deep is not None
    vocabulary = model.deep.vocabulary
    arrays = vocabulary.embeddings.nbytes + vocabulary.keys.nbytes + vocabulary.marks.nbytes
    assert arrays + model.deep.tower.state.weights.nbytes < found["embeddings"]
    if model.retrieval:
        assert model.retrieval.values.nbytes <= found["retrieval"]
    assert ("retrieval" in found) == (model.retrieval is not None)


def test_a_retrain_is_counted_where_the_spec_calls_for_one() -> None:
    """Under `drift.action` = "none" and without warm starts a roll back is all that comes now and then."""
    text = Path("specs/store.toml").read_text()
    quiet = parse_spec(text + '\n[drift]\naction = "none"\n')
    assert set(learner_needs(parse_spec(text), Settings()).now_and_then) == {"a roll back", "a retrain"}
    assert set(learner_needs(quiet, Settings()).now_and_then) == {"a roll back"}
