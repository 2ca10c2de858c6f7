"""Held-out pages: nothing is learned from them, and what they say of the model is a function of the log."""

from itertools import chain, pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from prometheus_client import REGISTRY

from learner.checkpoints.checkpoint import restore, take
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.training.frozen_model import ModelCopy
from learner.training.held_out import HeldOut
from learner.training.held_out_pages import LATE_MS, HeldOutPages
from learner.training.holdout import Holdout
from learner.training.metrics import set_held_out
from learner.training.model import Model
from learner.training.ranking_progress import identities_of
from stream.events.codec import encode_record
from stream.events.types import LATE_POSITIVE, Examples
from stream.log.protocol import Record
from stream.spec.parts import Publish
from stream.spec.spec import Spec
from tests.support.held_out_models import holding_spec, judge_often
from tests.support.learned_models import assert_same, learned
from tests.support.learner_world import records

Log = list[list[Examples]]
PARTS = {"both": {}, "wide": {'name = "small"': 'name = "small"\nparts = ["wide"]'}}


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    judge_often(monkeypatch)


def held_pages(log: Log, share: float) -> list[bool]:
    """Which pages of a log are held out."""
    pages = [examples.page for examples in chain.from_iterable(log)]
    found: list[bool] = Holdout(share).pages(identities_of(pages)).tolist()
    return found


def without_held(log: Log, share: float) -> Log:
    """The log as it would be if nobody had seen these pages."""
    which = iter(held_pages(log, share))
    return [[examples for examples in record if not next(which)] for record in log]


def test_the_share_is_held_out() -> None:
    """By hash of the page: about as many as asked for, a larger share has all of a smaller one, and 0 has none."""
    log = records(holding_spec(), 3_000)
    fifth, tenth = np.array(held_pages(log, 0.2)), np.array(held_pages(log, 0.1))
    assert 0.17 < fifth.mean() < 0.23
    assert 0.08 < tenth.mean() < 0.12
    assert not (tenth & ~fifth).any()
    assert not any(held_pages(log, 0.0))


@pytest.mark.parametrize("parts", PARTS)
def test_nothing_is_learned_from_them(parts: str) -> None:
    """The model is, to the bit, the one that never saw these pages: weights, statistics, rows, samples, figures.

    A page a record: micro-batches are cut before pages are held out.
    """
    spec = holding_spec(0.2, **PARTS[parts])
    log = records(spec, 900, per_record=1)
    one, other = Model(spec), Model(_all_learned(spec))
    rest = without_held(log, 0.2)
    for offset in range(len(log)):
        one.learn(log[offset], offset)
        other.learn(rest[offset], offset)
    assert one.held_out.examples > 300
    assert one.examples == other.examples
    mine, theirs = take(one, 0, 0, 0).arrays, take(other, 0, 0, 0).arrays
    of_all = ("held_out", "shown", "ids", "id_sources")  # deduplication and names of items are of all pages
    names = [name for name in mine if not name.startswith(of_all)]
    assert {"wide_rows", "statistics", "bins"} <= {*names}
    for name in names:
        assert mine[name].tobytes() == theirs[name].tobytes(), name


def _all_learned(spec: Spec) -> Spec:
    gate = msgspec.structs.replace(spec.publish.gate, holdout=0.0)
    return msgspec.structs.replace(spec, publish=Publish(gate=gate))


@pytest.mark.parametrize("parts", PARTS)
def test_the_anchor_predicts_as_the_model_did(parts: str) -> None:
    """Copied at once, bit for bit; and it goes on doing so while the model learns."""
    spec = holding_spec(0.2, **PARTS[parts])
    log = records(spec, 600)
    model = learned(spec, log[:150])
    copy = ModelCopy(model.wide, model.deep, model.examples)
    anchor = copy.step()
    while anchor is None:
        anchor = copy.step()
    pages = [np.frombuffer(one.page.features, np.uint64) for one in chain.from_iterable(log[150:170])]
    encoded = model.encode_pages(pages)
    before = [model.predict_encoded(*page) for page in encoded]
    learned(spec, log, model, 150)
    for page, expected in zip(encoded, before, strict=True):
        assert anchor.predict_encoded(*page).tobytes() == expected.tobytes()
        assert model.predict_encoded(*page).tobytes() != expected.tobytes()


@pytest.mark.parametrize("stop", [23, 40, 101, 212, 299])
def test_resuming_is_never_having_stopped(tmp_path: Path, stop: int) -> None:
    """With pages that wait, an anchor half copied, a window half full."""
    spec = holding_spec()
    log = records(spec, 900)
    whole = learned(spec, log)
    assert whole.held_out.anchor
    files = CheckpointFiles(tmp_path)
    files.write(take(learned(spec, log[:stop]), stop, 3, 4))
    found = files.newest()
    assert found is not None
    assert_same(learned(spec, log, restore(spec, found), stop), whole)


def test_stops_cover_what_can_be_half_done() -> None:
    """The test above stops while an anchor is copied, before there is one, and with pages that wait."""
    spec = holding_spec()
    log = records(spec, 900)
    states = [learned(spec, log[:stop]).held_out for stop in (23, 40, 101, 212)]
    assert [bool(state.anchor) for state in states] == [False, False, True, True]
    assert any(state._copy for state in states)
    assert any(len(state.judge.window.labels) for state in states)


def test_packing_makes_no_difference() -> None:
    """Learned a record at a time, or as many in a step as may be: the same bits, verdicts and anchors."""
    spec = holding_spec()
    log = records(spec, 700, per_record=2)
    raw = [Record("", 0, n, 1, b"0", encode_record(record)) for n, record in enumerate(log)]
    models = Model(spec), Model(spec)
    steps = [0, 0]
    for which, (model, read) in enumerate(zip(models, (1, 50), strict=True)):
        for first, last in pairwise([*range(0, len(raw), read), len(raw)]):
            for chunk in model.record_encoder.records(raw[first:last]):
                for a, b in model.steps(chunk):
                    model.learn_records(chunk, a, b)
                    steps[which] += 1
    assert steps[1] < steps[0]
    assert_same(*models)
    assert list(models[0].held_out.news) == list(models[1].held_out.news)


def test_duplicates_are_dropped() -> None:
    """A held-out example that comes again is neither counted nor judged twice."""
    spec = holding_spec()
    log = records(spec, 300)
    once, twice = Model(spec), Model(spec)
    for offset, record in enumerate(log):
        once.learn(record, offset)
        twice.learn(record, 2 * offset)
        assert twice.learn(record, 2 * offset + 1) == 0
    assert twice.held_out.examples == once.held_out.examples
    assert twice.duplicates == 900
    assert twice.held_out.judge.window.labels.tobytes() == once.held_out.judge.window.labels.tobytes()


def _pages_of(labels_ms: int, *, settles: bool, parts: list[tuple[list[int], list[int], int]]) -> HeldOutPages:
    """One page of three items whose labels come in these parts: positions, labels, reason."""
    spec = holding_spec(share=0.5)
    log = records(spec, 20)
    page = next(one for one, is_held in zip(chain.from_iterable(log), held_pages(log, 0.5), strict=True) if is_held)
    waiting, encoder = HeldOutPages(labels_ms, settles=settles), Model(spec).record_encoder
    for number, (positions, labels, reason) in enumerate(parts):
        ids = [100 * number + position for position in positions]
        some = [page.page, ids, positions, labels, [1.0] * len(ids), [reason] * len(ids), [1] * len(ids)]
        for chunk in encoder.of_events([[Examples(*some)]], [number], 0):  # type: ignore[arg-type]
            assert chunk.held_out
            words = chunk.examples.columns.pages.words
            waiting.add(chunk.held_out, np.arange(len(ids)), words, chunk.words_ends)
    return waiting


def test_a_page_is_judged_whole() -> None:
    """Once its last label is there, by all of them, however they came."""
    waiting = _pages_of(10**9, settles=False, parts=[([2], [1], 1)])
    assert waiting.take(1_000_000) is None
    waiting = _pages_of(10**9, settles=False, parts=[([2], [1], 1), ([0, 1], [0, 0], 0)])
    found = waiting.take(1_000_000)
    assert found is not None
    assert found.labels.tolist() == [0.0, 0.0, 1.0]
    assert len(waiting) == 0


def test_corrections_are_in_before_it_is_judged() -> None:
    """Where negatives come early, a page waits until its labels are final, and the last label counts."""
    parts = [([0, 1, 2], [0, 0, 0], 0), ([1], [1], LATE_POSITIVE)]
    waiting = _pages_of(5_000, settles=True, parts=parts)
    assert waiting.take(1_000_000) is None
    found = waiting.take(10**9)
    assert found is not None
    assert found.labels.tolist() == [0.0, 1.0, 0.0]


def test_examples_that_find_no_room_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that came while too many waited isn't judged, whatever comes of it later."""
    monkeypatch.setattr("learner.training.held_out_pages.PAGES_MAX", 0)
    waiting = _pages_of(10**9, settles=False, parts=[([2], [1], 1), ([0, 1], [0, 0], 0)])
    assert (waiting.dropped, len(waiting)) == (3, 0)
    model = Model(holding_spec(share=0.5))
    model.held_out.pages = waiting
    set_held_out(model.held_out)
    assert REGISTRY.get_sample_value("thalweg_learner_held_out_unjudged_examples_total") == 3


def test_a_page_whose_labels_never_come_is_judged_by_those_it_has() -> None:
    """When its window has passed, and labels may no longer be late."""
    waiting = _pages_of(5_000, settles=False, parts=[([0, 2], [0, 1], 1)])
    time_ms = next(iter(waiting._waiting.values())).time_ms
    assert waiting.take(time_ms + 5_000 + LATE_MS - 1) is None
    found = waiting.take(time_ms + 5_000 + LATE_MS)
    assert found is not None
    assert found.labels.tolist() == [0.0, 1.0]
    assert found.batch.position.tolist() == [0, 2]


def test_a_spoiled_model_is_worse() -> None:
    """Weights that are inverted after the anchor was taken; the reason has the numbers, and the anchor stays."""
    spec = holding_spec(0.2, **PARTS["wide"])
    log = records(spec, 3_000)
    model = learned(spec, log[:400])
    anchor = _anchor(model.held_out)
    zn = model.wide.table.slots.view(np.float32)
    zn[:, 2] *= -3.0
    for offset in range(400, 1_000):
        model.learn(log[offset], offset)
        if model.held_out.worse:
            break
    assert "worse" in model.held_out.worse or "AUC" in model.held_out.worse
    assert model.held_out.news[-1].verdict.outcome == "worse"
    assert _anchor(model.held_out) == anchor


def test_a_model_that_learns_becomes_the_anchor() -> None:
    """Again and again, as it gets better; and it's never worse."""
    spec = holding_spec()
    model = learned(spec, records(spec, 2_400))
    outcomes = model.held_out.outcomes
    assert outcomes["worse"] == 0
    assert outcomes["better"] + outcomes["equal"] >= 2
    assert _anchor(model.held_out) > 1_000


def test_nothing_is_judged_where_all_is_learned() -> None:
    """No anchor is copied, and the same is learned as ever."""
    model = learned(holding_spec(share=0.0), records(holding_spec(), 600))
    assert model.examples == 1_800
    assert model.held_out.anchor is None


def _anchor(held_out: HeldOut) -> int:
    assert held_out.anchor
    return held_out.anchor.examples
