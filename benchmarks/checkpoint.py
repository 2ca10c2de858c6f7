"""Checkpoints of a large learner while it learns: how long learning pauses, what it costs, how long a restore takes.

10 million wide keys with their last sightings, 10 million statistics, a million embedding rows of 32; it learns the
shop's pages of 10, 16 a record, encoded ahead, as fast as it can, so that as much changes meanwhile as ever can. The
learner is the service's own, without Kafka, publishing and warm starts.

    base         all that there is, beside learning; its pauses are those between two steps
    increment    what changed while 100,000 examples were learned, again beside learning
    at once      a copy of everything on the learner's thread: what a checkpoint paused for before it went run by run
    restore      from files that the system's cache doesn't have, verified, to a model that can learn: the newest
                 increment over its base
"""

import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
from rich.table import Table

from benchmarks.learn_world import labelled_pages, records_of, world_spec
from learner.checkpoints.checkpoint import restore, take
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.jit_warmup import compile_kernels
from learner.learner import Learner
from learner.training.model import Model
from learner.training.training_records import TrainingRecords
from stream.events.topics import EXAMPLES, EXAMPLES_DLQ
from stream.log.memory_log import MemoryLog
from stream.log.protocol import Record
from stream.spec.spec import Spec
from stream.tables.dtypes import U64

KEYS: Final = 10_000_000
ROWS: Final = 1_000_000
REPEATS: Final = 3
PLAIN_EXAMPLES: Final = 60_000
INCREMENT_EXAMPLES: Final = 100_000
PAGES: Final = 30_000
RECORDS: Final = 4  # that are learned between two looks at whether a checkpoint is written
NEVER_MS: Final = 10**12
MIB: Final = 1024 * 1024
GOALS = {"pause_ms": "<= 50", "restore_s": "<= 10"}


class Written(NamedTuple):
    """A checkpoint that was written beside learning."""

    pauses_ms: list[float]  # of the learner's thread, wall clock
    cpu_ms: list[float]  # the same in its CPU time: other processes don't count
    seconds: float  # from its beginning until its file was there
    size: int  # bytes
    examples_s: float  # learned meanwhile, per second


def large_spec() -> Spec:
    """The shop's, with a bound near enough that last sightings are recorded."""
    spec = world_spec("shop")
    return msgspec.structs.replace(spec, wide=msgspec.structs.replace(spec.wide, max_keys=16_000_000))


def large_model(spec: Spec, keys: int, rows: int) -> Model:
    """A model with so many keys, statistics and embedding rows of unknown origin."""
    random, model = np.random.default_rng(1), Model(spec)
    assert model.deep

    def some(count: int) -> U64:
        return random.integers(1, 2**63, count).astype(np.uint64)

    wide = np.column_stack([some(keys), np.zeros(keys, np.uint64)])
    wide[:, 0] = wide[:, 0] & ~np.uint64(255) | np.uint64(1)  # of a cross that there is
    wide.view(np.float32)[:, 2:] = random.random((keys, 2), np.float32)
    model.wide.table.put(wide)
    moved = np.column_stack([some(keys), np.ones((keys, 3)).view(np.uint64)])
    model.statistics.table.put(moved)
    of_ids = np.column_stack([some(rows), np.arange(1, rows + 1).astype(np.uint64), np.full((rows, 2), 9, np.uint64)])
    vocabulary = model.deep.vocabulary
    embeddings = random.random((rows, 2 * vocabulary.dim), np.float32)
    vocabulary.restore(of_ids, embeddings, vocabulary.embeddings[0].copy(), np.zeros(0, np.int64))
    return model


class Feed:
    """Records for a learner, encoded ahead, again and again, with new ids and offsets each time."""

    def __init__(self, learner: Learner, raw: list[bytes]) -> None:
        read = [Record(EXAMPLES.name, 0, 0, 1, b"0", one) for one in raw]
        self._learner, self._chunks = learner, list[TrainingRecords]()
        for first in range(0, len(read), RECORDS):
            self._chunks += learner.model.record_encoder.records(read[first : first + RECORDS])
        self._next = 0

    def _learn_some(self, after_step: Callable[[], None]) -> None:
        """Learn the next few records."""
        turn, chunk = divmod(self._next, len(self._chunks))
        records = self._chunks[chunk]
        records.examples.columns.ids ^= np.uint64(turn ^ (turn - 1) if turn else 0)
        first = self._learner.offset
        records.origins = [origin._replace(offset=first + n) for n, origin in enumerate(records.origins)]
        self._learner.learn([records], after_step)
        self._next += 1

    def learn(self, examples: int) -> float:
        """Learn so many, or more, without a checkpoint. Examples per second."""
        begun, before = time.perf_counter(), self._learner.model.examples
        while self._learner.model.examples < before + examples:
            self._learn_some(lambda: None)
        return (self._learner.model.examples - before) / (time.perf_counter() - begun)

    def checkpoint(self, files: CheckpointFiles) -> Written:
        """Learn while a checkpoint is written."""
        learner, pauses, cpu, before = self._learner, list[float](), list[float](), self._learner.model.examples
        begun = time.perf_counter()
        learner.checkpointer.begin()

        def go_on() -> None:
            times = time.perf_counter(), time.thread_time()
            learner.maybe_checkpoint()
            pauses.append(1_000 * (time.perf_counter() - times[0]))
            cpu.append(1_000 * (time.thread_time() - times[1]))

        while learner.checkpointer.is_sweeping or not learner.checkpointer.is_idle(wait=False):
            self._learn_some(go_on)
        seconds = time.perf_counter() - begun
        size = files.paths()[-1].stat().st_size
        return Written(pauses, cpu, seconds, size, (learner.model.examples - before) / seconds)


def restored(spec: Spec, files: CheckpointFiles, learned: Model) -> dict[str, float]:
    """Seconds to read and verify the newest checkpoint and to make a model of it."""
    for path in files.paths():
        file = os.open(path, os.O_RDONLY)
        if hasattr(os, "posix_fadvise"):  # else the system's cache has it
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
    begun, cpu = time.perf_counter(), time.process_time()
    found = files.newest()
    assert found is not None
    read = time.perf_counter()
    model = restore(spec, found)
    ended, cpu = time.perf_counter(), time.process_time() - cpu
    assert model.deep
    assert learned.deep
    for one, other in (
        (model.wide.table, learned.wide.table),
        (model.statistics.table, learned.statistics.table),
        (model.deep.vocabulary.table, learned.deep.vocabulary.table),
    ):
        assert len(one) == len(other)
    assert model.examples == learned.examples
    return {
        "restore_s": ended - begun,
        "restore_read_s": read - begun,
        "restore_build_s": ended - read,
        "restore_cpu_s": cpu,
    }


def measure(folder: Path, part: int) -> dict[str, list[float]]:
    """All figures, a repeat each; `part`: a fraction of the size."""
    spec, files = large_spec(), CheckpointFiles(folder)
    compile_kernels(spec)
    log = MemoryLog({EXAMPLES.name: 1, EXAMPLES_DLQ.name: 1}, lambda: 1)
    model = large_model(spec, KEYS // part, ROWS // part)
    learner = Learner(log, model, 0, files, NEVER_MS)
    feed = Feed(learner, records_of(list(labelled_pages(spec, PAGES // part, 10)), 16))
    feed.learn(PLAIN_EXAMPLES // part)  # everything is compiled, and memory was touched
    found: dict[str, list[float]] = {}

    def note(**figures: float) -> None:
        for name, value in figures.items():
            found.setdefault(name, []).append(value)

    for _ in range(REPEATS):
        plain = feed.learn(PLAIN_EXAMPLES // part)
        learner.checkpointer._covered.tables.clear()  # so that it's a base
        for name in ("base", "increment"):
            written = feed.checkpoint(files)
            ordered = sorted(written.pauses_ms)
            note(**{
                f"{name}_pause_ms": ordered[-1], f"{name}_pause_p99_ms": ordered[99 * len(ordered) // 100],
                f"{name}_pause_p50_ms": statistics.median(ordered), f"{name}_pause_cpu_ms": max(written.cpu_ms),
                f"{name}_s": written.seconds, f"{name}_bytes": written.size, f"{name}_steps": len(ordered),
                f"{name}_paused_s": sum(ordered) / 1_000, f"{name}_speed": written.examples_s / plain,
            })  # fmt: skip
            if name == "base":
                feed.learn(INCREMENT_EXAMPLES // part)
        begun = time.perf_counter()
        take(model, 0, 0, 0)
        note(at_once_ms=1_000 * (time.perf_counter() - begun), examples_s=plain)
        learner.maybe_checkpoint(now=True)
        note(**restored(spec, files, model))
    return found


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    with tempfile.TemporaryDirectory(prefix="thalweg-checkpoint-") as folder, redirect_stdout(io.StringIO()):
        found = measure(Path(folder), 10 if quick else 1)
    figures = {name: statistics.median(values) for name, values in found.items()}
    figures["pause_ms"] = max(figures["base_pause_ms"], figures["increment_pause_ms"])
    size = f"{KEYS // (10 if quick else 1):,}"
    table = Table(title=f"checkpoints beside learning: {size} wide keys, as many statistics, a tenth as many rows")
    for column in ("", "base", "increment", "goal"):
        table.add_column(column, justify="right" if column else "left")

    def row(label: str, name: str, form: str, scale: float = 1.0, goal: str = "") -> None:
        cells = [form.format(figures[f"{kind}_{name}"] / scale) for kind in ("base", "increment")]
        table.add_row(label, *cells, goal)

    row("longest pause, ms", "pause_ms", "{:.1f}", goal=GOALS["pause_ms"])
    row("… in CPU time, ms", "pause_cpu_ms", "{:.1f}")
    row("… 99 % of pauses, ms", "pause_p99_ms", "{:.1f}")
    row("… half of them, ms", "pause_p50_ms", "{:.1f}")
    row("steps meanwhile", "steps", "{:.0f}")
    row("all pauses, s", "paused_s", "{:.2f}")
    row("learning, of its speed without", "speed", "{:.0%}")
    row("from its beginning to its file, s", "s", "{:.1f}")
    row("bytes, MiB", "bytes", "{:.1f}", MIB)
    table.add_row("restore, s", "", f"{figures['restore_s']:.1f}", GOALS["restore_s"])
    table.caption = (
        f"at once: a pause of {figures['at_once_ms']:,.0f} ms; "
        f"restore: read and verified {figures['restore_read_s']:.1f} s, tables {figures['restore_build_s']:.1f} s, "
        f"CPU time {figures['restore_cpu_s']:.1f} s; "
        f"{figures['examples_s']:,.0f} examples/s without a checkpoint"
    )
    return table, figures
