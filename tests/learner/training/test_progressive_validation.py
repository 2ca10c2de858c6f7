"""Progressive figures against their definitions: of all and of slices, for a lifetime and a window."""

import math
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from learner.checkpoints.checkpoint import restore, take
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.learner import Learner
from learner.training.dedup import RecentIds
from learner.training.figures import ALL, HEADER, WINDOW, Figures
from learner.training.model import Model
from learner.training.progressive_validation import ProgressiveValidation
from learner.training.ranking_figures import ranking_figures
from learner.training.ranking_progress import PageColumns, RankingProgress
from learner.training.slices import Slices
from stream.events.codec import encode_record
from stream.events.topics import EXAMPLES, EXAMPLES_DLQ
from stream.events.types import LATE_POSITIVE, WINDOW_CLOSED, Item
from stream.features.encoder import one_page
from stream.features.page_features import Catalogue, Layout, build_page
from stream.log.memory_log import MemoryLog
from stream.snapshots.payload import NAMES_MAX
from stream.spec.spec import Spec
from tests.support.learner_world import records, small_spec

SLICES = '[slices]\n"item.tags" = ["t0", "t3", "unheard of"]\n"user.age_band" = ["0"]\n"user.history" = ["i0"]\n'


def sliced(text: str = SLICES) -> Spec:
    """The small spec with slices."""
    return small_spec(**{"[label]": f"{text}[label]"})


def exact_auc(p: np.ndarray, y: np.ndarray) -> float:
    """Share of (positive, negative) pairs in order; ties half."""
    positives, negatives = p[y == 1], p[y == 0]
    if not len(positives) or not len(negatives):
        return 0.5
    return float(np.mean((positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)))


def assert_figures(figures: Figures, p: np.ndarray, y: np.ndarray, auc_within: float = 1e-9) -> None:
    """These figures are of these predictions and labels, by definition; AUC but for pairs that share a bin."""
    assert figures.examples == len(p)
    if not len(p):
        return
    loss, base = -np.mean(np.where(y == 1, np.log(p), np.log(1 - p))), float(np.mean(y))
    assert abs(figures.auc - exact_auc(p, y)) < auc_within
    assert abs(figures.log_loss - loss) < 1e-5
    assert figures.base_rate == pytest.approx(base)
    assert figures.calibration == (pytest.approx(np.mean(p) / base, rel=1e-5) if base else math.inf)
    if 0 < base < 1:
        entropy = -base * math.log(base) - (1 - base) * math.log(1 - base)
        assert figures.normalised_entropy() == pytest.approx(loss / entropy, rel=1e-4)


@given(st.lists(st.tuples(st.integers(1, 99), st.booleans(), st.booleans(), st.booleans()), max_size=60))
def test_figures_are_their_definitions(rows: list[tuple[int, bool, bool, bool]]) -> None:
    """Over all and over each slice: AUC with equal predictions half, log loss, entropy, base rate, calibration."""
    p = np.array([r[0] / 100 for r in rows], np.float32)
    y = np.array([r[1] for r in rows], np.float32)
    members = np.array([r[2:] for r in rows], np.bool_).reshape(-1, 2)
    progress = ProgressiveValidation(["a", "b"])
    for first in range(0, len(p), 7):
        progress.record(p[first : first + 7], y[first : first + 7], members[first : first + 7])
    for name, chosen in ((ALL, slice(None)), ("a", members[:, 0]), ("b", members[:, 1])):
        assert_figures(progress.lifetime(name), p[chosen], y[chosen])
        assert progress.window(name) == progress.lifetime(name), "all of them are recent"


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(0, 1_000))
def test_figures_dont_depend_on_how_records_are_cut(cuts: list[int], seed: int) -> None:
    """The same examples one by one and in records of any size: the same bits of state, the same marks."""
    random, n = np.random.default_rng(seed), sum(cuts)
    p, y = random.random(n, dtype=np.float32), (random.random(n) < 0.3).astype(np.float32)
    members, corrected = random.random((n, 1)) < 0.5, random.random(n) < 0.2
    singly, packed = ProgressiveValidation(["a"]), ProgressiveValidation(["a"])

    def recorded(progress: ProgressiveValidation, first: int, last: int) -> np.ndarray:
        return progress.record(p[first:last], y[first:last], members[first:last], corrected[first:last])

    losses = [recorded(singly, i, i + 1) for i in range(n)]
    whole = [recorded(packed, first, last) for first, last in pairwise(np.cumsum([0, *cuts]).tolist())]
    assert np.concatenate([np.zeros(0), *losses]).tobytes() == np.concatenate([np.zeros(0), *whole]).tobytes()
    for name, array in singly.arrays().items():
        assert array.tobytes() == packed.arrays()[name].tobytes(), name
    assert singly.milestones == packed.milestones


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(0, 1_000))
def test_marks_know_only_the_pages_before_them(cuts: list[int], seed: int) -> None:
    """Figures of ranking at 1, 2, 4, … examples are of whole pages up to there, however many pages a record has."""
    random, n = np.random.default_rng(seed), sum(cuts)
    p, y = random.random(3 * n, dtype=np.float32), (random.random(3 * n) < 0.4).astype(np.float32)
    identities = np.column_stack([np.arange(1, n + 1), random.integers(1, 4, n), np.full(n, 3)])
    pages = PageColumns(identities, np.arange(3 * n) // 3, np.arange(3 * n) % 3, np.repeat(np.arange(n) * 6e5, 3))
    singly, packed = ProgressiveValidation(), ProgressiveValidation()
    for progress, bounds in ((singly, list(range(n + 1))), (packed, np.cumsum([0, *cuts]).tolist())):
        for first, last in pairwise(bounds):
            of = slice(3 * first, 3 * last)
            progress.record(p[of], y[of], None, None, pages.part(of))
    assert singly.milestones == packed.milestones
    for mark in packed.milestones:
        rows = 3 * (mark.lifetime[ALL].examples // 3)
        wanted, found = ranking_figures(p[:rows], y[:rows], np.arange(rows) // 3), mark.rankings[ALL].pages
        assert found.groups == wanted.groups
        assert found.named() == pytest.approx(wanted.named(), nan_ok=True)


@given(st.lists(st.tuples(st.integers(1, 99), st.booleans(), st.booleans(), st.booleans()), max_size=60))
def test_a_correction_is_as_if_the_label_had_been_right(rows: list[tuple[int, bool, bool, bool]]) -> None:
    """All negative first; positives come later in any order, some are taken back: figures of the labels at last."""
    p, member = (
        np.array([r[0] / 100 for r in rows], np.float32),
        np.array([r[3:] for r in rows], np.bool_).reshape(-1, 1),
    )
    y, back = np.array([r[1] for r in rows], np.bool_), np.array([r[2] for r in rows], np.bool_)
    progress = ProgressiveValidation(["a"])
    progress.record(p, np.zeros(len(p), np.float32), member)
    late = np.flatnonzero(y)[::-1]
    progress.record(p[late], np.ones(len(late), np.float32), member[late], np.ones(len(late), np.bool_))
    gone = np.flatnonzero(y & back)
    progress.record(p[gone], np.zeros(len(gone), np.float32), member[gone], np.ones(len(gone), np.bool_))
    wanted = (y & ~back).astype(np.float32)
    for name, chosen in ((ALL, np.ones(len(p), np.bool_)), ("a", member[:, 0])):
        for figures in (progress.lifetime(name), progress.window(name)):
            assert_figures(figures, p[chosen], wanted[chosen])


def test_corrections_far_from_their_examples_are_right_on_the_whole() -> None:
    """Predictions that move a little between an example and its correction, long after: figures of a steady world."""
    random = np.random.default_rng(3)
    n, delay = 40_000, 5_000
    logit = random.normal(-1.5, 1.0, n)
    p = (1 / (1 + np.exp(-logit))).astype(np.float32)
    y = random.random(n) < p
    moved = (1 / (1 + np.exp(-logit - random.normal(0.0, 0.1, n)))).astype(np.float32)
    progress = ProgressiveValidation()
    for i in range(0, n, 50):
        progress.record(p[i : i + 50], np.zeros(50, np.float32))
        if i >= delay:
            late = i - delay + np.flatnonzero(y[i - delay : i - delay + 50])
            progress.record(moved[late], np.ones(len(late), np.float32), None, np.ones(len(late), np.bool_))
    window = progress.window()
    known = y[: n - delay].mean()
    assert window.examples == pytest.approx(WINDOW / (1 + known), rel=0.05)
    assert window.base_rate == pytest.approx(known, rel=0.15)
    assert window.auc == pytest.approx(exact_auc(p[:2000], y[:2000]), abs=0.04)
    assert window.calibration == pytest.approx(1.0, abs=0.15)
    life = progress.lifetime()
    assert life.examples == n
    assert life.auc == pytest.approx(exact_auc(p[:8000], y[:8000]), abs=0.02)
    assert life.log_loss < life.entropy()


@pytest.mark.parametrize(("label", "base_rate"), [(1.0, 1.0), (0.0, 0.0)])
def test_a_base_rate_is_a_rate(label: float, base_rate: float) -> None:
    """More corrections among the last 2,000 than examples that they could be of: it stays between 0 and 1."""
    progress = ProgressiveValidation()
    progress.record(np.full(600, 0.3, np.float32), np.zeros(600, np.float32))
    late = WINDOW - 600
    progress.record(np.full(late, 0.3, np.float32), np.full(late, label, np.float32), None, np.ones(late, np.bool_))
    window = progress.window()
    assert (window.examples, window.base_rate) == (600, base_rate)
    assert math.isfinite(window.log_loss)
    assert all(map(math.isfinite, progress.metrics().values()))


def test_figures_of_very_rare_labels() -> None:
    """One in 10,000: the AUC is that of the predictions, not of bins that hold most of them."""
    random = np.random.default_rng(0)
    n = 400_000
    p = (1 / (1 + np.exp(-random.normal(np.log(1e-4), 1.0, n)))).astype(np.float32)
    y = (random.random(n) < p).astype(np.float32)
    progress = ProgressiveValidation()
    progress.record(p, y)
    assert 20 < y.sum() < 200
    assert progress.lifetime().auc == pytest.approx(exact_auc(p, y), abs=1e-3)


def test_without_a_positive_there_is_no_calibration() -> None:
    """Lines show a dash, a version leaves it out (what it tells has to be finite)."""
    progress = ProgressiveValidation()
    progress.record(np.full(1, 0.1, np.float32), np.zeros(1, np.float32))
    assert progress.lifetime().calibration == math.inf
    calibrations = [part.split()[-1] for part in progress.milestones[0].lines()[0].split("|")[:2]]
    assert calibrations == ["-", "-"]
    figures = progress.metrics()
    assert "auc_arrival" in figures
    assert "calibration" not in figures
    assert "window_calibration" not in figures


def test_only_fake_negatives_are_corrected() -> None:
    """A late positive counts where every example is negative first; elsewhere the first label stays."""
    spec = small_spec()
    page = records(spec, 1)[0][0]
    ids = [1, 2, 3]
    first = msgspec.structs.replace(page, ids=ids, labels=[0, 0, 0], reasons=[WINDOW_CLOSED] * 3)
    late = msgspec.structs.replace(
        page, ids=[4], positions=[1], labels=[1], weights=[1.0], reasons=[LATE_POSITIVE], ingest_ms=[9]
    )
    for policy, rate in (("eager", 0), ("wait", 0), ("fake_negative", 1 / 3)):
        model = Model(msgspec.structs.replace(spec, label=msgspec.structs.replace(spec.label, policy=policy)))
        for offset, examples in enumerate((first, late, late)):
            model.learn([examples], offset)
        life = model.progress.lifetime()
        assert life.examples == 3, policy
        assert life.base_rate == pytest.approx(rate), policy


def test_figures_of_an_earlier_build_are_refused() -> None:
    """A checkpoint whose counts are of examples alone has bins of another kind."""
    progress = ProgressiveValidation(["a"])
    arrays = {**progress.arrays(), "counts": np.zeros(2, np.int64)}
    with pytest.raises(ValueError, match="reshape"):
        progress.restore(arrays, ["a"])


def test_the_window_forgets() -> None:
    """Only the last 2,000 predictions count in the window, and of a slice only its own last 2,000."""
    progress = ProgressiveValidation(["rare"])
    progress.record(np.full(3000, 0.9, np.float32), np.zeros(3000, np.float32), np.arange(3000)[:, None] % 3 == 0)
    progress.record(np.full(WINDOW, 0.5, np.float32), np.ones(WINDOW, np.float32), np.zeros((WINDOW, 1), np.bool_))
    assert progress.window().base_rate == 1.0
    assert progress.lifetime().base_rate == WINDOW / (WINDOW + 3000)
    assert progress.window("rare") == progress.lifetime("rare")
    assert progress.window("rare").examples == 1000
    progress.record(np.full(1500, 0.5, np.float32), np.ones(1500, np.float32), np.ones((1500, 1), np.bool_))
    assert progress.window("rare").base_rate == 0.75
    assert progress.lifetime("rare").base_rate == 0.6


def test_a_prediction_that_is_no_number_is_in_no_figure() -> None:
    """One NaN changes neither the lifetime's figures nor the window's, and its own loss is NaN."""
    progress, without = ProgressiveValidation(["in"]), ProgressiveValidation(["in"])
    predictions, labels = np.array([0.25, np.nan, 0.5], np.float32), np.array([0, 1, 1], np.float32)
    members, others = np.ones((3, 1), np.bool_), np.array([0, 2])
    losses = progress.record(predictions, labels, members)
    expected = without.record(predictions[others], labels[others], members[others])
    assert losses[others].tolist() == expected.tolist()
    assert math.isnan(losses[1])
    for name in ("all", "in"):
        assert progress.lifetime(name) == without.lifetime(name)
        assert progress.window(name) == without.window(name)


def test_a_checkpoint_whose_figures_are_no_numbers_begins_anew() -> None:
    """Earlier builds recorded NaN for ever: such a slice's figures begin at zero, others go on."""
    progress = ProgressiveValidation(["in"])
    progress.record(np.full(8, 0.5, np.float32), np.ones(8, np.float32), np.ones((8, 1), np.bool_))
    arrays = progress.arrays()
    arrays["sums"][1, 0], arrays["marked"][0] = np.nan, np.nan
    again = ProgressiveValidation(["in"])
    again.restore(arrays, ["in"])
    assert again.lifetime() == progress.lifetime()
    assert again.lifetime("in").examples == 0
    again.record(np.full(8, 0.5, np.float32), np.ones(8, np.float32), np.ones((8, 1), np.bool_))
    assert math.isfinite(again.milestones[-1].since_last)


def test_figures_stand_at_doubling_counts() -> None:
    """At 1, 2, 4, 8, … the figures of just so many, however records lie; log loss since the mark before."""
    random = np.random.default_rng(0)
    p, y = (random.permutation(37) / 37 + 0.01).astype(np.float32), (random.random(37) < 0.5).astype(np.float32)
    members = (np.arange(37) % 2 == 0)[:, None]
    progress = ProgressiveValidation(["even"])
    losses = [progress.record(p[a:b], y[a:b], members[a:b]) for a, b in ((0, 3), (3, 20), (20, 37))]
    loss = np.concatenate(losses)
    assert [mark.lifetime[ALL].examples for mark in progress.milestones] == [1, 2, 4, 8, 16, 32]
    for mark in progress.milestones:
        count = mark.lifetime[ALL].examples
        assert_figures(mark.lifetime[ALL], p[:count], y[:count])
        assert_figures(mark.lifetime["even"], p[:count:2], y[:count:2])
        assert mark.window == mark.lifetime
        assert mark.since_last == pytest.approx(loss[count // 2 : count].mean())


def test_members_are_those_whose_column_holds_the_value() -> None:
    """Categories, lists, bands, histories; of the user for every item of the page, of an item for it alone."""
    spec = sliced()
    layout = Layout(spec)
    catalogue, slices = Catalogue(layout), Slices(spec, layout)
    catalogue.put(Item("i1", {"tags": ["t3", "t0"]}))
    catalogue.put(Item("i2", {"tags": ["t3"]}))

    def members(age: float, history: list[str]) -> list[list[bool]]:
        user = layout.user("u", {"age": age}, history, {})
        page = build_page(layout, user, catalogue, catalogue.rows(["i1", "i2", "i3"]))
        found: list[list[bool]] = slices.members(one_page(page)).tolist()
        return found

    assert slices.names == (
        "item.tags=t0", "item.tags=t3", "item.tags=unheard of", "user.age_band=0", "user.history=i0",
    )  # fmt: skip
    tags = [[True, True, False], [False, True, False], [False, False, False]]
    assert members(19.0, ["i2", "i0"]) == [[*row, True, True] for row in tags]
    assert members(20.0, ["i2"]) == [[*row, False, False] for row in tags]


def test_the_model_tells_its_slices() -> None:
    """What the model records of each slice is what each of its examples says on its own."""
    spec = sliced()
    log, model = records(spec, 60), Model(spec)
    for offset, record in enumerate(log):
        model.learn(record, offset)
    slices = Slices(spec, Layout(spec))
    members = np.concatenate([
        slices.members(one_page(np.frombuffer(e.page.features, np.uint64))) for record in log for e in record
    ])  # fmt: skip
    labels = np.concatenate([e.labels for record in log for e in record])
    predictions = model.progress.state.recent[0, 0, : len(labels)]
    assert 0 < members[:, 0].sum() < len(labels)
    for s, name in enumerate(slices.names):
        assert_figures(model.progress.lifetime(name), predictions[members[:, s]], labels[members[:, s]], 1e-2)


def test_the_model_tells_how_it_ranks() -> None:
    """Of each page, at the predictions that it was learned with: in lines, in a version, in slices, over a restart."""
    spec = sliced()
    log, model = records(spec, 60), Model(spec)
    model.progress.rankings = RankingProgress(len(model.progress.names) - 1, 2_000)
    for offset, record in enumerate(log):
        model.learn(record, offset)
    pages = [event for record in log for event in record]
    labels = np.concatenate([np.array(event.labels, np.float32) for event in pages])
    predictions = model.progress.state.recent[0, 0, : len(labels)]
    wanted = ranking_figures(predictions, labels, np.arange(len(labels)) // 3)
    found = model.progress.rankings.lifetime("page")
    assert found.groups == wanted.groups > 20
    assert found.named() == pytest.approx(wanted.named(), nan_ok=True)
    metrics = model.progress.metrics()
    assert metrics["page_auc"] == metrics["window_page_auc"] == found.auc
    assert metrics["page_ndcg"] == found.ndcg
    assert "page_hit_rate" not in metrics, "pages of three items"
    assert metrics["window_page_auc[user.history=i0]"] != found.auc
    mark = model.progress.milestones[-1]
    assert mark.lines()[0].split("|")[2].split()[0] == f"{mark.rankings[ALL].pages.auc:.4f}"
    again = restore(spec, take(model, 0, 0, 0))
    assert again.progress.rankings.lifetime("page", 1) == model.progress.rankings.lifetime("page", 1)
    older = take(model, 0, 0, 0)
    for name in [name for name in older.arrays if name.startswith(("ranking_", "page_", "session_"))]:
        if name != "page_bytes":
            del older.arrays[name]
    assert restore(spec, older).progress.rankings.lifetime("page").groups == 0, "a build before had none"


@pytest.mark.parametrize("policy", ["wait", "eager", "fake_negative"])
def test_a_page_isnt_ranked_by_predictions_that_know_its_labels(policy: str) -> None:
    """Pages of several items count under `fake_negative` only; those of one item, in sessions, under all."""
    spec = small_spec(**{"[label]": f'[label]\npolicy = "{policy}"'})
    for items, known in ((3, policy == "fake_negative"), (1, True)):
        model = Model(spec)
        for offset, record in enumerate(records(spec, 60, items=items)):
            model.learn(record, offset)
        assert model.progress.rankings.uncounted()["large"] == (0 if known else 60)


def test_a_manifest_has_room_for_all_slices() -> None:
    """Figures of slices' ranking are left out where it has none."""
    progress = ProgressiveValidation([f"item.tags={n}" for n in range(100)])
    pages = PageColumns(np.array([[1, 1, 2]]), np.zeros(2, np.int64), np.arange(2), np.ones(2))
    progress.record(
        np.array([0.2, 0.7], np.float32), np.array([0, 1], np.float32), np.ones((2, 100), np.bool_), None, pages
    )
    found = progress.metrics()
    assert len(found) == NAMES_MAX
    assert {"auc_arrival[item.tags=99]", "window_page_auc", "window_page_auc[item.tags=0]"} <= found.keys()


def test_a_version_tells_its_figures() -> None:
    """Lifetime and window: of all by their plain names, of a slice the AUC with its name."""
    progress = ProgressiveValidation(["a=b"])
    progress.record(np.array([0.2, 0.7], np.float32), np.array([0, 1], np.float32), np.array([[True], [False]]))
    figures = progress.metrics()
    assert figures["auc_arrival"] == figures["window_auc"] == 1.0
    assert figures["log_loss"] == progress.lifetime().log_loss
    assert figures["normalised_entropy"] == progress.lifetime().normalised_entropy()
    assert figures["calibration"] == pytest.approx(0.9)
    assert figures["examples"] == figures["window_examples"] == 2
    assert figures["auc_arrival[a=b]"] == figures["window_auc[a=b]"] == 0.5


def test_slices_change_nothing_but_figures() -> None:
    """A spec with slices learns the same bits, and goes on from a checkpoint of the one without."""
    plain, spec = small_spec(), sliced()
    log = records(plain, 60)
    without, with_slices = Model(plain), Model(spec)
    for offset, record in enumerate(log):
        without.learn(record, offset)
        with_slices.learn(record, offset)
    first, second = take(without, 0, 0, 0), take(with_slices, 0, 0, 0)
    for name, array in first.arrays.items():
        other = second.arrays[name]
        if name in ("bins", "sums", "recent", "counts", "drift_rows"):
            other = other[:1]
        elif name in ("ranking_sums", "ranking_recent", "ranking_counts"):
            other = other[:, :1]
        elif name.endswith("_members"):
            other = other[:, :, :0]
        assert array.tobytes() == other.tobytes(), name
    assert restore(spec, first).progress.lifetime() == without.progress.lifetime()


def test_a_slice_that_a_checkpoint_doesnt_know_starts_anew(tmp_path: Path) -> None:
    """Slices may change at a restart: those of the checkpoint go on by their names, in any order; others begin."""
    before, after = sliced('[slices]\n"item.tags" = ["t0", "t1"]\n'), sliced('[slices]\n"item.tags" = ["t2", "t1"]\n')
    model = Model(before)
    for offset, record in enumerate(records(before, 30)):
        model.learn(record, offset)
    files = CheckpointFiles(tmp_path)
    files.write(take(model, 10, 0, 0))
    checkpoint = files.newest()
    assert checkpoint is not None
    progress = restore(after, checkpoint).progress
    assert progress.lifetime() == model.progress.lifetime()
    assert progress.lifetime("item.tags=t1") == model.progress.lifetime("item.tags=t1")
    assert progress.window("item.tags=t1").examples > 0
    assert progress.lifetime("item.tags=t2").examples == 0


def learner(spec: Spec, folder: Path, model: Model, offset: int, log: MemoryLog) -> Learner:
    """It learns what is in the log from this offset on."""
    found = Learner(log, model, offset, CheckpointFiles(folder), 1_000_000)
    read = model.record_encoder.records(log.reader(EXAMPLES.name, {0: offset}).poll(0))
    found.learn(read, lambda: None)
    found.update_metrics(now=True)
    return found


def test_lines_come_at_doubling_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for all at just 1, 2, 4, … examples though records hold 9, one for each slice that has any."""
    spec = sliced()
    written = records(spec, 24)
    log = MemoryLog({EXAMPLES.name: 1, EXAMPLES_DLQ.name: 1}, lambda: 1_000)
    for record in written:
        log.send(EXAMPLES.name, 0, encode_record(record), b"key")
    whole = learner(spec, tmp_path, Model(spec), 0, log)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == HEADER
    of_all = [line for line in lines if line.endswith("  all")]
    assert [int(line.split()[0]) for line in of_all] == [1, 2, 4, 8, 16, 32, 64]
    assert any(line.endswith("  item.tags=t0") for line in lines)
    assert not any("unheard of" in line for line in lines)
    half = Model(spec)
    for offset in range(3):
        half.learn(written[offset], offset)
    learner(spec, tmp_path, restore(spec, take(half, 3, 0, 0)), 3, log)
    head, *again = capsys.readouterr().out.splitlines()
    assert again == lines[-len(again) :]
    assert [line.split()[0] for line in again if line.endswith("  all")] == ["32", "64"]
    for name in whole.model.progress.names:
        for window, figures in (
            ("lifetime", whole.model.progress.lifetime(name)),
            ("2000", whole.model.progress.window(name)),
        ):
            for metric, value in (("auc", figures.auc), ("log_loss", figures.log_loss),
                                  ("normalised_entropy", figures.normalised_entropy()),
                                  ("calibration", figures.calibration)):  # fmt: skip
                assert (
                    REGISTRY.get_sample_value(f"thalweg_learner_{metric}", {"slice": name, "window": window}) == value
                )


@given(st.lists(st.lists(st.integers(0, 40), max_size=10), max_size=20))
def test_an_id_is_new_once(batches: list[list[int]]) -> None:
    """Within the bound an id is new exactly the first time, also within one batch."""
    seen, known = RecentIds(), set[int]()
    for batch in batches:
        new = seen.add(np.array(batch, np.uint64))
        for i, one in enumerate(batch):
            assert bool(new[i]) == ((one or 1) not in known)
            known.add(one or 1)


def test_memory_of_ids_is_bounded_and_keeps_the_newest() -> None:
    """At least the last `ids` ids of each source are remembered, at most twice as many."""
    seen = RecentIds(ids_max=100)
    for source in (0, 7):
        for first in range(1, 1001, 10):
            seen.add(np.arange(first, first + 10, dtype=np.uint64) + np.uint64(1_000 * (source + 1)), source)
    assert all(len(young) + len(old) <= 200 for young, old in seen.generations.values())
    again = RecentIds(ids_max=100)
    again.restore({"id_sources": seen.sources()} | {name: table.rows() for name, table in seen.tables().items()})
    for one in (seen, again):
        for source in (0, 7):
            ids = np.arange(901, 1001, dtype=np.uint64) + np.uint64(1_000 * (source + 1))
            assert not one.add(ids, source).any()
            assert one.add(ids, 3).all(), "of another source"


def test_ids_without_a_source_may_be_of_any() -> None:
    """Letters sent back and earlier builds' records name none: known from any source and to any, for longer."""
    seen, sourced = RecentIds(ids_max=10), np.arange(2, 6, dtype=np.uint64)
    unsourced = np.arange(1_000, 1_100, dtype=np.uint64)
    seen.add(sourced, 3)
    assert not seen.add(sourced).any()
    for first in range(0, 100, 10):
        seen.add(unsourced[first : first + 10])
    assert not seen.add(unsourced, 4).any()
    assert seen.add(np.array([0, 0, 9], np.uint64), 5).tolist() == [True, False, True]
    assert seen.add(np.array([0, 9, 10], np.uint64)).tolist() == [False, False, True]


def test_sources_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the bound the one that came longest ago is forgotten."""
    monkeypatch.setattr("learner.training.dedup.SOURCES_MAX", 2)
    seen, ids = RecentIds(), np.array([1], np.uint64)
    assert [bool(seen.add(ids, source)[0]) for source in (0, 1, 0, 2, 0, 1)] == [True, True, False, True, False, True]


def test_ids_of_an_earlier_builds_checkpoint_are_known() -> None:
    """It has two generations, and no sources: they are those of records without one."""
    seen = RecentIds()
    seen.restore({"young": np.arange(1, 5, dtype=np.uint64), "old": np.arange(5, 9, dtype=np.uint64)})
    assert not seen.add(np.arange(1, 9, dtype=np.uint64)).any()
