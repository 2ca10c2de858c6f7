"""The folder of checkpoints: damage is passed over, chains and the pinned one are kept, earlier builds' are read."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from structlog.testing import capture_logs

from learner.checkpoints import checkpointer
from learner.checkpoints.checkpoint import take
from learner.checkpoints.checkpoint_files import KEEP, CheckpointFiles
from learner.checkpoints.file_format import MAGIC, TAIL, Chunk, FileWriter, Footer, read_footer
from learner.checkpoints.model_arrays import VALUES
from learner.training.model import Model
from stream.runtime.errors import CheckpointError
from tests.support.checkpointed_life import Life, new_model, resumed
from tests.support.learned_models import assert_same, state_of


def flip(path: Path, position: int) -> None:
    """Turn a bit over."""
    raw = bytearray(path.read_bytes())
    raw[position] ^= 4
    path.write_bytes(raw)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "its beginning": lambda path: flip(path, 0),
    "a chunk": lambda path: flip(path, len(MAGIC) + 5),
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


def earlier_build(model: Model, path: Path) -> None:
    """A checkpoint as builds before runs wrote it: an archive of arrays."""
    taken = take(model, 7, 1, 2)
    arrays = {name: array for name, array in taken.arrays.items() if not name.startswith("ids.")}
    rows, values, unseen = arrays["vocabulary"], arrays.pop("vocabulary" + VALUES), arrays.pop("unseen")
    embeddings = np.zeros((1 + len(values) + len(arrays["free"]), values.shape[1]), np.float32)
    embeddings[0], embeddings[rows[rows[:, 1] != 0, 1].astype(np.int64)] = unseen, values
    del arrays["id_sources"]
    sources = sorted(model.learned_ids.generations.items())
    ids = [table.rows()[:, 0] for _, tables in sources for table in tables]
    counts = [(source, len(young), len(old)) for source, (young, old) in sources]
    meta = np.frombuffer(msgspec.json.encode(taken.meta), np.uint8)
    np.savez(path, meta=meta, embeddings=embeddings, seen_ids=np.concatenate(ids), seen_counts=counts, **arrays)


def test_a_checkpoint_of_an_earlier_build_is_read(life: Life) -> None:
    """It is the same state; then a base of this build follows, and both are kept."""
    life.learn_until(7, sweeps=False)
    earlier_build(life.model, life.files.folder / f"{7:015d}.npz")
    again, found = resumed(life.files)
    first, second = state_of(again), state_of(life.model)
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} == {"id_sources"}, "it had no order"
    assert found.meta.offset == 7
    life.restart()
    life.learn_until(9, sweeps=False)
    path = life.finish()
    assert not read_footer(path)[0].files
    assert life.files.paths() == [life.files.folder / f"{7:015d}.npz", path]
    assert resumed(life.files)[1].meta.offset == 9


def test_a_checkpoint_of_another_format_is_refused(life: Life) -> None:
    """It isn't passed over, since its build has learned more: the message says what to do."""
    life.learn_until(5, sweeps=False)
    life.finish()
    later = life.files.folder / "000000000002.checkpoint"
    later.write_bytes(MAGIC[:-1] + b"\x07 what only a later build can read")
    with pytest.raises(CheckpointError, match=r"format 7, and this build reads format 1.*move the file away"):
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
