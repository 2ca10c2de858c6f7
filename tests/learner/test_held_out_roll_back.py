"""A model that held-out pages find worse: learning returns to the checkpoint from before its anchor, and goes on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from learner.checkpoints.checkpoint import restore
from learner.checkpoints.checkpoint_files import ANCHORED, PASSED, CheckpointFiles
from learner.learner import Learner
from learner.publishing.publisher import Publisher
from learner.publishing.uploader import PublishConfig
from learner.publishing.version_allocator import HighWater
from learner.training.model import Model
from stream.events.codec import encode_record
from stream.events.topics import EXAMPLES, EXAMPLES_DLQ
from stream.log.memory_log import MemoryLog
from stream.snapshots.memory_store import MemoryStore
from tests.support.assembled_versions import assembled, learned_state
from tests.support.held_out_models import holding_spec, judge_often
from tests.support.learned_models import assert_same, learned, state_of
from tests.support.learner_world import records
from tests.support.planted_faults import invert, make_nan
from tests.support.waiting import wait_until

SPEC = holding_spec(0.2, **{"holdout = 0.2": "holdout = 0.2, refusals_max = 1000"})
LOG = records(SPEC, 3_000)
OF_MODEL = ("wide_rows", "statistics", "likenesses", "vocabulary", "vocabulary.values", "dense", "dense_squares")


class Loop:
    """A learner and its publisher, a record at a time."""

    def __init__(self, folder: Path) -> None:
        self.log = MemoryLog({EXAMPLES.name: 1, EXAMPLES_DLQ.name: 1}, lambda: 1_000)
        for record in LOG:
            self.log.send(EXAMPLES.name, 0, encode_record(record), b"0")
        self.files, self.store, self.ms = CheckpointFiles(folder / "checkpoints"), MemoryStore("small"), 1_000
        self.learner = Learner(self.log, Model(SPEC), 0, self.files, 0)
        cadence = PublishConfig(100, 300, 50, folder / "quarantine", folder / "pins", folder / "numbers")
        self.publisher = Publisher(self.learner.model, self.store, cadence, lambda: self.ms, HighWater())

    def learn(self, count: int = 1, *, publishes: bool = False) -> None:
        """Some records, then a checkpoint, and perhaps a version."""
        reader = self.log.reader(EXAMPLES.name, {0: self.learner.offset})
        self.learner.learn(self.learner.model.record_encoder.records(reader.poll(0, count)), lambda: None)
        reader.close()
        self.learner.maybe_checkpoint(now=True)
        if publishes:
            self.ms += 300
            self.publisher.maybe_publish(self.learner.offset)
            wait_until(lambda: not self.publisher.uploader.busy)

    def learn_until(self, event: str) -> str:
        """Until this is logged. Returns its reason."""
        with capture_logs() as logged:
            for _ in range(30):
                self.learn(10)
                for one in logged:
                    if event in one["event"]:
                        return str(one["reason"])
        raise AssertionError(f"never, in {logged}")

    def stop(self) -> None:
        """End its threads."""
        self.learner.checkpointer.abandon()
        self.publisher.uploader.stop()


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    """A learner that has learned enough to be judged, and has a good checkpoint."""
    judge_often(monkeypatch)
    loop = Loop(tmp_path)
    for _ in range(10):
        loop.learn(20)
    yield loop
    loop.stop()


def test_a_checkpoint_from_before_the_anchor_is_kept(loop: Loop) -> None:
    """However many follow."""
    name, held_out = loop.files.pinned(ANCHORED), loop.learner.model.held_out
    assert name is not None
    assert held_out.anchor is not None
    assert held_out.begun == 1
    assert 0 < loop.files.named(name).meta.examples <= held_out.anchor.examples
    assert loop.files.pinned(PASSED) is None


def test_a_worse_model_is_rolled_back(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it learned is of then; offset, ids, pages that wait and the anchor are of now; the reason has numbers."""
    name = loop.files.pinned(ANCHORED)
    assert name is not None
    good = state_of(restore(SPEC, loop.files.named(name)))
    anchor, offset = loop.learner.model.held_out.anchor, loop.learner.offset
    returned, roll_back = dict[str, bytes](), loop.learner.roll_back

    def watched(reason: str, kind: str) -> None:
        roll_back(reason, kind)
        returned.update(state_of(loop.learner.model))

    monkeypatch.setattr(loop.learner, "roll_back", watched)
    make_nan(loop.learner.model)
    reason = loop.learn_until("learning is rolled back")
    assert "worse by held-out pages" in reason
    assert "predictions of held-out examples aren't numbers" in reason
    found = loop.files.newest()
    assert found is not None
    model = loop.learner.model
    assert model.finite()
    assert loop.learner.offset > offset
    assert model.held_out.anchor is anchor
    assert not model.held_out.worse
    assert model.held_out.outcomes["worse"] == 1
    assert loop.files.pinned(ANCHORED) == loop.files.pinned(PASSED) == name
    assert {name: returned[name] for name in OF_MODEL} == {name: good[name] for name in OF_MODEL}


def test_a_restart_learns_on_from_the_state_after_it(loop: Loop) -> None:
    """The next checkpoint has it, whole; nothing is learned twice."""
    make_nan(loop.learner.model)
    loop.learn_until("learning is rolled back")
    found = loop.files.newest()
    assert found is not None
    after = loop.log.reader(EXAMPLES.name, {0: loop.learner.offset})
    loop.learner.learn(loop.learner.model.record_encoder.records(after.poll(0, 30)), lambda: None)
    after.close()
    other = Learner(loop.log, restore(SPEC, found), found.meta.offset, CheckpointFiles(loop.files.folder / "other"), 0)
    reader = loop.log.reader(EXAMPLES.name, {0: found.meta.offset})
    count = loop.learner.offset - found.meta.offset
    if count:
        other.learn(other.model.record_encoder.records(reader.poll(0, count)), lambda: None)
    reader.close()
    assert other.model.duplicates == 0
    assert_same(other.model, loop.learner.model)


def test_what_it_returns_to_is_published(loop: Loop) -> None:
    """Though it differs as much from the live version, which is the worse one, as what the gate refuses."""
    loop.learner.publisher = loop.publisher
    loop.publisher.maybe_publish(loop.learner.offset)
    wait_until(lambda: loop.publisher.uploader.owns_model and not loop.publisher.uploader.busy)
    invert(loop.learner.model)
    loop.learn(1, publishes=True)
    assert loop.publisher.version == 1, "it has nothing to be compared with"
    loop.learner.model.held_out.worse = "so it seems"
    loop.learn(1, publishes=True)
    assert loop.publisher.gate.verdict.passed
    head = loop.store.head()
    assert head is not None
    assert head.version == 2
    wide, statistics, _, _ = assembled(loop.store, loop.store.manifest(head.version))
    assert (wide, statistics) == learned_state(loop.learner.model)[:2]


def test_without_a_good_checkpoint_learning_goes_on(loop: Loop) -> None:
    """It's said, and the model is judged again."""
    (loop.files.folder / ANCHORED).unlink()
    make_nan(loop.learner.model)
    assert "aren't numbers" in loop.learn_until("can't roll back")
    assert not loop.learner.model.held_out.worse


def test_a_verdict_that_couldnt_be_obeyed_is_in_the_checkpoint(loop: Loop) -> None:
    """A process that was killed before it could roll back does so when it starts again."""
    loop.learner.model.held_out.worse = "so it is"
    loop.learner.maybe_checkpoint(now=True)
    loop.learner.offset += 1  # something new
    loop.learner.maybe_checkpoint(now=True)
    found = loop.files.newest()
    assert found is not None
    again = Learner(loop.log, restore(SPEC, found), found.meta.offset, loop.files, 0, found)
    assert again.model.held_out.worse == "so it is"
    again.obey_judgements()
    assert again.model.roll_backs == 1
    assert not again.model.held_out.worse
    again.checkpointer.abandon()


def test_after_a_roll_back_nobody_is_judged_by_the_worse_model_s_predictions(loop: Loop) -> None:
    """The gate's window of labels begins again."""
    judged = loop.publisher.gate.judge(deep=True)
    assert judged.numbers["window_examples"] > 0
    loop.publisher.renew_gate()
    assert loop.publisher.gate.judge(deep=True).numbers["window_examples"] == 0


def test_the_usual_rate_is_that_of_all_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever negatives are sampled: held-out pages have all of them."""
    judge_often(monkeypatch)
    rates = []
    for share in (1.0, 0.1):
        spec = holding_spec(0.2, **{"[label]": f"[label]\nsample_negatives = {share}"})
        rates.append(learned(spec, records(spec, 300)).held_out.judge.usual_rate)
    assert rates[1] == pytest.approx(rates[0], rel=0.3)
