"""What a model carries over to a changed spec: each kind of change on its own."""

import numpy as np
import pytest
from msgspec import structs

from learner.checkpoints.checkpoint import restore, take
from learner.deep.deep_model import DeepModel
from learner.deep.vocabulary import FOREVER, Vocabulary
from learner.retraining.carried_vocabulary import carry_vocabulary
from learner.retraining.carry_over import carry_over
from learner.retraining.resumption import resume
from learner.training.model import Model
from stream.features.page_features import id_of, seed_of
from stream.runtime.errors import CheckpointError, SpecError
from stream.spec.spec import Spec
from stream.tables.dtypes import F32, U64
from tests.support.held_out_models import holding_spec, judge_often
from tests.support.learned_models import assert_same, learned
from tests.support.learner_world import records, small_spec

SPEC = small_spec()
LOG = records(SPEC, 240)


@pytest.fixture(scope="module")
def model() -> Model:
    """It has learned 720 examples of the small world."""
    return learned(SPEC, LOG)


def copy_of(model: Model) -> Model:
    """One that can be carried over."""
    return restore(model.spec, take(model, 0, 0, 0))


def evolved(model: Model, **changes: str) -> tuple[Model, Spec]:
    """Carried over to the small spec with these changes."""
    spec = small_spec(**changes)
    return carry_over(copy_of(model), spec), spec


def predictions(model: Model, spec: Spec, pages: int = 20) -> F32:
    """Of pages that were made for this spec, float32 [3 · pages]."""
    made = [np.frombuffer(e.page.features, np.uint64) for record in records(spec, pages, 5) for e in record]
    return np.concatenate([model.predict(words) for words in made])


def deep_of(model: Model) -> DeepModel:
    """Its deep part."""
    assert model.deep is not None
    return model.deep


def wide_weights(model: Model) -> dict[tuple[str, int], float]:
    """Weights by cross and the rest of the key."""
    rows = model.wide.table.rows()
    names = model.encoder.cross_names
    return {
        (names[(int(key) & 255) - 1], int(key) >> 8): float(weight)
        for key, weight in zip(rows[:, 0], model.wide.weights(rows), strict=True)
    }


def test_an_unchanged_spec_carries_everything_over(model: Model) -> None:
    """To the bit."""
    assert_same(carry_over(copy_of(model), SPEC), model)


def test_pages_that_wait_for_their_labels_and_counts_go_on() -> None:
    """Held-out pages, and the pages that keys which aren't admitted yet were last seen on."""
    spec = small_spec(**{"holdout = 0.0": "holdout = 0.2", "l1 = 0.1": "l1 = 0.1\nadmit = 3"})
    model = learned(spec, LOG)
    assert model.held_out.examples
    assert len(model.held_out.pages.arrays()["heads"])
    assert model.wide.admission.pages.any()
    assert_same(carry_over(copy_of(model), spec), model)


def test_the_anchor_stays_where_features_mean_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small steps down add up, also those from one model to the next; a model of other features has none yet."""
    judge_often(monkeypatch)
    spec = holding_spec(0.2)
    model = learned(spec, records(spec, 900))
    assert model.held_out.anchor
    same = carry_over(copy_of(model), holding_spec(0.2, **{"alpha = 0.1": "alpha = 0.3"})).held_out
    assert same.anchor
    assert same.anchor.examples == model.held_out.anchor.examples
    other = carry_over(copy_of(model), holding_spec(0.2, **{"[8, 4]": "[12, 4]"})).held_out
    assert other.anchor is None
    assert same.examples == other.examples == model.held_out.examples > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha = 0.1": "alpha = 0.3"},
        {"l1 = 0.1": "l1 = 0.4\nl2 = 3.0\nbeta = 0.5"},
        {"l1 = 0.1": "l1 = 0.0"},
        {"alpha = 0.2": "alpha = 0.05"},
        {"l1 = 0.1": "l1 = 0.1\nbias_alpha = 0.7"},
        {"min_count = 2": "min_count = 3\nlearning_rate = 0.5"},
        {"every = 300, window = 200": "every = 500, window = 100"},
        {'window = "2s"': 'window = "1h"\npolicy = "wait"'},
    ],
    ids=str,
)
def test_tunables_change_by_a_restart(model: Model, changes: dict[str, str]) -> None:
    """The model predicts what it did, and learns on by the new rates."""
    spec = small_spec(**changes)
    assert spec.identity() == SPEC.identity()
    assert spec.fingerprint() != SPEC.fingerprint()
    tuned = resume(spec, take(model, 7, 0, 0))
    np.testing.assert_allclose(predictions(tuned, spec), predictions(model, SPEC), rtol=2e-5)
    zeros = {key for key, weight in wide_weights(model).items() if weight == 0.0}
    assert all(wide_weights(tuned)[key] == 0.0 for key in zeros)
    assert learned(spec, records(spec, 30, 9), tuned).finite()
    assert_same(resume(spec, take(tuned, 9, 0, 0)), tuned)


def test_a_smaller_bound_drops_the_least_recently_seen_ids(model: Model) -> None:
    """Others keep their rows' vectors."""
    deep = deep_of(model)
    before = {int(row[0]): int(row[3]) for row in deep.vocabulary.table.rows() if row[1] and row[3] != FOREVER}
    small = Vocabulary(4, 2, 40)
    carry_vocabulary(deep.vocabulary, small, np.zeros(0, np.uint64))
    left = {int(row[0]) for row in small.table.rows() if row[1]}
    assert 0 < len(left) < len(before)
    assert min(before[key] for key in left) >= max(before[key] for key in before.keys() - left)
    ids: U64 = np.array(sorted(left), np.uint64)
    np.testing.assert_array_equal(
        small.embeddings[small.rows_of(ids)], deep.vocabulary.embeddings[deep.vocabulary.rows_of(ids)]
    )


def test_another_identity_is_refused_by_a_restart(model: Model) -> None:
    """With the command that carries it over."""
    with pytest.raises(CheckpointError, match=r"another spec \(identity .*thalweg evolve"):
        resume(small_spec(**{"[8, 4]": "[16, 4]"}), take(model, 0, 0, 0))


def test_an_earlier_build_s_checkpoint_matches_by_its_fingerprint(model: Model) -> None:
    """It has no spec; any change is another spec."""
    found = take(model, 0, 0, 0)
    old = type(found)(structs.replace(found.meta, spec=""), found.arrays)
    assert_same(resume(SPEC, old), model)
    with pytest.raises(CheckpointError, match="thalweg evolve"):
        resume(small_spec(**{"l1 = 0.1": "l1 = 0.2"}), old)


@pytest.mark.parametrize(
    "changes",
    [
        {'price = "number"': 'price = "number"\nsize = "number"\nmaker = "category"',
         '"item.price",': '"item.price", "item.size", "item.maker",'},
        {"[8, 4]": "[16, 4]"},
        {"[8, 4]": "[8, 6]"},
        {"embedding_dim = 4": "embedding_dim = 7"},
        {'["user.history", "item.id"]': '["user.id", "item.tags"], ["user.history", "item.id"]'},
        {'features = ["user.id", "item.id"]': 'features = ["item.tags", "user.id", "item.id"]'},
        {'seen = { kind = "count"': 'more = { kind = "rate", by = ["user.age_band"] }\nseen = { kind = "count"'},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_added_changes_no_prediction_at_first(model: Model, changes: dict[str, str]) -> None:
    """Columns, inputs, units, dimensions, crosses, statistics: they weigh nothing until they have learned."""
    again, spec = evolved(model, **changes)
    assert spec.identity() != SPEC.identity()
    deep = deep_of(again)
    assert deep.boundaries.shape[1] == 7
    np.testing.assert_allclose(predictions(again, spec), predictions(model, SPEC), rtol=2e-5)
    before = deep.tower.flat
    assert learned(spec, records(spec, 60, 9), again).finite()
    assert (deep.tower.flat != before).any()
    assert again.examples > model.examples
    assert [one.fingerprint() for one in again.previous] == [SPEC.fingerprint()]


def test_crosses_keep_their_weights_under_another_index(model: Model) -> None:
    """A dropped one is gone; one whose column means something else starts again."""
    again, _ = evolved(
        model,
        **{
            'features = ["user.id", "item.id"]\n': 'features = ["item.id"]\n',
            "bands = [20, 40]": "bands = [30]",
        },
    )
    was, now = wide_weights(model), wide_weights(again)
    assert {name for name, _ in now} == {"item.id", "user.history x item.id", "bias"}
    assert now == {key: weight for key, weight in was.items() if key[0] in {name for name, _ in now}}


def test_bands_with_other_bounds_have_no_embedding_yet(model: Model) -> None:
    """Their numbers are the same texts, so the ids are the same, too."""
    banded = {'"user.age", ': '"user.age", "user.age_band", '}
    first, spec = evolved(model, **banded)
    learned(spec, records(spec, 60, 9), first)
    ids = np.array([id_of(seed_of("user.age_band"), str(n)) for n in range(3)], np.uint64)
    assert deep_of(first).vocabulary.rows_of(ids).all()
    other = small_spec(**banded, **{"bands = [20, 40]": "bands = [30]"})
    again = carry_over(first, other)
    assert not deep_of(again).vocabulary.rows_of(ids).any()


def test_a_dropped_input_leaves_the_others_rows(model: Model) -> None:
    """The first layer goes by name, whatever the order."""
    again, _ = evolved(
        model, **{'"user.history", "item.id", "item.tags", "user.age"': '"item.tags", "item.id", "user.age"'}
    )
    was, now = deep_of(model).layers()[0][0], deep_of(again).layers()[0][0]
    np.testing.assert_array_equal(now[:4], was[:4])  # user.id
    np.testing.assert_array_equal(now[4:8], was[12:16])  # item.tags
    np.testing.assert_array_equal(now[8:12], was[8:12])  # item.id
    np.testing.assert_array_equal(now[12:], was[16:])  # numbers and what is missing of them


def test_shared_statistics_keep_their_rows(model: Model) -> None:
    """One that reads the same rows in another way does, too."""
    again, spec = evolved(model, **{'seen = { kind = "count"': 'seen = { kind = "rate"'})
    assert again.statistics.table.rows().tobytes() == model.statistics.table.rows().tobytes()
    assert np.isfinite(predictions(again, spec)).all()


def test_rows_that_would_mean_something_else_need_a_new_name(model: Model) -> None:
    """They have the same keys, so nothing tells old rows from new ones."""
    with pytest.raises(SpecError, match=r"statistics\.rate has the keys that it had.*new name"):
        evolved(model, **{'rate = { kind = "rate", by': 'rate = { kind = "residual", by'})
    with pytest.raises(SpecError, match="of model 'other'"):
        evolved(model, **{'name = "small"': 'name = "other"'})


def test_parts_are_added_and_dropped(model: Model) -> None:
    """The part that stays is what it was."""
    wide, _ = evolved(model, **{'name = "small"': 'name = "small"\nparts = ["wide"]'})
    assert wide.deep is None
    assert wide_weights(wide) == wide_weights(model)
    both = carry_over(wide, SPEC)
    assert wide_weights(both) == wide_weights(model)
    assert deep_of(both).vocabulary.assigned == 0
    deep, _ = evolved(model, **{'name = "small"': 'name = "small"\nparts = ["deep"]'})
    assert {name for name, _ in wide_weights(deep)} == {"bias"}
    np.testing.assert_array_equal(deep_of(deep).tower.flat, deep_of(model).tower.flat)
