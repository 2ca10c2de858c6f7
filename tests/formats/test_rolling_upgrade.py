"""Old and new side by side: rooms of release 0.2 and of this build take over from each other, in any order.

The old ones run the code of the release's tag, in processes of their own; what passes between rooms are the same files
that they write in production. Kafka and Redis carry bytes, and are left out.
"""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE
from typing import Any

import msgspec
import pytest

from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.checkpoints.file_format import version_of
from stream.events.codec import encode_record
from stream.events.types import Erase, Tick
from stream.runtime.formats import CHECKPOINT, LEVEL
from tests.support.golden_files import GOLDEN, JOINED, SAVED, VERSION, write_learner, write_records
from tests.support.old_release import ROOT, old_release

HANDOVERS = (0, 20, 41, 60)  # offsets at which a room stops and another goes on; even ones have a saved join state
Step = Callable[[str, str, Path, int, int], Any]
pytestmark = pytest.mark.timeout(900)  # kernels that have changed since are compiled


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the release before."""
    folder = old_release(tmp_path_factory.mktemp("old"))
    shutil.copy(ROOT / "tests" / "support" / "rolling_steps.py", folder / "tests" / "support")
    return folder


@pytest.fixture(scope="module")
def step(old: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Step]:
    """Runs a step by the old or the new build; its result. Each build is one process: imports take seconds."""
    command = [sys.executable, "-m", "tests.support.rolling_steps"]
    logs = tmp_path_factory.mktemp("logs")
    with ExitStack() as stack:
        processes = {}
        for build, folder in {"old": old, "new": ROOT}.items():
            errors = stack.enter_context((logs / build).open("w"))
            environment = os.environ | {"PYTHONPATH": str(folder)}
            process = subprocess.Popen(
                command, cwd=folder, env=environment, text=True, stdin=PIPE, stdout=PIPE, stderr=errors
            )
            processes[build] = stack.enter_context(process)
            stack.callback(process.kill)  # nothing is left to do, and unloading torch takes seconds

        def run(build: str, room: str, folder: Path, first: int, last: int) -> Any:
            order, answers = processes[build].stdin, processes[build].stdout
            assert order is not None
            assert answers is not None
            print(msgspec.json.encode((room, str(folder), first, last)).decode(), file=order, flush=True)
            answer = answers.readline()
            assert answer, f"{build}: {(logs / build).read_text()}"
            return msgspec.json.decode(answer)

        yield run


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


def test_the_old_build_reads_records_of_the_new_one(step: Step, tmp_path: Path) -> None:
    """Of each type that it knows it finds what it has fields for; of an `Erase` it makes a dead letter, and reads on:
    therefore nobody writes one before finalizing.
    """
    write_records(tmp_path)
    (tmp_path / "events.msgpack").write_bytes(encode_record([Tick(1), Erase("u1", 2), Tick(3)]))
    written = msgspec.json.decode((tmp_path / "records.json").read_bytes())
    for build, unknown in (("old", {"Erase", "FeatureName"}), ("new", set())):
        found, (events, bad) = step(build, "records", tmp_path, 0, 0)
        assert written.keys() - found.keys() == unknown
        for name, fields in found.items():
            assert fields == {field: written[name]["fields"][field] for field in fields}, name
            assert len(fields) > 0
        assert (events, bad) == ((2, 1) if unknown else (3, 0))


def test_the_old_ranker_refuses_a_spec_of_the_new_build(step: Step, tmp_path: Path) -> None:
    """A version whose model is retrieved from and explored, which 0.2 can't do: it goes on serving what it has."""
    write_learner(tmp_path, LEVEL)
    assert step("new", "refused_version", tmp_path, 0, VERSION) == ""
    assert "spec can't be read: Object contains unknown" in step("old", "refused_version", tmp_path, 0, VERSION)


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
