"""Checkpoints that are written while the model learns: each is the model at its cut, or none."""

import dataclasses
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from structlog.testing import capture_logs

from learner.checkpoints import checkpointer
from learner.checkpoints.checkpoint import restore, take
from learner.checkpoints.checkpointer import Checkpointer
from learner.checkpoints.file_format import Chunk, FileWriter, read_footer
from learner.wide.forgetting import NEWEST_MS, RESCALE
from tests.support.changing_world import START_MS
from tests.support.checkpointed_life import LOG, SPEC, Life, learn, new_model, raise_full, resumed
from tests.support.learned_models import assert_same
from tests.support.written_checkpoints import write_now


def test_every_checkpoint_is_the_model_at_its_cut(life: Life) -> None:
    """Bases and increments of a model whose tables grow, are moved by warm starts, and evict, over its whole life."""
    cuts = []
    while life.offset < len(LOG):
        learn(life.model, life.offset)
        life.offset += 1
        if life.go_on():
            again, found = resumed(life.files)
            assert found.meta.offset == life.offset
            assert_same(again, life.model)
            assert found.origin
            cuts.append((life.steps, bool(found.origin.footer.files)))
            life.steps = 0
    assert len(cuts) > 8
    assert max(steps for steps, _ in cuts) > 3, "learning went on between slices"
    assert {True, False} == {increment for _, increment in cuts}
    evictors = life.model.wide.evictor, life.model.statistics.evictor, life.model.statistics.likeness_evictor
    assert all(evictor.tally.sum() > 0 for evictor in evictors)
    assert life.model.deep
    assert life.model.deep.vocabulary.evicted > 0
    assert life.model.warm_start_at > 0
    for forgetting in (life.model.wide.forgetting, life.model.deep.forgetting):
        assert forgetting.clock[NEWEST_MS] - START_MS > 2 * RESCALE * forgetting.half_life_ms, (
            "all sums were scaled twice"
        )
    assert "ids.0.9" in life.model.learned_ids.tables(), "generations of ids came and went"


@pytest.mark.parametrize("kills", [(30, 61, 90), (5, 6, 7, 8, 9), (44, 109)])
def test_a_life_with_restarts_is_one_without(life: Life, kills: tuple[int, ...]) -> None:
    """Killed in mid-sweep or after a cut, it goes on from the newest checkpoint, bit by bit."""
    for kill in kills:
        life.learn_until(kill)
        life.writer.abandon()
        if life.files.newest():
            life.restart()
        else:
            life = Life(life.files.folder)
    life.learn_until(len(LOG))
    whole = new_model()
    for offset in range(len(LOG)):
        learn(whole, offset)
    assert_same(life.model, whole)


def test_an_increment_has_what_changed(tmp_path: Path) -> None:
    """Of a large model it is small, and takes nothing from what it lies over."""
    life = Life(tmp_path)
    keys = np.random.default_rng(1).integers(1, 2**63, 300_000).astype(np.uint64)
    life.model.wide.table.put(np.column_stack([keys, np.zeros(len(keys), np.uint64)]))
    life.model.wide.evictor.keys_max = 1 << 30
    life.learn_until(10, sweeps=False)
    base = life.finish()
    life.learn_until(11, sweeps=False)
    increment = life.finish()
    small = sum(array.nbytes for array in take(life.model, 0, 0, 0).arrays.values()) - 16 * len(life.model.wide.table)
    assert increment.stat().st_size < small + 100_000 < base.stat().st_size / 2
    assert_same(resumed(life.files)[0], life.model)


def test_an_increment_after_a_change_of_the_half_life_has_all_sums(life: Life) -> None:
    """They are scaled while the model is restored, before any change is noted."""
    life.learn_until(20, sweeps=False)
    life.finish()
    wide = msgspec.structs.replace(SPEC.wide, half_life="40s")
    assert SPEC.deep
    spec = msgspec.structs.replace(SPEC, wide=wide, deep=msgspec.structs.replace(SPEC.deep, half_life="40s"))
    found = life.files.newest()
    assert found is not None
    meta = msgspec.structs.replace(found.meta, fingerprint=spec.fingerprint())
    model = restore(spec, dataclasses.replace(found, meta=meta))
    assert model.wide.forgetting.inflation() == 1
    origin = write_now(Checkpointer(model, life.files, 20, found.origin), 20, 3, 4)
    assert origin.footer.files, "an increment"
    again = life.files.newest()
    assert again is not None
    assert_same(restore(spec, again), model)


def test_what_hasnt_changed_isnt_written_again(life: Life) -> None:
    """Two checkpoints of the same state: the second one names the first one's arrays, and has none of its own."""
    life.learn_until(20, sweeps=False)
    life.finish()
    footer, _ = read_footer(life.finish())
    assert {chunk.file for chunk in footer.chunks} == {life.files.paths()[0].name}
    assert_same(resumed(life.files)[0], life.model)


def test_a_write_that_fails_loses_no_change(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had copied counts as changed still: the next increment has it."""
    life.learn_until(20, sweeps=False)
    life.finish()
    life.learn_until(24, sweeps=False)
    with monkeypatch.context() as patch:
        patch.setattr(FileWriter, "end", raise_full)
        with capture_logs() as logs:
            life.finish()
    assert "free space" in logs[0]["reason"]
    assert len(life.files.paths()) == 1
    life.learn_until(25, sweeps=False)
    assert read_footer(life.finish())[0].files
    assert_same(resumed(life.files)[0], life.model)


def test_learning_doesnt_wait_for_the_disk(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """While slices wait to be written no more are copied; when the disk fails, the sweep ends."""
    gate, add = threading.Event(), FileWriter.add

    def slow(*arguments: object) -> Chunk:
        gate.wait()
        return add(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(FileWriter, "add", slow)
    monkeypatch.setattr(checkpointer, "SLICE", 512)
    life.learn_until(30, sweeps=False)
    life.writer.begin()
    slices: list[int] = []
    copied = life.writer._next_slice

    def counted() -> object:
        slices.append(1)
        return copied()

    monkeypatch.setattr(life.writer, "_next_slice", counted)
    for _ in range(100):
        assert not life.writer.sweep(wait=False)
    assert 0 < len(slices) < 20
    monkeypatch.setattr(FileWriter, "add", raise_full)
    gate.set()
    with capture_logs() as logs:
        while life.writer.is_sweeping:
            assert not life.writer.sweep(wait=True)
    assert "free space" in logs[0]["reason"]
    assert life.files.paths() == []


def test_an_abandoned_checkpoint_leaves_nothing(life: Life) -> None:
    """Neither a file nor a draft."""
    life.learn_until(20, sweeps=False)
    life.writer.begin()
    assert not life.writer.sweep(wait=False)
    assert life.writer.is_sweeping
    life.writer.abandon()
    assert list(life.files.folder.iterdir()) == []
    assert not life.writer.is_sweeping
