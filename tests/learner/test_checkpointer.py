"""Checkpoints that are written while the model learns: each is the model at its cut, or none; damage is passed over."""

import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from structlog.testing import capture_logs

from learner import checkpointer
from learner.checkpoint import KEEP, Checkpoint, CheckpointFiles, restore, take
from learner.checkpoint_arrays import VALUES
from learner.checkpoint_file import MAGIC, TAIL, Chunk, FileWriter, Footer, read_footer
from learner.checkpointer import Checkpointer
from learner.training.model import Model
from stream.runtime.errors import CheckpointError
from stream.tables import hash_table
from tests.support.changing_world import IDS_MAX, changing_spec, examples_of, mixed_log
from tests.support.learned_models import assert_same, state_of

SPEC = changing_spec()
LOG = mixed_log(SPEC, 330)
EXAMPLES = examples_of(LOG)
SLICES = 6  # between two records


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep takes many slices of small tables, which grow slowly, and evict often."""
    monkeypatch.setattr(checkpointer, "SLICE", 16_384)
    monkeypatch.setattr(checkpointer, "CUT_RUNS", 500)
    monkeypatch.setattr(checkpointer, "REBASE_SHARE", 2.5)  # small models are mostly small arrays
    monkeypatch.setattr(hash_table, "STEP", 64)
    monkeypatch.setattr("learner.deep.vocabulary.EVICT_EXAMPLES", 32)


def new_model() -> Model:
    """A model of the whole spec whose memory of ids is short."""
    model = Model(SPEC)
    model.learned_ids.ids_max = IDS_MAX
    return model


def resumed(files: CheckpointFiles) -> tuple[Model, Checkpoint]:
    """The model of the newest checkpoint."""
    found = files.newest()
    assert found is not None
    model = restore(SPEC, found)
    model.learned_ids.ids_max = IDS_MAX
    return model, found


def learn(model: Model, offset: int) -> None:
    """The record at this offset, of one of two sources."""
    model.reread = lambda first: iter(EXAMPLES[first:])
    model.learn(LOG[offset], offset, offset % 2)


class Life:
    """A model that learns, and its checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.files = CheckpointFiles(folder)
        self.model = new_model()
        self.writer = Checkpointer(self.model, self.files, 0)
        self.offset = self.steps = 0

    def restart(self) -> None:
        """Go on from the newest checkpoint."""
        self.model, found = resumed(self.files)
        self.offset = found.meta.offset
        self.writer = Checkpointer(self.model, self.files, self.offset, found.origin)

    def learn_until(self, stop: int, *, sweeps: bool = True) -> None:
        """Learn up to this offset; slices, or a cut, are between any two records."""
        while self.offset < stop:
            learn(self.model, self.offset)
            self.offset += 1
            if sweeps:
                self.go_on()

    def go_on(self) -> bool:
        """Some slices, or a cut: then there is a checkpoint of now."""
        self.steps += 1
        if not self.writer.is_sweeping:
            self.writer.begin()
        for _ in range(SLICES):
            if self.writer.sweep(wait=False):
                self.writer.cut(self.offset, 3, 4)
                return self.writer.is_idle(wait=True)
        return False

    def finish(self) -> Path:
        """A whole checkpoint, now."""
        if not self.writer.is_sweeping:
            self.writer.begin()
        assert self.writer.sweep(wait=True)
        self.writer.cut(self.offset, 3, 4)
        self.writer.is_idle(wait=True)
        return self.files.paths()[-1]


@pytest.fixture
def life(tmp_path: Path) -> Life:
    """A model that has learned nothing."""
    return Life(tmp_path)


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
    assert life.model.warm_starts >= 8
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
    keys = np.random.default_rng(1).integers(1, 2**63, 200_000).astype(np.uint64)
    life.model.wide.table.put(np.column_stack([keys, np.zeros(len(keys), np.uint64)]))
    life.model.wide.evictor.keys_max = 1 << 30
    life.learn_until(10, sweeps=False)
    base = life.finish()
    life.learn_until(11, sweeps=False)
    increment = life.finish()
    small = sum(array.nbytes for array in take(life.model, 0, 0, 0).arrays.values()) - 16 * len(life.model.wide.table)
    assert increment.stat().st_size < small + 100_000 < base.stat().st_size / 2
    assert_same(resumed(life.files)[0], life.model)


def test_what_hasnt_changed_isnt_written_again(life: Life) -> None:
    """Two checkpoints of the same state: the second one names the first one's arrays, and has none of its own."""
    life.learn_until(20, sweeps=False)
    life.finish()
    footer, _ = read_footer(life.finish())
    assert {chunk.file for chunk in footer.chunks} == {life.files.paths()[0].name}
    assert_same(resumed(life.files)[0], life.model)


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


def raise_full(*_: object) -> None:
    """A full disk."""
    raise OSError(28, "No space left on device")


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
