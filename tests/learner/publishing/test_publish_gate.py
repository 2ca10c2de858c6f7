"""The publish gate over a model that learns: what it stops, what it lets through, and what it says of it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from msgspec import structs

from learner.publishing.comparison import compared
from learner.publishing.gate import ANCHOR_VERSIONS, PublishGate, version_metrics
from learner.publishing.label_window import POSITIVES, LabelWindow
from learner.publishing.reference_pages import ITEMS_MAX, PAGE_ITEMS_MAX, reference_pages
from learner.publishing.version_builder import VersionBuilder, serving_deep_logits, serving_wide_logits
from learner.training.model import Model
from learner.training.progressive_validation import ProgressiveValidation
from stream.events.types import Examples
from stream.features.page_features import Layout, id_of
from stream.snapshots.manifest import decode_manifest, encode_manifest
from stream.snapshots.payload import NAMES_MAX
from stream.snapshots.verdict import CALIBRATION, COLUMN, NORMS, NOT_FINITE, RANKING, SHIFT, SPREAD, Verdict
from stream.spec.spec import Spec
from tests.support.learner_world import records, small_spec
from tests.support.planted_faults import (
    blow_up,
    flatten,
    invert,
    make_nan,
    make_wide_nan,
    raise_rate,
    without_user_numbers,
)

SPEC = small_spec()
LOG = records(SPEC, 3_000)
LEARNED = 900  # records; a record has nine examples


class Learning:
    """A model that has learned, and its gate, which let the last version pass."""

    def __init__(self, spec: Spec = SPEC, learned: int = LEARNED) -> None:
        self.model, self.at = Model(spec), 0
        self.gate = PublishGate(self.model)
        while self.at < learned:
            self.learn(10)
            self.gate.judge(deep=True)
        assert self.gate.verdict.passed, self.gate.verdict

    def learn(self, count: int) -> None:
        """The next records."""
        for record in LOG[self.at : self.at + count]:
            self.model.learn(record, self.at)
            self.at += 1


def test_an_erased_user_s_pages_are_no_longer_compared() -> None:
    """The others' are, by the scores that they had; without any page there is no comparison."""
    learning = Learning()
    gate, model = learning.gate, learning.model
    users = np.array([id_of(model.layout.seeds["user.id"], f"u{k}") for k in range(20)], np.uint64)
    before = gate.evidence()
    assert before is not None
    shown = users[np.isin(users, before[0].pages.words)]
    gate.erase(shown[:1])
    after = gate.evidence()
    assert after is not None
    assert not any(np.isin(shown[:1], one.pages.words) for one in (after[0], *gate._anchors))
    assert np.isin(shown[1:], after[0].pages.words).all()
    assert 0 < len(after[0].pages) < len(before[0].pages)
    scores, items = after[0].scores, len(after[0].pages)
    assert len(scores.log_odds) == len(scores.deep) == len(after[0].pages.members) == len(after[1].deep) == items
    same = compared(scores.log_odds, after[1].log_odds, after[0].pages.ends)
    assert abs(same.shift) < 1e-6, "each item is compared with its own score"
    assert gate.judge(deep=True).passed
    raise_rate(model, times=2.0)
    assert gate.judge(deep=True).cause == SHIFT
    gate.erase(users)
    assert gate.evidence() is None


@pytest.mark.parametrize(
    ("plant", "cause"),
    [
        (make_nan, NOT_FINITE),
        (make_wide_nan, NOT_FINITE),
        (invert, RANKING),
        (flatten, SPREAD),
        (partial(raise_rate, times=2.0), SHIFT),
        (partial(raise_rate, times=0.5), SHIFT),
        (blow_up, NORMS),
    ],
)
def test_a_fault_is_stopped_and_named(plant: Callable[[Model], None], cause: str) -> None:
    """What differs too much from the live version isn't published, however few labels have come; all else is."""
    world = Learning()
    world.learn(1)
    assert world.gate.judge(deep=True).passed
    plant(world.model)
    world.learn(1)
    verdict = world.gate.judge(deep=True)
    assert verdict.cause == cause, verdict
    assert verdict.reason
    assert all(np.isfinite([*verdict.numbers.values()]))


def test_an_honest_model_passes() -> None:
    """Version after version, from the first on, with and without a deep part of its own."""
    model = Model(SPEC)
    gate = PublishGate(model)
    for offset, record in enumerate(LOG):
        model.learn(record, offset)
        if offset % 5 == 4:
            assert gate.judge(deep=offset % 20 == 19).passed, gate.verdict
    assert {"live_shift", "earlier_agreement", "calibration", "window_positives"} <= gate.verdict.numbers.keys()


def test_a_young_model_that_learned_much_since_its_live_version_passes() -> None:
    """A busy learner publishes seldom: by now its predictions of the labels had moved as far as its scores of old pages
    have, and they aren't moved again. What moves without having learned is still found by the labels.
    """
    model = Model(small_spec(**{"holdout = 0.0": "holdout = 0.0, shift_max = 100.0"}))
    gate = PublishGate(model)
    for offset, record in enumerate(LOG[:400]):
        if offset == 40:
            assert gate.judge(deep=True).passed
        alike = [structs.replace(one, labels=[1] * len(one.labels)) for one in record]
        model.learn(alike if offset < 40 else record, offset)
    assert gate.judge(deep=True).passed, gate.verdict
    assert gate.verdict.numbers["live_rate"] < 0.8, "scores have moved"
    assert 0.8 < gate.verdict.numbers["calibration"] < 1.25
    raise_rate(model, 2.0)
    assert gate.judge(deep=True).cause == CALIBRATION


def test_many_small_steps_make_a_large_one() -> None:
    """A rate that rises by a sixth with each version is found, though no step differs much from the live version."""
    lenient = "holdout = 0.0, calibration = [0.01, 100.0], log_loss_rise_max = 100.0"  # labels don't help
    world = Learning(small_spec(**{"holdout = 0.0": lenient}))
    stopped = 0
    for step in range(ANCHOR_VERSIONS):
        raise_rate(world.model, 1.17)
        verdict = world.gate.judge(deep=True)
        if not verdict.passed:
            stopped = step
            break
    assert stopped > 1, f"the steps are small: {verdict}"
    assert verdict.cause == SHIFT
    assert "the earlier version" in verdict.reason


def test_a_column_that_vanishes_is_found() -> None:
    """Pages that lack what all pages had aren't like those that the live version is known on."""
    world = Learning()
    layout = Layout(SPEC)

    def bare(record: list[Examples]) -> list[Examples]:
        pages = [without_user_numbers(layout, np.frombuffer(e.page.features, np.uint64).copy()) for e in record]
        return [
            structs.replace(e, page=structs.replace(e.page, features=words.tobytes()))
            for e, words in zip(record, pages, strict=True)
        ]

    for offset in range(world.at, world.at + 60):
        world.model.learn(bare(LOG[offset]), offset)
    verdict = world.gate.judge(deep=True)
    assert verdict.cause == COLUMN
    assert "user.age" in verdict.reason


def test_bounds_widen_while_nothing_passes() -> None:
    """What the world has made of the model is let through at last: the live version mustn't stay for ever."""
    world = Learning()
    rules = world.model.spec.publish.gate
    raise_rate(world.model, 2.0)
    assert world.gate.judge(deep=True).cause == SHIFT
    world.model.examples += rules.patience
    assert world.gate.judge(deep=True).cause != SHIFT


def test_bounds_widen_by_what_the_deep_part_has_learned() -> None:
    """Versions that pass in between, with the published deep part, don't lock its successor out."""
    world = Learning()
    rules = world.model.spec.publish.gate
    raise_rate(world.model, 2.0)
    assert world.gate.judge(deep=True).cause == SHIFT
    for _ in range(4):
        world.model.examples += rules.patience // 4
        assert world.gate.judge(deep=False).passed
    verdict = world.gate.judge(deep=True)
    assert verdict.numbers["live_since"] >= rules.patience
    assert verdict.cause != SHIFT


def test_slices_are_judged() -> None:
    """A group whose scores move is found, though they hardly move on the whole."""
    spec = small_spec(**{"[label]": '[slices]\n"user.age_band" = ["2"]\n[label]'})
    world = Learning(spec)
    pages = reference_pages(world.model)
    assert pages is not None
    share = pages.members[:, 0].mean()
    assert 0.2 < share < 0.5
    assert world.model.deep is not None
    bias = world.model.spec.publish.gate.shift_max
    live = world.gate._live
    assert live is not None
    moved = live.scores.log_odds - 2.0 * bias * live.pages.members[:, 0]
    world.gate._live = replace(live, scores=live.scores._replace(log_odds=moved))
    verdict = world.gate.judge(deep=True)
    assert verdict.cause in (SHIFT, SPREAD)
    assert abs(verdict.numbers["live_shift"]) < bias
    assert "where user.age_band=2" in verdict.reason


def test_versions_are_judged_as_the_pair_that_is_served() -> None:
    """Between two deep parts the published one counts, whatever became of the model's since."""
    world = Learning()
    flatten(world.model)
    raise_rate(world.model, 100.0)  # of the deep part alone
    before = world.gate._live
    assert before is not None
    assert world.gate.judge(deep=False).numbers["live_agreement"] > 0.5
    live = world.gate._live
    assert live is not None
    assert live.scores.deep is before.scores.deep


def test_reference_pages_score_as_golden_pages_do() -> None:
    """Encoded together they get what each page gets by itself, with the statistics of the version."""
    model = Model(SPEC)
    for offset, record in enumerate(LOG[:200]):
        model.learn(record, offset)
    pages = reference_pages(model)
    assert pages is not None
    assert len(pages) <= ITEMS_MAX
    scored = []
    for raw in reversed(model.recent_pages):
        words = np.frombuffer(raw, np.uint64).copy()
        model.statistics.fill(words, model.watermark_ms)
        scored.append(serving_wide_logits(model, words) + serving_deep_logits(model, words))
    expected = np.concatenate(scored)[: len(pages)]
    np.testing.assert_allclose(pages.wide_logits(model) + pages.deep_logits(model), expected, rtol=0, atol=1e-4)


def test_long_pages_are_cut_and_single_items_grouped() -> None:
    """Pages of one item are ranked among each other, sixteen at a time; of long pages the first items count."""
    model = Model(SPEC)
    for offset, record in enumerate(records(SPEC, 6, items=20)):
        model.learn(record, offset)
    pages = reference_pages(model)
    assert pages is not None
    assert np.diff(pages.ends).tolist() == [PAGE_ITEMS_MAX] * 6
    single = Model(SPEC)
    for offset, record in enumerate(records(SPEC, 40, items=1)):
        single.learn(record, offset)
    pages = reference_pages(single)
    assert pages is not None
    assert np.diff(pages.ends).tolist() == [16, 16, 8]


def test_agreement_weighs_pairs_by_their_distance() -> None:
    """Of three items two that nearly tie change places: most of the order stays; reversed, nothing does."""
    older, ends = np.array([0.0, 1.0, 1.1]), np.array([0, 3])
    swapped = compared(older, np.array([0.0, 1.1, 1.0]), ends)
    assert swapped.agreement == pytest.approx(2.1 / 2.2)
    assert compared(older, -older, ends).agreement == 0.0
    assert compared(older, np.zeros(3), ends).agreement == 0.5
    assert compared(older, older + 0.3, ends)[:1] == pytest.approx((0.3,))


@pytest.mark.parametrize("rate", [0.05, 0.01, 0.001])
@pytest.mark.parametrize("times", [0.5, 2.0])
def test_a_wrong_rate_shows_as_soon_as_labels_allow(rate: float, times: float) -> None:
    """Twice or half the rate is found within 200 positives; the right one isn't."""
    random = np.random.default_rng(round(1_000 * rate))
    progress = ProgressiveValidation()
    window = LabelWindow(progress)
    spec = small_spec()
    for _ in range(round(1.5 * POSITIVES / rate / 1_000)):
        labels = (random.random(1_000) < rate).astype(np.float32)
        progress.record(np.full(1_000, rate, np.float32), labels)
        window.add(0.0)
    assert window.figures(0, 0.0).base_rate * window.figures(0, 0.0).examples >= 0.8 * POSITIVES
    model = Model(spec)
    gate = PublishGate(model)
    gate._labels = window
    assert gate._labels_refusal(0.0, {}) is None
    refusal = gate._labels_refusal(float(np.log(times)), {})
    assert refusal is not None
    assert refusal.cause == CALIBRATION


def test_the_label_window_keeps_what_it_needs() -> None:
    """Old versions' sums go once newer ones have positives enough; however many there are, they are bounded."""
    progress = ProgressiveValidation()
    window = LabelWindow(progress)
    for rate in (0.5, 0.001):
        for n in range(3_000):
            progress.record(np.full(10, rate, np.float32), (np.arange(10) + 10 * n < 0).astype(np.float32))
            window.add(0.0)
            assert len(window._chunks) <= 1_025
    label = np.ones(400, np.float32)
    label[200:] = 0
    for _ in range(5):
        progress.record(np.full(400, 0.25, np.float32), label)
        window.add(0.0)
    figures = window.figures(0, 0.0)
    assert figures.examples == 2_000
    assert figures.calibration == pytest.approx(0.5)
    assert window.figures(0, float(np.log(2))).calibration == pytest.approx(1.0)


def test_a_verdict_goes_out_with_its_version() -> None:
    """Its numbers are in the manifest, however many figures there are."""
    world = Learning()
    metrics = version_metrics(world.model, world.gate.verdict)
    manifest = VersionBuilder(world.model).build(1, 0, 1, 1, 1, metrics, deep=True).manifest
    read = decode_manifest(encode_manifest(manifest)).metrics
    assert read["gate_live_agreement"] == world.gate.verdict.numbers["live_agreement"]
    assert read["window_log_loss"] == world.model.progress.metrics()["window_log_loss"]
    crowded = Verdict(numbers={f"n{i}": 1.0 for i in range(NAMES_MAX)})
    assert len(version_metrics(world.model, crowded)) == NAMES_MAX
