"""A learner and retrains share a folder: locks, results that are newer, a disk that is full."""

import threading
from pathlib import Path

import pytest
from msgspec import structs

from learner.checkpoints.checkpoint import take
from learner.promotion import RETRY_S, Promotion
from learner.retraining.retrain_files import Outcome, RetrainFiles
from learner.training.model import Model
from stream.runtime.errors import CheckpointError
from tests.support.retrain_house import House, learn_to, promoted


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


def test_a_newer_result_outlives_the_one_that_was_taken(house: House) -> None:
    """A retrain by hand ends while the learner still waits for the offset of the one before it."""
    taken = house.retrain()
    learner = house.learner()
    promotion = Promotion(learner, house.settings)
    promoted(promotion)
    house.grow(last=82)
    newer = house.retrain()
    learn_to(learner, taken.offset)
    assert promotion.step()
    files = house.retrain_files()
    assert files.read() == newer != taken
    assert len(files.candidates.paths()) == 1
    files.forget(newer)
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


def test_a_full_disk_is_tried_again_after_a_while(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at each turn of the learner, which goes on learning; then the model is promoted after all."""
    house.retrain()
    house.grow()
    learner = house.learner()
    learn_to(learner, 90)
    clock, tries, replace_model = [1_000.0], list[int](), learner.replace_model

    def full(_: Model) -> None:
        tries.append(learner.offset)
        raise CheckpointError("no space left")

    monkeypatch.setattr("learner.promotion.monotonic_s", lambda: clock[0])
    monkeypatch.setattr(learner, "replace_model", full)
    promotion = Promotion(learner, house.settings)
    promoted(promotion)
    for offset in range(91, 95):
        learn_to(learner, offset)
        assert not promotion.step()
    assert tries == [90]
    clock[0] += RETRY_S
    assert not promotion.step()
    assert not promotion.step()
    assert tries == [90, 94]
    monkeypatch.setattr(learner, "replace_model", replace_model)
    clock[0] += RETRY_S
    assert promotion.step()
    assert (learner.model.warm_starts, learner.model.examples) == (1, 9 * 94)
