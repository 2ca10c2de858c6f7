"""A learner and retrains share a folder: locks, results that are newer, a disk that is full."""

import errno
import threading
from pathlib import Path

import pytest
from msgspec import structs
from structlog.testing import capture_logs

from learner.checkpoints.checkpoint import take
from learner.checkpoints.writer import CheckpointWriter
from learner.promotion import Promotion
from learner.retraining.retrain_files import Outcome, RetrainFiles
from stream.runtime.errors import CheckpointError
from tests.support.learned_models import assert_same
from tests.support.retrain_house import CUT, SEEN, House, learn_to, promoted, saved


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A learner has learned 40 records of 80, and written a checkpoint."""
    return House.begun(tmp_path)


def test_one_retrain_at_a_time(house: House) -> None:
    """The second one says so; without a checkpoint there is nothing to begin with."""
    with house.retrain_files().lock(), pytest.raises(CheckpointError, match="another retrain of this model is running"):
        house.retrain()
    for path in house.files.paths():
        path.unlink()
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        house.retrain()


def test_nobody_deletes_what_a_running_retrain_writes(house: House) -> None:
    """A learner that looks for verdicts, and a second retrain, leave its drafts; those of a killed one are deleted."""
    files = house.retrain_files()
    with files.lock():
        drafts = [files.candidates.folder / "000000000001.checkpoint.7.part", files.folder / "verdict.json.7.part"]
        for draft in drafts:
            draft.touch()
        Promotion(house.learner(), house.settings).step()
        with pytest.raises(CheckpointError, match="another retrain"):
            house.retrain()
        assert all(draft.exists() for draft in drafts)
    with house.retrain_files().lock():
        assert not any(draft.exists() for draft in drafts)


def test_a_newer_result_takes_the_place_of_one_that_isnt_live_yet(house: House) -> None:
    """A retrain by hand ends while the learner still waits for the offset of the one before it."""
    taken = house.retrain()
    learner = house.learner()
    promotion = Promotion(learner, house.settings)
    promoted(promotion)
    house.grow(last=82)
    newer = house.retrain()
    learn_to(learner, taken.offset)
    assert not promotion.step()
    files = house.retrain_files()
    assert files.read() == newer != taken
    assert len(files.candidates.paths()) == 1
    learn_to(learner, newer.offset)
    promoted(promotion)
    assert learner.model.warm_starts == 1
    saved(learner, promotion)
    assert files.read() is None
    assert not files.candidates.paths()


def test_a_result_that_is_written_while_another_is_forgotten_stays(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retrain ends just after the learner looked whether the outcome that it drops is still the last one."""
    taken = house.retrain()
    newer = structs.replace(taken, why="evolve")
    candidate = take(house.learner().model, newer.offset, 0, 0)

    def write() -> None:
        files = house.retrain_files()
        with files.lock():
            files.write(newer, candidate)

    writer, read = threading.Thread(target=write), RetrainFiles.read

    def read_then_write(files: RetrainFiles) -> Outcome | None:
        found = read(files)
        writer.start()
        writer.join(0.5)  # it has written all, or waits
        return found

    with monkeypatch.context() as patched:
        patched.setattr(RetrainFiles, "read", read_then_write)
        house.retrain_files().forget(taken)
    writer.join()
    files = house.retrain_files()
    assert files.read() == newer
    assert len(files.candidates.paths()) == 1


def test_while_no_checkpoint_can_be_written_the_candidate_stays(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is live can be made from it: no retrain replaces it, and a restart goes on with it."""
    outcome = house.retrain()
    house.grow()
    learner = house.learner()
    learn_to(learner, 90)
    promotion, files = Promotion(learner, house.settings), house.retrain_files()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr(CheckpointWriter, "_write", full)
        promoted(promotion)
        learn_to(learner, 95)
        saved(learner, promotion)
    assert learner.model.warm_starts == 1
    assert (files.is_promoted, files.read(), len(files.candidates.paths())) == (True, outcome, 1)
    with pytest.raises(CheckpointError, match="another new model has taken over"):
        house.retrain()
    assert (files.read(), len(files.candidates.paths())) == (outcome, 1)
    other = house.copied("restart").learner()
    assert (other.model.warm_starts, other.offset) == (1, outcome.offset)
    learn_to(other, 100)
    learn_to(learner, 100)
    assert_same(other.model, learner.model)
    saved(learner, promotion)
    assert files.read() is None
    assert not files.candidates.paths()


def test_a_candidate_that_is_damaged_is_dropped(house: House) -> None:
    """Though it was live: the learner goes on with the model before."""
    house.retrain()
    learner = house.learner()
    learn_to(learner, SEEN)
    promoted(Promotion(learner, house.settings))
    files = house.retrain_files()
    files.candidates.paths()[0].write_bytes(b"damaged")
    again = house.learner()
    assert (again.model.warm_starts, again.offset) == (0, CUT)
    assert files.read() is None


def test_a_folder_that_cant_be_written_ends_no_learning(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that became read-only: what is dropped can't be removed, and isn't taken again; a newer one is."""
    house.retrain()
    learner = house.learner()
    learn_to(learner, SEEN)
    promotion = Promotion(learner, house.settings)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "read-only file system")

    with monkeypatch.context() as patched, capture_logs() as logged:
        for name in ("replace", "unlink"):
            patched.setattr(Path, name, read_only)
        for _ in range(3):
            promoted(promotion)
    assert [one["event"] for one in logged].count("a new model is dropped") == 1
    assert learner.model.warm_starts == 0
    house.grow(last=82)
    learn_to(learner, 82)
    house.retrain()
    promoted(promotion)
    assert learner.model.warm_starts == 1


def test_a_verdict_of_another_build_is_none(house: House) -> None:
    """Though its model was live: it keeps no retrain from ending."""
    house.retrain()
    learner = house.learner()
    learn_to(learner, SEEN)
    promoted(Promotion(learner, house.settings))
    files = house.retrain_files()
    (files.folder / "promoted.json").write_text('{"later": 1}')
    assert house.learner().model.warm_starts == 0
    newer = house.retrain()
    assert (files.read(), files.is_promoted) == (newer, False)
    promoted(Promotion(learner := house.learner(), house.settings))
    learn_to(learner, SEEN)
    promoted(Promotion(learner, house.settings))
    assert (files.is_promoted, learner.model.warm_starts) == (True, 1)
