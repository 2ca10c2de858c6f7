"""Checkpoints of earlier builds, which were NumPy archives: `earlier_build.npz` is one that such a build wrote.

But for its zip's compression. Its spec is beside it.
"""

import math
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from learner.checkpoints.checkpoint import restore, take
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.checkpoints.checkpointer import Checkpointer
from learner.checkpoints.file_format import read_footer
from learner.checkpoints.model_arrays import parts_of
from learner.deep.vocabulary import FOREVER
from learner.training.model import Model
from stream.spec.spec_file import load_spec
from tests.support.changing_world import mixed_log
from tests.support.learned_models import state_of
from tests.support.written_checkpoints import write_now

ARCHIVE: Final = Path(__file__).with_name("earlier_build.npz")
SPEC: Final = load_spec(ARCHIVE.with_suffix(".toml"))
IN_OTHER_FORM: Final = {
    "embeddings",
    "vocabulary",
    "seen_ids",
    "seen_counts",
    "meta",
    "wide",
    "sums",
    "recent",
    "losses",
}
GONE: Final = {"recent_ids", "recent_wide", "records"}  # of warm starts inside the live model
Arrays = dict[str, "np.ndarray[Any, Any]"]


@pytest.fixture
def files(tmp_path: Path) -> CheckpointFiles:
    """A folder with the archive alone."""
    files = CheckpointFiles(tmp_path)
    shutil.copy(ARCHIVE, tmp_path / f"{80:015d}.npz")
    return files


def resumed(files: CheckpointFiles) -> Model:
    """The model of the newest checkpoint."""
    found = files.newest()
    assert found is not None
    return restore(SPEC, found)


def by_key(rows: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Rows in the order of their keys."""
    return rows[np.argsort(rows[:, 0])]


def weights_of(model: Model) -> dict[int, float]:
    """Weights of the wide part, by key."""
    rows = model.wide.table.rows()
    return dict(zip(rows[:, 0].tolist(), model.wide.weights(rows).tolist(), strict=True))


def weights_of_archive(rows: "np.ndarray[Any, Any]") -> dict[int, float]:
    """The same of rows of key, (z, n), last sighting: by Algorithm 1 of McMahan et al. 2013."""
    wide, weights = SPEC.wide, dict[int, float]()
    alphas = Model(SPEC).encoder.alphas
    for key, z, n in zip(rows[:, 0].tolist(), *rows.view(np.float32)[:, 2:4].T.tolist(), strict=True):
        if abs(z) <= wide.l1:
            weights[key] = 0.0
        else:
            pull = (wide.beta + math.sqrt(n)) / float(alphas[(key & 255) - 1]) + wide.l2
            weights[key] = -(z - math.copysign(wide.l1, z)) / pull
    assert len(weights) > 300
    assert sum(weight != 0 for weight in weights.values()) > 100
    return weights


def test_the_model_has_the_archives_arrays(files: CheckpointFiles) -> None:
    """To the bit, whatever form they have now."""
    with np.load(ARCHIVE) as archive:
        arrays: Arrays = {name: archive[name] for name in archive.files}
    model = resumed(files)
    assert model.deep
    now = take(model, 80, 3, 7).arrays
    same = arrays.keys() - IN_OTHER_FORM - GONE
    assert same <= now.keys()
    for name in same:
        pair = (arrays[name], now[name])
        one, other = map(by_key, pair) if name in parts_of(model) else pair
        assert one.tobytes() == other.tobytes(), name
    assert weights_of(model) == pytest.approx(weights_of_archive(arrays["wide"]), rel=1e-5)
    is_shared = now["vocabulary"][:, 3] == FOREVER  # rows for unseen ids by column, which start as one for all did
    shared = now["vocabulary"][is_shared, 1].astype(np.int64)
    assert len(shared) == len(model.encoder.deep_lists)
    assert (model.deep.vocabulary.embeddings[shared] == arrays["embeddings"][0]).all()
    rows = now["vocabulary"][~is_shared]
    assert by_key(rows).tobytes() == by_key(arrays["vocabulary"]).tobytes()
    indices = rows[rows[:, 1] != 0, 1].astype(np.int64)
    assert len(indices) > 10
    assert model.deep.vocabulary.embeddings[indices].tobytes() == arrays["embeddings"][indices].tobytes()
    assert now["unseen"].tobytes() == arrays["embeddings"][0].tobytes()
    np.testing.assert_array_equal(now["sums"][:, :3], arrays["sums"])
    np.testing.assert_array_equal(now["sums"][:, 3], arrays["counts"][:, 0])
    corrects = arrays["recent"][:, 1] > 1.5
    np.testing.assert_array_equal(now["recent"][:, 1], arrays["recent"][:, 1] - 2 * corrects)
    np.testing.assert_array_equal(now["recent"][:, 3], corrects)
    assert arrays["seen_counts"][:, 0].tolist() == [0, 1]
    parts = np.split(arrays["seen_ids"], np.cumsum(arrays["seen_counts"][:, 1:].ravel())[:-1])
    tables = [table for source in (0, 1) for table in model.learned_ids.generations[source]]
    assert [np.sort(table.rows()[:, 0]).tolist() for table in tables] == [np.sort(part).tolist() for part in parts]
    assert sum(map(len, parts)) > 100


def test_it_knows_its_offset_and_version(files: CheckpointFiles) -> None:
    """And how many examples it has learned."""
    found = files.newest()
    assert found is not None
    meta = found.meta
    assert (meta.offset, meta.token, meta.version, meta.examples, meta.warm_starts) == (80, 3, 7, 720, 6)
    assert found.origin is None


def test_a_base_of_this_build_follows(files: CheckpointFiles) -> None:
    """Both are kept: the archive is the chain before."""
    model = resumed(files)
    for offset, record in enumerate(mixed_log(SPEC, 249)[80:], 80):
        model.learn(record, offset)
    origin = write_now(Checkpointer(model, files, 80), 83, 3, 8)
    assert not read_footer(files.folder / origin.name)[0].files
    assert [path.suffix for path in files.paths()] == [".npz", ".checkpoint"]
    assert state_of(resumed(files)) == state_of(model)
