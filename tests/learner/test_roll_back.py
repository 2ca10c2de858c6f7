"""Rolling back: learning returns to the last checkpoint that was proven good. A crash is before or after."""

import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from learner.checkpoints.checkpoint import Checkpoint, restore
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.checkpoints.checkpointer import Checkpointer
from learner.checkpoints.writer import CheckpointWriter
from learner.learner import Learner
from learner.publishing.publisher import Publisher
from learner.publishing.uploader import PublishConfig
from learner.publishing.version_allocator import HighWater
from learner.training.model import Model
from stream.events.codec import encode_record
from stream.events.topics import EXAMPLES, EXAMPLES_DLQ
from stream.log.memory_log import MemoryLog
from stream.runtime.errors import LogUnavailable
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.verdict import NOT_FINITE, PACKING, Verdict
from tests.support.assembled_versions import assembled, learned_state
from tests.support.learned_models import assert_same, state_of
from tests.support.learner_world import records, small_spec
from tests.support.planted_faults import invert, make_nan
from tests.support.waiting import wait_until
from tests.support.written_checkpoints import write_now

SPEC = small_spec(**{"holdout = 0.0": "holdout = 0.0, refusals_max = 5"})
LOG = records(SPEC, 900)
OF_MODEL = (
    "wide_rows",
    "statistics",
    "likenesses",
    "vocabulary",
    "vocabulary.values",
    "dense",
    "dense_squares",
    "boundaries",
)
OF_LOG = ("id_sources", "sums", "recent", "counts", "bins", "pages", "shown_young_names")


class Loop:
    """A learner with its publisher, as the service runs them, a record at a time and with a clock in hand."""

    def __init__(self, folder: Path, log: MemoryLog | None = None, store: MemoryStore | None = None) -> None:
        self.folder, self.store = folder, store or MemoryStore("small")
        self.log = log or MemoryLog({EXAMPLES.name: 1, EXAMPLES_DLQ.name: 1}, lambda: 1_000)
        if log is None:
            for record in LOG:
                self.log.send(EXAMPLES.name, 0, encode_record(record), b"0")
        self.files = CheckpointFiles(folder / "checkpoints")
        found = self.files.newest()
        model, offset = (restore(SPEC, found), found.meta.offset) if found else (Model(SPEC), 0)
        self.learner = Learner(self.log, model, offset, self.files, 0, found)
        self.ms = 1_000
        cadence = PublishConfig(100, 300, 50, folder / "quarantine", folder / "pins", folder / "numbers")
        self.publisher = Publisher(model, self.store, cadence, lambda: self.ms, HighWater())
        self.learner.publisher = self.publisher
        self.learner.refusals = found.meta.refusals if found else None
        self.learner.resume_gate()
        self.publisher.maybe_publish(offset)
        wait_until(lambda: self.publisher.uploader.owns_model and not self.publisher.uploader.busy)

    @property
    def model(self) -> Model:
        """What learns."""
        return self.learner.model

    def learn(self, count: int = 1, *, checkpoints: bool = True) -> None:
        """Some records; after each one a version, a roll back if it's due, a checkpoint."""
        for _ in range(count):
            reader = self.log.reader(EXAMPLES.name, {0: self.learner.offset})
            chunks = self.model.record_encoder.records(reader.poll(0, 1))
            reader.close()
            self.learner.learn(chunks, lambda: None)
            self.ms += 100
            self.publisher.maybe_publish(self.learner.offset)
            wait_until(lambda: not self.publisher.uploader.busy)
            if reason := self.publisher.roll_back_reason:
                self.learner.roll_back(reason)
            if checkpoints:
                self.learner.maybe_checkpoint(now=True)

    def pinned(self) -> Checkpoint:
        """The checkpoint to roll back to."""
        name = self.files.pinned()
        assert name is not None
        return self.files.named(name)

    def stop(self) -> None:
        """End its threads."""
        self.learner.checkpointer.abandon()
        self.publisher.uploader.stop()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    """A learner whose versions pass, with checkpoints that are proven."""
    loop = Loop(tmp_path)
    loop.learn(60, checkpoints=False)
    loop.learn(6)
    assert loop.publisher.gate.verdict.passed
    yield loop
    loop.stop()


def parts(state: dict[str, bytes], names: tuple[str, ...]) -> dict[str, bytes]:
    """Some of a model's state."""
    return {name: raw for name, raw in state.items() if name in names}


def test_after_some_refusals_learning_returns_to_what_passed(loop: Loop) -> None:
    """Weights, embeddings and statistics are of then; offset, ids and figures are of now; versions go out again."""
    good = parts(state_of(restore(SPEC, loop.pinned())), OF_MODEL)
    make_nan(loop.model)
    with capture_logs() as logged:
        loop.learn(4)
        assert loop.publisher.rejected == 4
        before, offset, examples = state_of(loop.model), loop.learner.offset, loop.model.examples
        loop.learner.roll_back("because")
    after = state_of(loop.model)
    assert parts(after, OF_MODEL) == good
    assert parts(after, OF_LOG) == parts(before, OF_LOG)
    assert (loop.learner.offset, loop.model.examples) == (offset, examples)
    assert [one["event"] for one in logged].count("learning is rolled back") == 1
    loop.learn(3)
    assert loop.publisher.gate.verdict.passed
    head = loop.store.head()
    assert head is not None
    manifest = loop.store.manifest(head.version)
    wide, statistics, _, _ = assembled(loop.store, manifest)
    assert (wide, statistics) == learned_state(loop.model)[:2]


def test_the_row_of_refusals_ends_it(loop: Loop) -> None:
    """After `refusals_max`, not before, and once; what was learned meanwhile isn't learned again."""
    make_nan(loop.model)
    loop.learn(4)
    assert loop.publisher.roll_backs == 0
    loop.learn(1)
    assert loop.publisher.roll_backs == 1
    loop.learn(20)
    assert loop.publisher.gate.verdict.passed
    assert (loop.publisher.roll_backs, loop.publisher.rejected) == (1, 5)
    assert loop.model.duplicates == 0
    assert loop.model.deep is not None
    assert loop.model.finite()


def test_what_cant_be_packed_counts_as_refused(loop: Loop) -> None:
    """A weight that no page of the gate reads: packing finds it each time, and the row isn't broken by the gate."""
    key = 1 << 20 | 1
    loop.model.wide.table.put(np.array([[key, np.array([np.inf, 1], np.float32).view(np.uint64)[0]]], np.uint64))
    loop.publisher.uploader.needs_base = True  # the key isn't marked as changed: only a base has it
    loop.learn(7)
    assert loop.publisher.rejected_by_cause == {PACKING: 5}
    assert loop.publisher.roll_backs == 1
    loop.learn(2)
    head = loop.store.head()
    assert head is not None
    assert head.version == loop.publisher.version


def test_causes_that_alternate_are_logged_once_each(loop: Loop) -> None:
    """Until a version passes; then what is refused is logged again."""
    causes = [PACKING, NOT_FINITE, PACKING, NOT_FINITE, PACKING]
    with capture_logs() as logged:
        for cause in causes:
            loop.publisher._reject(Verdict(cause, "because"), 1, by="test")
        loop.publisher._unproven = loop.model.learned
        loop.publisher._passed()
        loop.publisher._reject(Verdict(PACKING, "because"), 1, by="test")
    assert [one["cause"] for one in logged if "rejected" in one["event"]] == [PACKING, NOT_FINITE, PACKING]
    assert [one["after"] for one in logged if "again" in one["event"]] == [f"{NOT_FINITE}, {PACKING}"]


def test_without_a_checkpoint_that_passed_learning_goes_on(tmp_path: Path) -> None:
    """Nothing changes but the log and the quarantine, once."""
    loop = Loop(tmp_path)
    loop.learn(100, checkpoints=False)
    make_nan(loop.model)
    with capture_logs() as logged:
        loop.learn(12, checkpoints=False)
    loop.stop()
    assert [one["event"] for one in logged if "roll back" in one["event"]] == [
        "can't roll back: no checkpoint was proven; learning goes on"
    ]
    assert loop.publisher.roll_backs == 0
    assert not loop.model.finite()
    assert any("not_rolled_back" in path.name for path in (tmp_path / "quarantine").iterdir())


def test_it_rolls_back_once_until_a_version_passes(loop: Loop) -> None:
    """A model that is refused right after, too, isn't sent back again and again: it would learn nothing any more."""
    make_nan(loop.model)
    loop.learn(5)
    assert loop.publisher.roll_backs == 1
    make_nan(loop.model)
    loop.learn(12)
    assert loop.publisher.roll_backs == 1
    assert loop.publisher.gate.refusals == 12


def test_the_last_good_checkpoint_is_kept(loop: Loop) -> None:
    """However many checkpoints of refused states follow; they are written, since replaying them takes time."""
    good = loop.pinned().meta
    invert(loop.model)
    loop.learn(4)
    assert loop.pinned().meta == good
    newest = loop.files.newest()
    assert newest is not None
    assert (newest.meta.refusals, newest.meta.offset) == (4, loop.learner.offset)


def test_a_checkpoint_is_good_when_a_later_version_passed(loop: Loop) -> None:
    """What broke just before it, and wasn't judged yet, isn't rolled back to."""
    good = loop.pinned().meta.offset
    loop.learn(1)
    assert loop.pinned().meta.offset >= good
    good = loop.pinned().meta.offset
    make_nan(loop.model)
    write_now(loop.learner.checkpointer, loop.learner.offset, 1, 1)
    loop.learner._unproven = loop.learner.offset, loop.model.learned + 1
    loop.learn(2)
    assert loop.pinned().meta.offset == good


@pytest.mark.parametrize("moment", ["before the write", "while writing", "after"])
def test_a_learner_killed_while_it_rolls_back_is_before_or_after(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Whoever starts again has the state of before, or that of after, to the bit; and what follows is the same."""
    make_nan(loop.model)
    loop.learn(4)
    files = loop.files
    before = files.newest()
    assert before is not None

    class Killed(BaseException):
        """As by kill -9."""

    def killed(*_: object) -> None:
        if moment == "while writing":
            (files.folder / "000000000999.checkpoint.1.part").write_bytes(b"half a checkpoint")
        raise Killed

    loop.learner.roll_back("because")
    assert not loop.learner.may_publish
    if moment == "after":
        loop.learner.maybe_checkpoint(now=True)
        assert loop.learner.may_publish
    else:
        with monkeypatch.context() as patch:
            patch.setattr(Checkpointer, "begin" if moment == "before the write" else "cut", killed)
            with pytest.raises(Killed):
                loop.learner.maybe_checkpoint(now=True)
    loop.stop()
    again = Loop(tmp_path, loop.log)
    if moment == "after":
        assert_same(again.model, loop.model)
        assert again.publisher.gate._live is not None
    else:
        assert_same(again.model, restore(SPEC, before))
    assert again.learner.offset == loop.learner.offset
    if moment == "after":
        for learner in (loop.learner, again.learner):
            reader = loop.log.reader(EXAMPLES.name, {0: learner.offset})
            learner.learn(learner.model.record_encoder.records(reader.poll(0, 30)), lambda: None)
        assert_same(again.model, loop.model)
    again.stop()


def test_while_the_state_after_it_cant_be_saved_versions_go_out(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full is in the log; rankers needn't wait for it."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    good = loop.files.pinned()
    make_nan(loop.model)
    loop.learn(4)
    with monkeypatch.context() as patched:
        patched.setattr(CheckpointWriter, "_write", full)
        loop.learner.roll_back("because")
        assert not loop.learner.may_publish
        loop.learner.maybe_checkpoint(now=True)
        assert loop.learner.may_publish
        assert loop.files.pinned() == good
    loop.learner.maybe_checkpoint(now=True)
    newest = loop.files.newest()
    assert newest is not None
    assert newest.meta.roll_backs == 1, "saved once there is space, though no record came"


def test_dead_letters_come_first(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """While they can't be confirmed nothing changes: the checkpoint would lie behind them."""

    def unavailable() -> None:
        raise LogUnavailable("no broker")

    monkeypatch.setattr(loop.learner.dead_letters, "confirm", unavailable)
    before = state_of(loop.model)
    with pytest.raises(LogUnavailable):
        loop.learner.roll_back("because")
    assert state_of(loop.model) == before
    assert loop.publisher.roll_backs == 0


def test_a_restarted_learner_knows_what_passed(loop: Loop, tmp_path: Path) -> None:
    """Its first version is compared, too: what broke between is refused."""
    loop.stop()
    again = Loop(tmp_path, loop.log)
    invert(again.model)
    again.learn(1)
    assert not again.publisher.gate.verdict.passed
    again.stop()


def test_a_restart_between_refusals_trusts_what_passed_before_them(loop: Loop, tmp_path: Path) -> None:
    """Not the model as it is: its row of refusals goes on, until learning is rolled back."""
    good = loop.files.pinned()
    live = loop.store.head()
    invert(loop.model)
    loop.learn(3)
    assert loop.publisher.gate.refusals == 3
    loop.stop()
    again = Loop(tmp_path, loop.log, loop.store)
    assert again.learner.refusals == 3
    again.learn(1)
    assert again.publisher.gate.refusals == 4
    assert again.store.head() == live
    assert again.files.pinned() == good
    again.learn(1)
    assert again.publisher.roll_backs == 1
    again.learn(3)
    assert again.publisher.gate.verdict.passed
    again.stop()
