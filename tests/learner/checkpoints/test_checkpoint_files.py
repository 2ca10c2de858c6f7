"""The folder of checkpoints: damage is passed over, chains and the pinned one are kept, earlier builds' are read."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from structlog.testing import capture_logs

from learner.checkpoints import checkpointer
from learner.checkpoints.checkpoint import restore, take
from learner.checkpoints.checkpoint_files import KEEP, CheckpointFiles
from learner.checkpoints.checkpointer import Checkpointer
from learner.checkpoints.file_format import HEAD, MAGIC, TAIL, Chunk, FileWriter, Footer, read_footer
from stream.runtime.errors import CheckpointError
from tests.support.checkpointed_life import SPEC, Life, new_model, resumed
from tests.support.learned_models import assert_same, state_of
from tests.support.written_checkpoints import write_now


def flip(path: Path, position: int) -> None:
    """Turn a bit over."""
    raw = bytearray(path.read_bytes())
    raw[position] ^= 4
    path.write_bytes(raw)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "its beginning": lambda path: flip(path, 0),
    "a chunk": lambda path: flip(path, HEAD + 5),
    "its footer": lambda path: flip(path, -TAIL.size - 50),
    "where its footer is": lambda path: flip(path, -TAIL.size),
    "its end": lambda path: flip(path, -1),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_is_passed_over(life: Life, damage: Callable[[Path], object]) -> None:
    """The log says which and why, the one before it is taken; the next one follows that, and the damaged one goes."""
    life.learn_until(10, sweeps=False)
    life.finish()
    life.learn_until(12, sweeps=False)
    before = life.finish()
    life.learn_until(14, sweeps=False)
    newest = life.finish()
    damage(newest)
    with capture_logs() as logs:
        life.restart()
    assert [(line["event"], line["path"]) for line in logs] == [
        ("a checkpoint is damaged; trying the one before", str(newest))
    ]
    assert logs[0]["reason"]
    assert life.offset == 12
    life.learn_until(16, sweeps=False)
    after = life.finish()
    assert not newest.exists()
    assert {*read_footer(after)[0].files} <= {path.name for path in life.files.paths()}
    assert before.name in read_footer(after)[0].files
    assert_same(resumed(life.files)[0], life.model)


def test_the_chain_before_is_there_should_a_base_be_damaged(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """KEEP chains are kept, each with all its files; older ones are deleted."""
    monkeypatch.setattr(checkpointer, "REBASE_SHARE", 100.0)
    monkeypatch.setattr(checkpointer, "FILES_MAX", 3)
    chains: list[list[Path]] = []
    for stop in range(10, 19):
        life.learn_until(stop, sweeps=False)
        path = life.finish()
        if not read_footer(path)[0].files:
            chains.append([])
        chains[-1].append(path)
    assert [len(chain) for chain in chains] == [3, 3, 3]
    assert KEEP == 2
    assert life.files.paths() == [*chains[1], *chains[2]]
    flip(chains[2][0], 1_000)
    with capture_logs() as logs:
        _, found = resumed(life.files)
    assert found.meta.offset == 15
    assert [line["path"] for line in logs] == [str(path) for path in reversed(chains[2])]
    assert all(chains[2][0].name in line["reason"] for line in logs)


def test_a_file_of_another_chain_is_no_substitute(life: Life) -> None:
    """A file that was replaced by another valid one under its name: the digest of its footer says so."""
    life.learn_until(10, sweeps=False)
    base = life.finish()
    life.learn_until(12, sweeps=False)
    life.finish()
    base.write_bytes(CheckpointFiles(life.files.folder / "other").write(take(new_model(), 0, 0, 0)).read_bytes())
    with capture_logs() as logs:
        _, found = resumed(life.files)
    assert found.meta.offset == 0
    assert "is another one" in logs[0]["reason"]


def test_a_pinned_checkpoint_outlives_newer_ones(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the files that it needs, and no others, until another one is pinned; after a restart, too."""
    monkeypatch.setattr(checkpointer, "REBASE_SHARE", 100.0)
    monkeypatch.setattr(checkpointer, "FILES_MAX", 3)
    written = dict[int, Path]()
    for stop in range(10, 22):
        life.learn_until(stop, sweeps=False)
        written[stop] = life.finish()
        if stop == 11:
            life.files.pin(written[11].name)
            good = state_of(life.model)
    newest = [written[stop] for stop in range(16, 22)]
    assert life.files.paths() == [written[10], written[11], *newest]
    again = CheckpointFiles(life.files.folder)
    assert again.pinned() == written[11].name
    found = again.named(written[11].name)
    assert found.meta.offset == 11
    assert state_of(restore(SPEC, found)) == good
    again.pin(written[20].name)
    again.drop_old()
    assert again.paths() == newest
    with pytest.raises(CheckpointError, match=r"has no checkpoint '000000000002.checkpoint'.*pin it earlier"):
        again.named(written[11].name)
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        again.pin(written[11].name)
    assert again.pinned() == written[20].name


def test_a_rollback_goes_on_behind_what_it_skips(life: Life) -> None:
    """A good checkpoint is restored; its state is written with the offset of now; what lies between goes."""
    life.learn_until(10, sweeps=False)
    good = life.finish()
    life.files.pin(good.name)
    before = state_of(life.model)
    for stop in (13, 16):
        life.learn_until(stop, sweeps=False)
        life.finish()
    life.writer.abandon()
    found = life.files.named(good.name)
    model = restore(SPEC, found)
    writer = Checkpointer(model, life.files, life.offset, found.origin)
    origin = write_now(writer, life.offset, 3, 5)
    assert writer.written is origin
    assert writer.offset == 16
    assert [path.name for path in life.files.paths()] == [good.name, origin.name]
    again, newest = resumed(life.files)
    assert (newest.meta.offset, newest.meta.version) == (16, 5)
    assert state_of(again) == before


def test_a_damaged_checkpoint_isnt_restored_by_its_name(life: Life) -> None:
    """It isn't replaced by another one: the error says which and why."""
    life.learn_until(10, sweeps=False)
    path = life.finish()
    flip(path, 1_000)
    with pytest.raises(CheckpointError, match=r"000000000001.checkpoint can't be read \(.*digest"):
        life.files.named(path.name)


def test_a_checkpoint_of_another_format_is_refused(life: Life) -> None:
    """It isn't passed over, since its build has learned more: the message says what to do."""
    life.learn_until(5, sweeps=False)
    life.finish()
    later = life.files.folder / "000000000002.checkpoint"
    later.write_bytes(MAGIC + b"\x07 what only a later build can read")
    with pytest.raises(CheckpointError, match=r"format 7 is newer than 2.*move the file away"):
        life.files.newest()
    later.unlink()
    assert resumed(life.files)[1].meta.offset == 5


def footer_of(**changes: object) -> Footer:
    """A footer of one chunk, with one field changed."""
    good = {"name": "x", "layer": 0, "file": "000000000001.checkpoint", "offset": 8, "dtype": "<u8", "shape": (2,)}
    chunk = msgspec.convert([*(good | changes).values(), "00"], Chunk)
    return Footer(msgspec.Raw(b"{}"), {}, [chunk], {})


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (1 << 60,)}, {"shape": (1 << 40, 1 << 40)}, {"shape": (-1, -2)}, {"offset": -8}, {"offset": 1 << 62},
        {"dtype": "|O"}, {"dtype": "object"}, {"dtype": "<U9"}, {"file": "../../etc/passwd"}, {"file": "other"},
    ],
    ids=str,
)  # fmt: skip
def test_sizes_are_checked_before_anything_is_decoded(tmp_path: Path, changes: dict[str, object]) -> None:
    """A footer that claims what its file doesn't have, other files, or Python objects: damaged, and nothing is read."""
    files = CheckpointFiles(tmp_path)
    with (tmp_path / "000000000001.checkpoint").open("wb") as file:
        writer = FileWriter(file, "000000000001.checkpoint")
        writer.add("x", 0, np.arange(2))
        writer.end(footer_of(**changes))
    with capture_logs() as logs, pytest.raises(CheckpointError, match="move them away"):
        files.newest()
    assert "x" in logs[0]["reason"]
