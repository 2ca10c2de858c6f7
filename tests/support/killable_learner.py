"""A learner that kills itself with SIGKILL inside a phase of its life: the service's own loop over a log in memory.
So does a retrain, the work of its process over the same log.

It is forked from a process that has imported everything, loaded the kernels and made the log, so a life takes a
fraction of a second. A *phase* is a call of a function; the kill comes at a line of Python within it, whichever
function that line is of. Marks in a shared file prove where it came: the phase was entered once more than it was left.
"""

import dataclasses
import json
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, Final, NamedTuple

import numpy as np

from learner import service
from learner.checkpoints.checkpoint import restore
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.checkpoints.checkpointer import Checkpointer
from learner.learner import Learner
from learner.promotion import Promotion
from learner.publishing.delta_chain import DeltaChain
from learner.publishing.publisher import publish_config
from learner.publishing.uploader import PublishConfig
from learner.publishing.version_allocator import HighWater
from learner.publishing.version_builder import VersionBuilder
from learner.retraining.retrain_files import RetrainFiles, checkpoints_of
from learner.retraining.retrain_process import run_retrain
from learner.training.model import Model
from stream.events.codec import encode_record
from stream.events.topics import EXAMPLES, EXAMPLES_DLQ
from stream.log.memory_log import MemoryLog
from stream.log.protocol import START, Record
from stream.runtime.settings import Settings
from stream.snapshots.memory_store import MemoryStore
from tests.support.changing_world import IDS_MAX, changing_spec, mixed_log
from tests.support.forked_services import clean_environment
from tests.support.kill_phases import EVERY, Phase

SPEC: Final = changing_spec(holdout=0.2, refusals_max=1_000_000)  # how often versions are refused depends on the clock
PAGES: Final = 600  # of the log
WARM_UP: Final = 12  # records
BOUNDS: Final = {
    "learner.checkpoints.checkpointer.SLICE": 32_768,
    "learner.checkpoints.checkpointer.CUT_RUNS": 500,
    "learner.checkpoints.checkpointer.REBASE_SHARE": 2.5,
    "stream.tables.hash_table.STEP": 64,
    "learner.deep.vocabulary.EVICT_EXAMPLES": 32,
    "learner.training.held_out.EVERY": 64,
    "learner.training.held_out.FIRST_POSITIVES": 50,
    "learner.training.frozen_model.RUN_KEYS": 200,
    "learner.training.frozen_model.RUN_FLOATS": 40,
    "learner.retraining.retrain_process.BATCH": 50,
}
COLUMNS: Final = 3  # of the marks: entered, left, line of the kill


def checkpoints_in(folder: Path) -> CheckpointFiles:
    """Those of the learner that lives in this folder."""
    return CheckpointFiles(checkpoints_of(Settings(local=folder), SPEC.name))


class Death(NamedTuple):
    """How a life ended. `signal`: 0, when a learner learned the whole log, or a retrain wrote its outcome."""

    signal: int
    entered: int
    left: int
    line: int  # of the phase, at which it was killed; 0: none


class KillableLearner:
    """Lives of a learner and of its retrains, one after the other."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def live(self, folder: Path, phase: str, entry: int, line: int) -> Death:
        """From the newest checkpoint in this folder to the log's end, or the kill in the entry-th call of a phase."""
        return self._live("learner", folder, phase, entry, line)

    def retrain(self, folder: Path, phase: str = "", line: int = 0) -> Death:
        """From the newest checkpoint in this folder to the outcome, or the kill in a phase."""
        return self._live("retrain", folder, phase, 1, line)

    def _live(self, life: str, folder: Path, phase: str, entry: int, line: int) -> Death:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        marks = folder / "marks"
        marks.write_bytes(bytes(8 * COLUMNS))
        print(json.dumps([life, str(folder), phase, entry, line]), file=self._process.stdin, flush=True)
        status = int(self._process.stdout.readline())
        assert os.WIFSIGNALED(status) or not os.WEXITSTATUS(status), (folder / "learner.log").read_text()[-3_000:]
        entered, left, at = np.fromfile(marks, np.int64).tolist()
        return Death(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, entered, left, at)


@contextmanager
def killable_learner() -> Iterator[KillableLearner]:
    """Where lives come from."""
    process = subprocess.Popen(
        [sys.executable, __file__], env=clean_environment(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield KillableLearner(process)
    finally:
        process.stdin.close()
        process.wait(60)


class _Killer:
    """Wraps a phase's function."""

    def __init__(self, phase: Phase, entry: int, line: int, marks: Any) -> None:
        self._entry, self._lines, self._marks = entry, line, marks
        self._seen = 0
        owner, _, name = phase.function.rpartition(".")
        module: Any = import_module(phase.module)
        of: Any = getattr(module, owner) if owner else module
        setattr(of, name, self._wrapped(getattr(of, name)))

    def _wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def phase(*arguments: Any, **named: Any) -> Any:
            self._marks[0] += 1
            if self._marks[0] >= self._entry:
                self._seen = 0
                sys.settrace(self._trace)
            try:
                return function(*arguments, **named)
            finally:
                sys.settrace(None)
                self._marks[1] += 1
                self._lines = max(1, min(self._lines, self._seen) // 2) if self._seen else self._lines

        return phase

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            self._seen += 1
            if self._seen >= self._lines:
                self._marks[2] = self._seen
                os.kill(os.getpid(), signal.SIGKILL)
        return self._trace


def _replace(name: str, value: object) -> None:
    """Give an attribute of a module another value."""
    module, _, attribute = name.rpartition(".")
    assert hasattr(import_module(module), attribute), name
    setattr(import_module(module), attribute, value)


def _bounded() -> None:
    """Small models whose checkpoints take many slices, whose tables grow slowly, and whose deltas fold often."""
    for name, value in BOUNDS.items():
        _replace(name, value)
    chain = partial(DeltaChain, deltas_max=6, deltas_retained=2, rebase_share=9.0)
    _replace("learner.publishing.version_builder.DeltaChain", chain)
    _replace("learner.service.publish_config", _publishes_often)
    for module in ("promotion", "retraining.resumption", "retraining.retrain_process", "service"):
        _replace(f"learner.{module}.spec_of", lambda _: SPEC)  # its bounds are below those of a file
    Promotion._start_process = lambda _: None  # type: ignore[assignment, method-assign]  # there's no Kafka that it could read


def _publishes_often(model: Model, settings: Settings) -> PublishConfig:
    return dataclasses.replace(publish_config(model, settings), every_ms=1, deep_every_ms=3)


def _live(log: list[bytes], life: str, folder: Path, phase: str, entry: int, line: int) -> None:
    """Be a learner until the log's end, or a retrain until its outcome."""
    examples = MemoryLog({EXAMPLES.name: 1, EXAMPLES_DLQ.name: 1}, lambda: 1)
    for offset, raw in enumerate(log):
        examples.send(EXAMPLES.name, 0, raw, str(offset % 2).encode())
    with (folder / "marks").open("r+b") as file:
        marks = np.frombuffer(mmap.mmap(file.fileno(), 0), np.int64)
    if phase:
        _Killer(EVERY[phase], entry, line, marks)
    if life == "retrain":
        run_retrain(Settings(local=folder), examples, SPEC.name, "by hand", print)
    else:
        _learn(examples, folder, len(log))


def _learn(examples: MemoryLog, folder: Path, end: int) -> None:
    files = checkpoints_in(folder)
    settings = Settings(local=folder)
    found = service._newest(settings, SPEC, files, lambda: examples)
    model = restore(SPEC, found) if found else Model(SPEC)
    model.learned_ids.ids_max = IDS_MAX
    learner = Learner(examples, model, found.meta.offset if found else START, files, 0, found)
    if found:
        learner.used = HighWater(found.meta.version, found.meta.token)
    retrains = RetrainFiles(settings, SPEC.name)

    def stop_at_the_end() -> None:
        while learner.offset < end or retrains.read():
            time.sleep(0.002)
        learner.stopping.set()

    threading.Thread(target=stop_at_the_end, daemon=True).start()
    service._loop(learner, MemoryStore(SPEC.name), settings, service._Status(learner.stopping), False)


def _warm_up(log: list[bytes]) -> None:
    """Load the kernels: nothing of torch may run before a fork."""
    model = Model(SPEC)
    builder = VersionBuilder(model)
    with TemporaryDirectory() as folder:
        files = CheckpointFiles(Path(folder))
        checkpointer = Checkpointer(model, files, 0)
        for offset, raw in enumerate(log[:WARM_UP]):
            for records in model.record_encoder.records([Record("", 0, offset, 1, b"0", raw)]):
                model.learn_records(records, 0, 1)
            builder.build(offset + 1, offset, 1, offset + 1, 0, {}, deep=True)
            checkpointer.begin()
            assert checkpointer.sweep(wait=True)
            checkpointer.cut(offset + 1, 0, 0)
            assert checkpointer.is_idle(wait=True)
            found = files.newest()
            assert found is not None
            restore(SPEC, found)


def _serve() -> None:
    """Fork a life for each order on stdin, a line of JSON; say on stdout how it ended."""
    _bounded()
    log = [encode_record(record) for record in mixed_log(SPEC, PAGES)]
    _warm_up(log)
    print("ready", flush=True)
    for order in sys.stdin:
        life, folder, phase, entry, line = json.loads(order)
        pid = os.fork()
        if not pid:
            out = os.open(Path(folder) / "learner.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1), os.dup2(out, 2)
            status = 1
            try:
                _live(log, life, Path(folder), phase, entry, line)
                status = 0
            finally:  # a fork never returns to this loop
                if status:
                    traceback.print_exc()
                os._exit(status)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    _serve()
