"""Down-sampling of negatives: right on average, and what counts labels counts all of them."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from learner.checkpoints.checkpoint import restore, take
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.training.example_batch import ExampleBatch
from learner.training.figures import ALL
from learner.training.model import Model
from learner.training.negative_sampling import micro_batches, multiplicities
from stream.events.codec import encode_record, example_id
from stream.events.types import INSTALLED, LATE_POSITIVE, RETRACTION, WINDOW_CLOSED, Examples
from stream.features.encoder import Batch
from stream.log.protocol import Record
from stream.spec.spec import Spec
from tests.support.learned_models import assert_same, learned
from tests.support.learner_world import records, small_spec

SHARE = 0.2
FAKE = {'[label]\nwindow = "2s"': f'[label]\npolicy = "fake_negative"\nsample_negatives = {SHARE}\nwindow = "2s"'}


def columns(labels: list[int], reasons: list[int]) -> ExampleBatch:
    """Examples of these labels and reasons: thousands of items, the same ones in each call."""
    n = 8_000
    numbers = np.arange(n, dtype=np.uint64)
    batch = Batch(np.zeros(0, np.uint64), np.zeros(1, np.int64), np.zeros(n, np.int64), np.arange(n) % 10)
    ones = np.ones(n, np.int64)
    return ExampleBatch(
        batch, ones, numbers, np.resize(labels, n).astype(np.float32),
        ones.astype(np.float32), np.resize(reasons, n), ones, ones.astype(np.float64),
        numbers // np.uint64(10) << np.uint64(20), numbers // np.uint64(40),
    )  # fmt: skip


def with_corrections(log: list[list[Examples]]) -> list[list[Examples]]:
    """The same labels as `fake_negative` emits them: negatives at once, positives some records later; a few of them are
    retracted later still."""
    made: list[list[Examples]] = [[] for _ in range(len(log) + 20)]
    for r, record in enumerate(log):
        for page in record:
            made[r].append(_with(page, [0] * len(page.ids), WINDOW_CLOSED))
            for i, label in enumerate(page.labels):
                one = msgspec.structs.replace(
                    page, ids=page.ids[i : i + 1], positions=[i], labels=[1], weights=[1.0], reasons=[1],
                    ingest_ms=page.ingest_ms[i : i + 1],
                )  # fmt: skip
                if label:
                    made[r + 5].append(_with(one, [1], LATE_POSITIVE))
                    if page.ids[i] % 4 == 0:
                        made[r + 11].append(_with(one, [0], RETRACTION))
    return [record for record in made if record]


def _with(page: Examples, labels: list[int], reason: int) -> Examples:
    ids = [example_id(page.page.request_id, position, reason, "") for position in page.positions]
    return msgspec.structs.replace(page, ids=ids, labels=labels, reasons=[reason] * len(labels))


def test_labels_stand_for_all_on_average() -> None:
    """Each positive for itself; one negative in five for five: their sum is that of all, but for chance."""
    found = multiplicities(columns([1, 0], [INSTALLED, WINDOW_CLOSED]), SHARE)
    assert (found.now[::2] == 1).all()
    assert set(found.now[1::2].tolist()) == {0.0, 1 / SHARE}
    chance = np.sqrt((1 - SHARE) / SHARE / len(found.now[1::2]))
    assert abs(found.now[1::2].mean() - 1) < 4 * chance
    assert not found.earlier.any()
    assert 0.1 < found.is_ranked.mean() < 0.3
    assert (found.is_ranked.reshape(-1, 40) == found.is_ranked.reshape(-1, 40)[:, :1]).all(), "a user's pages are whole"


def test_a_correction_takes_back_what_was_learned() -> None:
    """A late positive takes back the negative if that was learned; a retraction its positive, and is a negative like
    the first: all labels of an item together stand for its last one."""
    negative, late, retracted = (
        multiplicities(columns([label], [reason]), SHARE)
        for label, reason in ((0, WINDOW_CLOSED), (1, LATE_POSITIVE), (0, RETRACTION))
    )
    np.testing.assert_array_equal(late.earlier, negative.now)
    assert (late.now == 1).all()
    assert (retracted.earlier == 1).all()
    np.testing.assert_array_equal(retracted.now, negative.now)


def test_all_are_learned_without_a_share() -> None:
    """Then each label stands for itself."""
    found = multiplicities(columns([1, 0], [LATE_POSITIVE, WINDOW_CLOSED]), 1.0)
    assert (found.now == 1).all()
    assert found.earlier.tolist() == [1.0, 0.0] * 4_000
    assert found.is_predicted.all()


def test_micro_batches_are_of_what_is_predicted() -> None:
    """Cut at fixed indices of these, record by record; what isn't predicted belongs to none."""
    chosen = np.array([1, 0, 1, 1, 0, 1, 1, 1, 1], np.bool_)
    found = micro_batches(chosen, np.array([0, 5, 9]), 2)
    assert found[chosen].tolist() == [0, 0, 1, 0, 0, 1, 1]


@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_predictions_are_calibrated(rate: float) -> None:
    """Labels of a constant rate: it's what is predicted, though most negatives aren't learned; figures say so, too."""
    spec = small_spec(
        **{'[label]\nwindow = "2s"': f'[label]\nsample_negatives = 0.1\nbase_rate = {rate}\nwindow = "2s"'}
    )
    spec = msgspec.structs.replace(
        spec, parts=["wide"], wide=msgspec.structs.replace(spec.wide, features=[], crosses=[])
    )
    log, random = records(spec, 3_000), np.random.default_rng(1)
    wanted, made = 0, list[list[Examples]]()
    for record in log:
        pages = []
        for page in record:
            labels = (random.random(len(page.ids)) < rate).astype(int).tolist()
            reasons = [INSTALLED if label else WINDOW_CLOSED for label in labels]
            pages.append(msgspec.structs.replace(page, labels=labels, reasons=reasons))
            wanted += sum(labels)
        made.append(pages)
    model = learned(spec, made)
    figures, true = model.progress.lifetime(ALL), wanted / 9_000
    assert model.examples < 5_000 < model.examples + model.sampled_out == 9_000
    sigma = np.sqrt(9 * (1 - rate) / rate / 9_000)  # relative, of the weights of sampled negatives
    assert figures.base_rate == pytest.approx(true, rel=4 * sigma)
    assert figures.calibration == pytest.approx(1, rel=0.15)
    assert float(model.predict(np.frombuffer(made[0][0].page.features, np.uint64))[0]) == pytest.approx(true, rel=0.35)


def test_statistics_count_every_label() -> None:
    """To the bit as without sampling, corrections included; the base rate among them."""
    whole = small_spec(**{'[label]\nwindow = "2s"': '[label]\npolicy = "fake_negative"\nwindow = "2s"'})
    log = with_corrections(records(whole, 120))
    found = [learned(spec, log).statistics.table.rows() for spec in (whole, small_spec(**FAKE))]
    first, second = (rows[np.argsort(rows[:, 0])] for rows in found)
    assert first.tobytes() == second.tobytes()


def test_any_packing_leaves_the_same_bits() -> None:
    """Record by record, or many in a step, as events or as bytes, with duplicates among them."""
    spec = small_spec(**FAKE)
    log = with_corrections(records(spec, 150))
    log += log[20:24]
    one_by_one, together = learned(spec, log), Model(spec)
    read = [Record("", 0, offset, 1, None, encode_record(record)) for offset, record in enumerate(log)]
    for chunk in together.record_encoder.records(read):
        for first, last in together.steps(chunk):
            together.learn_records(chunk, first, last)
    assert one_by_one.sampled_out > 200
    assert one_by_one.duplicates > 20
    assert_same(one_by_one, together)


def test_a_restored_model_goes_on_alike(tmp_path: Path) -> None:
    """As if it had never stopped."""
    spec = small_spec(**FAKE)
    log = with_corrections(records(spec, 150))
    model = learned(spec, log[:30])
    CheckpointFiles(tmp_path).write(take(model, 30, 0, 0))
    checkpoint = CheckpointFiles(tmp_path).newest()
    assert checkpoint is not None
    assert_same(learned(spec, log, restore(spec, checkpoint), 30), learned(spec, log))


def test_pages_of_sampled_users_are_ranked_whole() -> None:
    """Figures of ranking are of whole pages, of fewer users."""
    whole = small_spec(**{'[label]\nwindow = "2s"': '[label]\npolicy = "fake_negative"\nwindow = "2s"'})
    log = with_corrections(records(whole, 600))
    groups = [learned(spec, log).progress.rankings.lifetime("page") for spec in (whole, small_spec(**FAKE))]
    assert 0 < groups[1].groups < 0.6 * groups[0].groups


def test_a_checkpoint_of_an_earlier_build_has_its_figures() -> None:
    """Its labels count once each; its corrections are known by their label."""
    spec: Spec = small_spec(**{'[label]\nwindow = "2s"': '[label]\npolicy = "fake_negative"\nwindow = "2s"'})
    model = learned(spec, with_corrections(records(spec, 60)))
    checkpoint = take(model, 0, 0, 0)
    arrays = dict(checkpoint.arrays)
    arrays["sums"] = arrays["sums"][:, :3]
    label, earlier = arrays["recent"][:, 1], arrays["recent"][:, 3]
    arrays["recent"] = np.stack([arrays["recent"][:, 0], label + 2 * earlier], axis=1)
    old = restore(spec, replace(checkpoint, arrays=arrays))
    assert old.progress.lifetime() == model.progress.lifetime()
    assert old.progress.window() == model.progress.window()
