"""Old and new side by side: rooms of release 0.2 and of this build take over from each other, in any order.

The old ones run the code of the release's tag, in processes of their own; what passes between rooms are the same files
that they write in production. Kafka and Redis carry bytes, and are left out.
"""

import filecmp
import io
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.checkpoints.file_format import version_of
from stream.runtime.formats import CHECKPOINT
from tests.support.golden_files import GOLDEN, JOINED, SAVED

ROOT = Path(__file__).parents[2]
TAG = os.environ.get("OLD_RELEASE", "v0.2.0")
HANDOVERS = (0, 20, 41, 60)  # offsets at which a room stops and another goes on; even ones have a saved join state
Step = Callable[[str, str, Path, int, int], Any]
pytestmark = pytest.mark.timeout(900)  # kernels that have changed since are compiled


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the release before."""
    git = shutil.which("git")
    archive = git and subprocess.run([git, "archive", TAG], cwd=ROOT, capture_output=True, check=False)
    if not archive or archive.returncode:
        pytest.skip(f"needs git and the tag {TAG}: in a clone, `git fetch --tags`")
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    _take_kernels(folder)
    shutil.copy(ROOT / "tests" / "support" / "rolling_steps.py", folder / "tests" / "support")
    return folder


def _take_kernels(folder: Path) -> None:
    """Compiled kernels of files that haven't changed are as good there: numba goes by a file's time and size."""
    for path in folder.rglob("*.py"):
        here = ROOT / path.relative_to(folder)
        if here.exists() and filecmp.cmp(path, here, shallow=False):
            shutil.copystat(here, path)
            for kernel in here.parent.glob(f"__pycache__/{here.stem}.*.nb[ic]"):
                (path.parent / "__pycache__").mkdir(exist_ok=True)
                shutil.copy(kernel, path.parent / "__pycache__")


@pytest.fixture
def step(old: Path) -> Step:
    """Runs a step by the old or the new build; what it prints."""
    folders = {"old": old, "new": ROOT}

    def run(build: str, room: str, folder: Path, first: int, last: int) -> Any:
        command = [sys.executable, "-m", "tests.support.rolling_steps", room, str(folder), str(first), str(last)]
        environment = os.environ | {"PYTHONPATH": str(folders[build])}
        ran = subprocess.run(command, cwd=folders[build], env=environment, capture_output=True, check=False, text=True)
        assert ran.returncode == 0, f"{build}: {ran.stderr}"
        return msgspec.json.decode(ran.stdout)

    return run


def test_learners_and_rankers_in_any_order(step: Step, tmp_path: Path) -> None:
    """A learner goes on where one of the other build stopped, and ends in the bits of one that was never replaced;
    rankers of both builds serve each version alike.
    """
    alone = step("old", "learner", tmp_path / "alone", 0, HANDOVERS[-1])
    for first in ("old", "new"):
        folder = tmp_path / first
        builds = itertools.cycle((first, "new" if first == "old" else "old"))
        for begin, end in itertools.pairwise(HANDOVERS):
            state = step(next(builds), "learner", folder, begin, end)
            assert step("old", "ranker", folder, begin, end) == step("new", "ranker", folder, begin, end)
        common = alone.keys() & state.keys()
        assert {name: state[name] for name in common} == {name: alone[name] for name in common}
        assert len(common) > 30


def test_joiners_in_any_order(step: Step, tmp_path: Path) -> None:
    """From a commit, and from a saved state where there is one: what is emitted is what release 0.2 emits alone."""
    wanted = msgspec.msgpack.decode((GOLDEN / "0.2" / "labels.msgpack").read_bytes())
    for first in ("old", "new"):
        builds = itertools.cycle((first, "new" if first == "old" else "old"))
        labels: list[object] = []
        for begin, end in itertools.pairwise((*HANDOVERS, JOINED)):
            labels += step(next(builds), "joiner", tmp_path / first, begin, end)
        assert labels[SAVED:] == msgspec.json.decode(msgspec.json.encode(wanted))


def test_after_finalizing_the_old_build_refuses(step: Step, tmp_path: Path) -> None:
    """A checkpoint of the new format: the old learner says why, and doesn't go on from an older one."""
    step("old", "learner", tmp_path, 0, HANDOVERS[1])
    files = CheckpointFiles(tmp_path / "checkpoints")
    found = files.newest()
    assert found is not None
    assert files.version == CHECKPOINT.version
    assert version_of(files.write(found)) == CHECKPOINT.version
    assert step("new", "refused", tmp_path, 0, 0) == ""
    assert f"format {CHECKPOINT.version} is newer than" in step("old", "refused", tmp_path, 0, 0)
