"""A retrain in one thread: what trains, what stays, the verdict, the promotion at an example index."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from learner.retraining.judgement import Heard, Pair, judge
from learner.retraining.retraining import Retraining, copy_of
from learner.retraining.schedule import RetrainSchedule
from learner.retraining.window import encoded_window, train_on_window
from learner.training.dedup import NO_SOURCE
from learner.training.model import Model
from learner.wide.forgetting import AGE_MS
from stream.events.codec import encode_record
from stream.events.topics import EXAMPLES
from stream.events.types import LATE_POSITIVE, WINDOW_CLOSED, Erase, Examples, TrainingEvent
from stream.features.page_features import id_of
from stream.log.protocol import Record
from stream.spec.spec import Spec
from stream.tables.dtypes import F32
from tests.support.learned_models import assert_same, learned
from tests.support.learner_world import records, small_spec

SPEC = small_spec()
Log = Sequence[Sequence[TrainingEvent]]


def log_of(log: Log, first: int = 0) -> list[Record]:
    """As they are in the log."""
    return [Record(EXAMPLES.name, 0, n, n, None, encode_record(events)) for n, events in enumerate(log, first)]


def users_of(events: Sequence[TrainingEvent]) -> list[str]:
    """Whose pages a record has."""
    return [event.page.user for event in events if isinstance(event, Examples)]


def retrained(model: Model, log: Log, spec: Spec = SPEC) -> Retraining:
    """A retrain of a model that has learned this log."""
    return Retraining.begin(model, spec, lambda new: encoded_window(new, log_of(log)))


def test_a_retrain_trains_the_deep_part_and_leaves_the_wide_weights() -> None:
    """Statistics, figures and ids stay as well: the window's examples were learned before."""
    log = records(SPEC, 200)
    model = learned(SPEC, log)
    new = retrained(copy_of(model), log[-30:]).new
    assert new.deep is not None
    assert model.deep is not None
    assert (new.examples, new.duplicates) == (model.examples, model.duplicates)
    rows, before = new.wide.table.rows(), model.wide.table.rows()
    np.testing.assert_array_equal(rows[np.argsort(rows[:, 0])], before[np.argsort(before[:, 0])])
    assert new.statistics.rows().tobytes() == model.statistics.rows().tobytes()
    assert new.progress.lifetime() == model.progress.lifetime()
    assert (new.deep.layers()[0][0] != model.deep.layers()[0][0]).mean() > 0.3
    assert (new.warm_starts, new.warm_start_at) == (1, model.examples)


def test_a_retrain_does_not_bring_an_erased_user_back() -> None:
    """The window's pages of the user from before the erasure aren't trained on; later ones and others' are."""
    log: list[list[TrainingEvent]] = [[*some] for some in records(SPEC, 200)]
    log[30].append(Erase("u3", 1))
    back = next(n for n in range(31, len(log)) if "u3" in users_of(log[n]))
    for end, comes_back in ((back, False), (len(log), True)):
        model = Model(SPEC)
        for offset, events in enumerate(log[:end]):
            model.learn(events, offset)
        batches = encoded_window(model, log_of(log[:end]))
        new = Retraining.begin(model, SPEC, lambda of: encoded_window(of, log_of(log[:end]))).new  # noqa: B023  # at once
        user = np.array([id_of(model.layout.seeds["user.id"], "u3")], np.uint64)
        for one in (model.deep, new.deep):
            assert one is not None
            assert one.vocabulary.table.contains(user)[0] == comes_back
        assert {*new.wide.table.rows()[:, 0].tolist()} == {*model.wide.table.rows()[:, 0].tolist()}
        ids = [batch.inputs.ids[batch.inputs.id_offsets[0] : batch.inputs.id_offsets[-1]] for batch in batches]
        assert (user[0] in np.concatenate(ids)) == comes_back
        pages = sum(users_of(some).count("u3") for some in log[:31])
        assert model.examples - sum(map(len, batches)) == 3 * pages > 0


def test_a_window_that_is_kept_forgets_an_erased_user() -> None:
    """As backtests keep it: the user's examples leave it at the erasure, all others stay."""
    log: list[list[TrainingEvent]] = [[*some] for some in records(SPEC, 60)]
    log[-1].append(Erase("u3", 1))
    schedule = RetrainSchedule(Model(SPEC))
    for offset, events in enumerate(log):
        (chunk,) = schedule.model.record_encoder.of_events([events], [offset], NO_SOURCE)
        schedule.learn(chunk, 0, 1)
    user = id_of(schedule.model.layout.seeds["user.id"], "u3")
    inputs = [batch.inputs for batch in schedule._window]
    ids = np.concatenate([one.ids[one.id_offsets[0] : one.id_offsets[-1]] for one in inputs])
    examples = sum(3 for some in log for one in users_of(some) if one != "u3")
    assert user not in ids
    assert schedule._examples == sum(map(len, schedule._window)) == examples < schedule.model.examples


def test_rows_are_put_back_at_the_scale_of_the_sums() -> None:
    """Sums that have to be scaled down before the window's first step stand for the same afterwards."""
    half_life_ms = 3_600_000
    spec = small_spec(**{"alpha = 0.1\n": 'alpha = 0.1\nhalf_life = "1h"\n'})
    log = records(spec, 200)
    model = learned(spec, log)
    model.wide.forgetting.clock[AGE_MS] = 49 * half_life_ms
    before, inflation = model.wide.table.rows(), model.wide.forgetting.inflation()
    assert inflation == 2.0**49
    train_on_window(model, encoded_window(model, log_of(log[-30:])))
    assert model.wide.forgetting.inflation() == 1.0
    after = model.wide.table.rows_of(before[:, 0].copy())
    n, was = after.view(np.float32)[:, 3], before.view(np.float32)[:, 3]
    np.testing.assert_allclose(n, was / inflation, rtol=1e-6)
    assert model.wide.weights(after).tobytes() == model.wide.weights(before).tobytes()


def test_the_same_window_gives_the_same_model() -> None:
    """To the bit, however often an example is in the log."""
    log = records(SPEC, 200)
    model = learned(SPEC, log)
    one = retrained(copy_of(model), log[-30:]).new
    assert_same(one, retrained(copy_of(model), log[-30:]).new)
    assert_same(one, retrained(copy_of(model), [*log[-30:-10], *log[-30:-20], *log[-10:]]).new)


def test_a_new_cross_has_weights_after_the_window() -> None:
    """Of the window's examples; those that the live model has stay."""
    log = records(SPEC, 200)
    model = learned(SPEC, log)
    spec = small_spec(
        **{'crosses = [["user.history", "item.id"]': 'crosses = [["user.id", "item.tags"], ["user.history", "item.id"]'}
    )
    new = retrained(copy_of(model), log[-30:], spec).new
    names = [new.encoder.cross_names[(int(key) & 255) - 1] for key in new.wide.table.rows()[:, 0]]
    assert 20 < names.count("user.id x item.tags") <= 100
    assert len(names) - names.count("user.id x item.tags") == len(model.wide.table)
    weights = new.wide.weights(new.wide.table.rows())
    assert np.count_nonzero(weights[[name == "user.id x item.tags" for name in names]]) > 10


def test_both_learn_on_and_the_verdict_is_of_what_both_predicted() -> None:
    """A new model that knows as much is promoted."""
    log = records(SPEC, 600)
    retraining = retrained(learned(SPEC, log[:100]), log[70:100])
    undisturbed = learned(SPEC, log)
    for chunk in retraining.live.record_encoder.records(log_of(log[100:], 100)):
        for r in range(len(chunk)):
            retraining.live.learn_records(chunk, r, r + 1)
            retraining.learn_new(chunk, r, r + 1)
    assert retraining.judged == 900
    verdict = retraining.verdict()
    assert_same(retraining.live, undisturbed)
    assert verdict.examples == 900
    assert 0.5 < verdict.live < 1.2
    assert verdict.low < verdict.new - verdict.live < verdict.high


CHANGED = {
    "other negatives": {'window = "2s"': 'window = "2s"\nsample_negatives = 0.4'},
    "other pages": {"holdout = 0.0": "holdout = 0.3"},
}


@pytest.mark.parametrize("changed", CHANGED)
@pytest.mark.parametrize("is_new_less", [True, False])
def test_models_that_hear_different_examples_are_judged_on_those_of_both(changed: str, is_new_less: bool) -> None:
    """Another sample of negatives, other pages held out, in either direction."""
    specs = [SPEC, small_spec(**CHANGED[changed])]
    was, now = specs if is_new_less else specs[::-1]
    log = records(SPEC, 600)
    retraining = retrained(learned(was, log[:100]), log[70:100], now)
    for model in (retraining.live, retraining.new):
        for chunk in model.record_encoder.records(log_of(log[100:], 100)):
            for r in range(len(chunk)):
                model.learn_records(chunk, r, r + 1)
    verdict = retraining.verdict()
    labels = np.concatenate([event.labels for events in log[100:] for event in events])
    assert 0 < verdict.positives < verdict.examples
    assert verdict.positives / verdict.examples == pytest.approx(labels.mean(), abs=0.07)
    assert verdict.low < verdict.new - verdict.live < verdict.high


def test_examples_are_compared_by_their_ids() -> None:
    """A page that only one of the models heard shifts nothing, and weights are those of the smaller sample."""
    labels, ones = np.array([0, 1, 0, 1, 0], np.float32), np.ones(5, np.float32)
    p, q = (np.array(of, np.float32) for of in ([0.1, 0.9, 0.2, 0.8, 0.3], [0.2, 0.7, 0.1, 0.6, 0.4]))
    ids = np.array([9, 3, 7, 1, 5], np.uint64)
    weights = np.array([2.5, 1, 2.5, 1, 0], np.float32)  # the last one isn't learned, but predicted
    live, new, both_live, both_new = Heard(), Heard(), Heard(), Heard()
    live.add(ids, p, labels, ones, 0 * ones, np.arange(5))
    new.add(ids[1:], q[1:], labels[1:], weights[1:], 0 * ones[1:], np.arange(1, 5))
    both_live.add(ids[1:], p[1:], labels[1:], weights[1:], 0 * ones[1:], np.arange(1, 5))
    both_new.add(ids[1:], q[1:], labels[1:], weights[1:], 0 * ones[1:], np.arange(1, 5))
    assert judge(live, new) == judge(both_live, both_new)


def heard(predictions: F32, labels: F32) -> Heard:
    """One page an example."""
    found, ones = Heard(), np.ones(len(labels), np.float32)
    found.add(np.arange(len(labels), dtype=np.uint64), predictions, labels, ones, 0 * ones, np.arange(len(labels)))
    return found


@pytest.mark.parametrize(
    ("rate", "judged", "ends_at"),
    [(0.5, 5_000, 5_000), (0.01, 5_000, 20_000), (0.99, 5_000, 20_000), (0.001, 5_000, 100_000), (0.01, 500, 2_000)],
)
def test_a_test_waits_for_the_rarer_label(rate: float, judged: int, ends_at: int) -> None:
    """200 of it, or as many of a 25th of a short test; at most 20 times `judged` examples, whatever the labels are."""
    spec = small_spec(**{"window = 200": f"window = 200, judged = {judged}"})
    retraining, size, heard_by_both = Retraining(Model(spec), Model(spec)), 1_000, 0
    zeros, ones = np.zeros(size, np.float32), np.ones(size, np.float32)
    while not retraining.is_judged:
        ids = np.arange(heard_by_both, heard_by_both + size, dtype=np.uint64)
        whole = (np.arange(size) % round(1 / min(rate, 1 - rate)) == 0).astype(np.float32)
        labels = whole if rate <= 0.5 else ones - whole
        for model in (retraining.live, retraining.new):
            assert model.on_predicted is not None
            model.on_predicted(ids, ones * np.float32(rate), labels, ones, zeros, ids.astype(np.int64))
        heard_by_both += size
        assert heard_by_both <= 20 * judged
    assert heard_by_both == ends_at == retraining.judged


def test_a_test_ends_though_the_models_share_no_example() -> None:
    """The greater count decides; a correction is no further example."""
    pair, zeros, ones = Pair(), np.zeros(100, np.float32), np.ones(100, np.float32)
    ids = np.arange(100, dtype=np.uint64)
    pair.live.add(ids, ones, zeros, ones, zeros, np.arange(100))
    pair.new.add(ids, ones, zeros, ones, zeros, np.arange(100))
    assert not pair.is_enough(100)
    pair.live.add(ids + np.uint64(100), ones, ones, ones, ones, np.arange(100))
    pair.new.add(ids[:3] + np.uint64(100), ones[:3], ones[:3], ones[:3], ones[:3], np.arange(3))
    assert not pair.is_enough(100)
    assert (pair.examples, pair.positives) == (100, 3)
    for n in range(2, 20):
        assert not pair.is_enough(100)
        pair.live.add(ids + np.uint64(100 * n), ones, zeros, ones, zeros, np.arange(100))
    assert pair.is_enough(100)
    assert pair.examples == 100


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_the_paired_test_tells_worse_from_as_good(rate: float) -> None:
    """An inverted ranking, a wrong rate, NaN: dropped with the reason. A little noise: promoted."""
    random = np.random.default_rng(3)
    p = np.clip(random.beta(rate * 8, (1 - rate) * 8, 40_000), 1e-4, 0.999).astype(np.float32)
    labels = (random.random(len(p)) < p).astype(np.float32)
    live = heard(p, labels)
    noise = np.exp(random.normal(0, 0.02, len(p))).astype(np.float32)
    good = judge(live, heard(np.clip(p * noise, 0, 0.999), labels))
    assert good.promoted
    assert good.reason == ""
    assert good.positives == labels.sum()
    order = np.argsort(np.argsort(p))
    inverted = judge(live, heard(np.sort(p)[::-1][order], labels))
    assert "is worse than the live one" in inverted.reason
    assert "is worse" in judge(live, heard(np.clip(p * 3, 0, 0.999), labels)).reason
    broken = p.copy()
    broken[7] = np.nan
    assert "finite" in judge(live, heard(broken, labels)).reason
    assert "no example" in judge(Heard(), Heard()).reason
    few = judge(heard(p[:60], labels[:60]), heard(np.roll(p, 1)[:60], labels[:60]))
    assert "may be worse" in few.reason or "is worse" in few.reason


def test_a_correction_takes_the_other_label_away() -> None:
    """A negative, then a positive of the same prediction: the loss of one positive."""
    p, zeros, ones = np.array([0.2, 0.6], np.float32), np.zeros(2, np.float32), np.ones(2, np.float32)
    live = heard(p, zeros)
    live.add(np.arange(2, 4, dtype=np.uint64), p, ones, ones, ones, np.arange(2))
    verdict = judge(live, live)
    alone = judge(heard(p, ones), heard(p, ones))
    assert (verdict.examples, verdict.positives) == (alone.examples, alone.positives) == (2, 2)
    assert verdict.live == pytest.approx(alone.live)


def test_a_schedule_promotes_at_an_example_index() -> None:
    """The same records, however they are cut into calls, end in the same model."""
    spec = small_spec(**{"window = 200": "window = 200, judged = 120"})
    log = log_of(records(spec, 300))
    alone, together = RetrainSchedule(Model(spec)), RetrainSchedule(Model(spec))
    for size, schedule in ((1, alone), (7, together)):
        for first in range(0, len(log), size):
            for chunk in schedule.model.record_encoder.records(log[first : first + size]):
                for r in range(len(chunk)):
                    schedule.learn(chunk, r, r + 1)
    assert alone.verdicts == together.verdicts
    assert len(alone.verdicts) >= 2
    assert alone.model.warm_starts == sum(verdict.promoted for verdict in alone.verdicts)
    assert_same(alone.model, together.model)
    assert alone.model.examples == 900


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_a_retrain_leaves_early_negatives_corrected(rate: float) -> None:
    """Each page's labels come as negatives first, its installs later: one more pass moves no mean prediction."""
    changes = {
        "[label]": '[label]\npolicy = "fake_negative"',
        "every = 300, window = 200": "every = 1_000_000, window = 3_000",
    }
    spec, random = small_spec(**changes), np.random.default_rng(1)
    pages = [record[0] for record in records(spec, 1_000, per_record=1)]
    happened = random.random((len(pages), 3)) < rate
    log: list[list[Examples]] = []
    for n, page in enumerate(pages):
        reasons = [WINDOW_CLOSED] * 3
        log.append([msgspec.structs.replace(page, labels=[0] * 3, reasons=reasons)])
        late = n - 20  # the page whose installs come now
        positions = np.flatnonzero(happened[late]).tolist() if late >= 0 else []
        if positions:
            ones, reasons = [1] * len(positions), [LATE_POSITIVE] * len(positions)
            ids = [pages[late].ids[k] ^ 1 for k in positions]
            of_page = msgspec.structs.replace(pages[late], ids=ids, positions=positions, labels=ones, reasons=reasons)
            log[-1].append(msgspec.structs.replace(of_page, weights=[1.0] * len(ones), ingest_ms=ones))
    model = learned(spec, log)
    words = [np.frombuffer(page.page.features, np.uint64) for page in pages[-300:]]

    def predicted() -> float:
        return float(np.mean([model.predict(one) for one in words]))

    before = predicted()
    assert before == pytest.approx(rate, rel=0.3)
    train_on_window(model, encoded_window(model, log_of(log[-1_000:])))
    assert predicted() == pytest.approx(before, rel=0.1)
