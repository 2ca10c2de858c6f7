"""The model: order of learning, resume, warm starts."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from learner.checkpoints.checkpoint import Checkpoint, restore, take
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.checkpoints.model_arrays import VALUES
from learner.training.encoded_batch import EncodedBatch
from learner.training.model import Model
from stream.events.types import Examples
from stream.features.page_features import Catalogue, Layout, build_page
from stream.runtime.errors import CheckpointError
from stream.tables.dtypes import F32
from tests.support.learned_models import assert_same, learned
from tests.support.learner_world import records, small_spec


@pytest.mark.parametrize("parts", ['["wide"]', '["deep"]', '["wide", "deep"]'])
def test_a_new_model_predicts_the_base_rate(parts: str, tmp_path: Path) -> None:
    """Whatever its parts; and a checkpoint has it."""
    changes = {'name = "small"': f'name = "small"\nparts = {parts}', "[label]": "[label]\nbase_rate = 0.01"}
    spec = small_spec(**changes)
    model = Model(spec)
    (page,) = records(spec, 1)[0][:1]
    words = np.frombuffer(page.page.features, np.uint64)
    np.testing.assert_allclose(model.predict(words), 0.01, rtol=0.35)  # random first weights of the tower
    files = CheckpointFiles(tmp_path)
    files.write(take(model, 0, 0, 0))
    found = files.newest()
    assert found is not None
    assert restore(spec, found).predict(words).tobytes() == model.predict(words).tobytes()


@pytest.mark.parametrize("stop", [1, 40, 99, 130])
def test_resuming_from_a_checkpoint_is_never_having_stopped(tmp_path: Path, stop: int) -> None:
    """State written to disk and read back goes on bit for bit, over quantile freezes and calls for retrains."""
    spec = small_spec()
    log = records(spec, 450)
    whole = learned(spec, log)
    assert whole.warm_start_at == 1_201, "at the end of a micro-batch"
    files = CheckpointFiles(tmp_path)
    half = learned(spec, log[:stop])
    files.write(take(half, stop, 3, 4))
    found = files.newest()
    assert found is not None
    assert (found.meta.offset, found.meta.token, found.meta.version) == (stop, 3, 4)
    assert_same(learned(spec, log, restore(spec, found), stop), whole)


def test_a_kill_at_any_record_changes_nothing() -> None:
    """Taken and restored after each record, the model is bit for bit the one that ran through."""
    spec = small_spec()
    log = records(spec, 120)
    whole, killed = learned(spec, log), Model(spec)
    for offset in range(len(log)):
        killed = learned(spec, log[: offset + 1], restore(spec, take(killed, offset, 0, 0)), offset)
    assert whole.warm_start_at == killed.warm_start_at == 301
    assert_same(killed, whole)


def test_duplicates_change_nothing() -> None:
    """Records that are read again, whole or mixed with new ones, are learned once."""
    spec = small_spec()
    log = records(spec, 60)
    plain = learned(spec, log)
    twice = Model(spec)
    for offset, record in enumerate(log):
        twice.learn(record, offset)
        twice.learn(record, offset)
        twice.learn(log[offset // 2], offset)
    assert twice.duplicates == 2 * twice.examples
    assert twice.progress.lifetime() == plain.progress.lifetime()
    np.testing.assert_array_equal(twice.deep.tower.flat, plain.deep.tower.flat)  # type: ignore[union-attr]


def test_micro_batches_are_cut_before_duplicates_are_dropped() -> None:
    """A re-read record whose first page is known already cuts the rest where it was cut the first time."""
    spec = small_spec()
    page_of_3, record_of_18 = records(spec, 1)[0], records(spec, 6, per_record=6)[0]
    model, steps = Model(spec), list[int]()
    model.learn(page_of_3, 0)
    learn = model._learn_parts

    def counted(batch: EncodedBatch) -> F32:
        steps.extend(np.diff(batch.bounds).tolist())
        return learn(batch)

    model._learn_parts = counted  # type: ignore[method-assign]  # the test listens in
    model.learn(record_of_18, 1)
    assert model.duplicates == 3
    assert steps == [1, 4, 4, 4, 2], "items 3 | 4 to 7 | 8 to 11 | 12 to 15 | 16 and 17: micro-batches of 4"


def labelled(record: list[Examples], odd: int) -> list[Examples]:
    """The same with other labels: odd items are installed, or even ones."""
    said = [[int(int(item[1:]) % 2 == odd) for item in e.page.items] for e in record]
    return [msgspec.structs.replace(e, labels=labels) for e, labels in zip(record, said, strict=True)]


def test_it_learns() -> None:
    """Joint beats a coin clearly on a world of pairs, and so does the wide part; the deep part on one of items."""
    for parts in ('["wide", "deep"]', '["wide"]', '["deep"]'):
        spec = small_spec(**{'name = "small"': f'name = "small"\nparts = {parts}'})
        log = records(spec, 1500)
        model = learned(spec, log if "wide" in parts else [labelled(record, 1) for record in log])
        assert model.progress.lifetime().auc > 0.6, parts
        assert model.finite()


def test_drift_calls_for_an_early_retrain() -> None:
    """When all labels turn over, the model is worse than a constant, and a retrain is called for before its turn."""
    spec = small_spec(**{"every = 300": "every = 50000"})
    log = records(spec, 1_600)
    steady = learned(spec, [labelled(record, 1) for record in log])
    assert not steady.retrain_wanted, "nothing drifts, and it isn't its turn"
    model = learned(spec, [labelled(record, int(n < 400)) for n, record in enumerate(log)])
    assert model.retrain_wanted == "drift"
    assert 400 * 9 < model.warm_start_at < 400 * 9 + 1_000


def test_no_retrain_is_called_for_unless_the_spec_wants_it() -> None:
    """Neither from time to time nor by drift."""
    spec = small_spec(**{"every = 300, ": "", "[label]": '[drift]\naction = "none"\n[label]'})
    log = records(spec, 1_600)
    model = learned(spec, [labelled(record, int(n < 400)) for n, record in enumerate(log)])
    assert model.drift.alarms
    assert not model.retrain_wanted


def test_a_page_of_another_layout_is_set_aside() -> None:
    """Features made for another spec are no reason to stop: they are handed back with the reason."""
    spec = small_spec()
    other = small_spec(**{'price = "number"': 'price = "number"\nsize = "number"'})
    model = Model(spec)
    good, bad = records(spec, 2), records(other, 1)
    model.learn([*good[0], *bad[0]], 0)
    assert model.examples == 6
    assert len(model.rejected) == 1
    assert "another spec" in model.rejected[0][1]


@pytest.mark.parametrize(
    ("labels", "weights"),
    [([1, 0, 2], [1.0] * 3), ([1, 0, 1], [1.0, float("nan"), 1.0]), ([1, 0, 1], [1.0, 1.0, float("inf")]),
     ([1, 0, 1], [0.0, 1.0, 1.0]), ([1, 0, 1], [1.0, -1.0, 1.0]), ([1, 0, 1], [1.0, 1.0, 1e-9])],
)  # fmt: skip
def test_what_would_spoil_the_state_is_handed_back(labels: list[int], weights: list[float]) -> None:
    """A label, weight or feature that isn't a number, or makes no sense: its page isn't learned, all others are."""
    spec = small_spec()
    (first, spoilt, third), *rest = records(spec, 30)
    words = np.frombuffer(third.page.features, np.uint64).copy()
    words.view(np.float32)[-2:] = np.inf
    infinite = msgspec.structs.replace(third, page=msgspec.structs.replace(third.page, features=words.tobytes()))
    model = Model(spec)
    model.learn([first, msgspec.structs.replace(spoilt, labels=labels, weights=weights), infinite], 0)
    assert [len(model.rejected), model.examples] == [2, 3]
    assert "infinite" in model.rejected[1][1]
    for offset, record in enumerate(rest, 1):
        model.learn(record, offset)
    assert model.examples == 3 + 81
    state = take(model, 0, 0, 0).arrays
    assert all(np.isfinite(state[n]).all() for n in ("dense", "dense_squares", "unseen", "bins", "sums"))
    assert np.isfinite(state["vocabulary" + VALUES]).all()


def test_a_history_of_ten_thousand_items_is_cut_and_learned() -> None:
    """And one that wasn't cut is garbled."""
    spec = small_spec(**{"last = 5": "last = 1000"})
    layout, made = Layout(spec), records(spec, 3)[0]
    catalogue = Catalogue(layout)
    columns = layout.user("u", {}, [f"i{i}" for i in range(10_000)], {})
    page = build_page(layout, columns, catalogue, catalogue.rows(made[0].page.items))
    long = msgspec.structs.replace(made[0].page, features=page.tobytes())
    model = Model(spec)
    model.learn([msgspec.structs.replace(made[0], page=long), *made[1:]], 0)
    assert (model.examples, model.rejected) == (9, [])
    assert model.finite()
    words = page.copy()
    words.view(np.uint32)[4 + len(layout.user_lists)] = 10_000
    uncut = msgspec.structs.replace(long, features=words.tobytes())
    model.learn([msgspec.structs.replace(made[0], page=uncut, ids=[1, 2, 3])], 1)
    assert (model.examples, len(model.rejected)) == (9, 1)
    assert "garbled" in model.rejected[0][1]


def test_another_spec_is_refused() -> None:
    """A checkpoint of another fingerprint is refused and says what to do."""
    spec = small_spec()
    checkpoint = take(Model(spec), 0, 0, 0)
    with pytest.raises(CheckpointError, match=r"thalweg evolve.*--before"):
        restore(small_spec(**{"l1 = 0.1": "l1 = 0.2"}), checkpoint)
    renamed = small_spec(**{'name = "small"': 'name = "other"'})
    assert restore(renamed, checkpoint).examples == 0


def test_a_torn_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    """The newest file is cut short: the one before it is taken; when none can be read, it says so."""
    spec = small_spec()
    log = records(spec, 30)
    files = CheckpointFiles(tmp_path)
    files.write(take(learned(spec, log[:3]), 3, 0, 0))
    newest = files.write(take(learned(spec, log[:5]), 5, 0, 0))
    newest.write_bytes(newest.read_bytes()[:-2000])
    found = files.newest()
    assert isinstance(found, Checkpoint)
    assert found.meta.offset == 3
    files.paths()[0].write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="can be read"):
        files.newest()


def test_predict_is_what_learn_predicts_first() -> None:
    """A page that is predicted and learned at once gets the same prediction twice, from the rows and by `learn`."""
    spec = small_spec()
    model = Model(spec)
    for offset, record in enumerate(records(spec, 90, per_record=1, items=1)):
        predicted = model.predict(np.frombuffer(record[0].page.features, np.uint64))
        at = model.progress.count % model.progress.state.recent.shape[2]
        model.learn(record, offset)
        assert predicted.shape == (1,)
        assert abs(predicted[0] - model.progress.state.recent[0, 0, at]) < 1e-6
    assert len(np.unique(model.progress.state.recent[0, 0, :90])) > 60
