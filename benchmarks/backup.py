"""Backups of a large learner beside learning: seconds, bytes of the next one, what learning notices, a restore.

5 million wide keys, as many statistics, a tenth as many embedding rows; the learner of the checkpoints' benchmark, and
a target on the same disk. Backups are written by a thread as the learner's own, of low priority, while the learner's
thread learns.

    first        of a base: everything is new
    next         100,000 examples later, of an increment, median of five; and of a new base
    step         the longest of the learner's steps, with a backup beside it and without
    restore      to an empty folder: fetched, every digest checked, written, read as the learner does
"""

import io
import shutil
import statistics
import tempfile
import threading
import time
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from rich.table import Table

from benchmarks.checkpoint import NEVER_MS, PAGES, Feed, large_model, large_spec
from benchmarks.learn_world import labelled_pages, records_of
from learner.backup.backup import Written, back_up
from learner.backup.backups import Backups
from learner.backup.continuous import ContinuousBackup
from learner.backup.local_state import Folders
from learner.backup.restore import restore_files
from learner.backup.target import open_target
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.jit_warmup import compile_kernels
from learner.learner import Learner
from stream.events.topics import EXAMPLES, EXAMPLES_DLQ
from stream.log.memory_log import MemoryLog
from stream.runtime.clock import now_ms
from stream.runtime.settings import Settings

KEYS: Final = 5_000_000
QUICK_KEYS: Final = 200_000
NEXT_EXAMPLES: Final = 100_000
NEXTS: Final = 5  # while the held-out judge's copy of the model is being made, and after
STEPS: Final = 400  # that are timed without a backup
NAME: Final = "shop"
GOALS = {"backup_s": "<= 20", "backup_pause_ms": "0", "next_bytes_share": "<= .1"}


class Beside(NamedTuple):
    """A backup that was written beside learning. `steps_ms`: of the learner's thread meanwhile."""

    written: Written
    seconds: float
    steps_ms: list[float]
    examples_s: float


class Bench:
    """A learner that learns as fast as it can, and its backups."""

    def __init__(self, root: Path, keys: int) -> None:
        self.spec, self.folders = large_spec(), Folders.of(Settings(local=root / "local"), NAME)
        compile_kernels(self.spec)
        self.files = CheckpointFiles(self.folders.checkpoints)
        log = MemoryLog({EXAMPLES.name: 1, EXAMPLES_DLQ.name: 1}, lambda: 1)
        self.learner = Learner(log, large_model(self.spec, keys, keys // 10), 0, self.files, NEVER_MS)
        pages = max(PAGES * keys // (2 * KEYS), 1_000)
        self.feed = Feed(self.learner, records_of(list(labelled_pages(self.spec, pages, 10)), 16))
        self.backups = Backups(open_target(str(root / "target"), NAME, root / "local"), now_ms)

    def steps(self, stop: threading.Event | None) -> tuple[list[float], float]:
        """Milliseconds of steps of the learner's thread, until `stop`, or STEPS; and examples a second."""
        times, before, begun = list[float](), self.learner.model.examples, time.perf_counter()
        while not (stop.is_set() if stop else len(times) >= STEPS):
            step = time.perf_counter()
            self.feed.learn(1)
            times.append(1_000 * (time.perf_counter() - step))
        return times, (self.learner.model.examples - before) / (time.perf_counter() - begun)

    def now(self) -> Written:
        """One backup, while nothing is learned."""
        return back_up(self.backups, self.folders, NAME, None, list, now_ms)

    def back_up(self) -> Beside:
        """One backup beside learning, by the learner's thread of backups."""
        done, stop, begun = list[Written](), threading.Event(), list[float]()

        def write() -> Written:
            begun.append(time.perf_counter())
            written = self.now()
            begun.append(time.perf_counter())
            done.append(written)
            stop.set()
            return written

        thread = ContinuousBackup(lambda: "newest", write, 1e9, stop)
        thread.start()
        steps, examples_s = self.steps(stop)
        thread.join()
        return Beside(done[0], begun[1] - begun[0], steps, examples_s)


def measure(root: Path, keys: int) -> dict[str, float]:
    """All figures."""
    bench = Bench(root, keys)
    bench.steps(None)  # everything is compiled, and memory was touched
    plain, plain_s = bench.steps(None)
    bench.feed.checkpoint(bench.files)
    first = bench.back_up()
    bench.learner.maybe_checkpoint(now=True)  # what was learned beside the first
    increments, learned = [bench.now()], list[int]()
    for _ in range(NEXTS):
        bench.feed.learn(NEXT_EXAMPLES * keys // KEYS)
        bench.learner.maybe_checkpoint(now=True)
        increments.append(bench.now())
        learned.append(increments[-1].manifest.examples - increments[-2].manifest.examples)
    shares = [one.bytes / first.written.bytes for one in increments[1:]]
    bench.learner.checkpointer._covered.tables.clear()  # so that it's a base
    bench.feed.checkpoint(bench.files)
    base = bench.back_up()
    begun = time.perf_counter()
    to = Folders.of(Settings(local=root / "new"), NAME)
    kept = base.written.manifest
    restored = restore_files(bench.backups, kept, to, now_ms)
    restore_s = time.perf_counter() - begun
    assert restored.examples == kept.examples
    shutil.rmtree(root / "new")
    pruned = bench.backups.prune(1)
    steps = [*first.steps_ms, *base.steps_ms]
    return {
        "keys": keys,
        "backup_s": first.seconds,
        "backup_bytes": first.written.bytes,
        "backup_blobs": first.written.blobs,
        "backup_pause_ms": 0.0,  # nothing of it runs in the learner's thread
        "step_max_ms": max(steps),
        "step_p50_ms": statistics.median(steps),
        "step_plain_max_ms": max(plain),
        "step_plain_p50_ms": statistics.median(plain),
        "speed": first.examples_s / plain_s,
        "next_examples": statistics.median(learned),
        "next_bytes_share": statistics.median(shares),
        "next_bytes_share_min": min(shares),
        "next_bytes_share_max": max(shares),
        "next_base_bytes_share": base.written.bytes / first.written.bytes,
        "pruned_bytes": pruned.bytes,
        "restore_s": restore_s,
    }


def run(*, quick: bool, keys: int = 0) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    keys = keys or (QUICK_KEYS if quick else KEYS)
    with tempfile.TemporaryDirectory(prefix="thalweg-backup-") as folder, redirect_stdout(io.StringIO()):
        figures = measure(Path(folder), keys)
    table = Table(title=f"backups beside learning: {keys:,} wide keys, as many statistics, a tenth as many rows")
    for column in ("", "measured", "goal"):
        table.add_column(column, justify="left" if not column else "right")
    row = partial(table.add_row)
    row("a backup, s", f"{figures['backup_s']:.1f}", GOALS["backup_s"])
    row("its bytes, MB, and blobs", f"{figures['backup_bytes'] / 1e6:,.0f}, {figures['backup_blobs']:.0f}", "")
    row("of which in the learner's thread, ms", f"{figures['backup_pause_ms']:.0f}", GOALS["backup_pause_ms"])
    row("longest step, ms; without", f"{figures['step_max_ms']:.1f}; {figures['step_plain_max_ms']:.1f}", "")
    row("half of the steps, ms; without", f"{figures['step_p50_ms']:.2f}; {figures['step_plain_p50_ms']:.2f}", "")
    row("learning, of its speed without", f"{figures['speed']:.0%}", "")
    row(
        f"the next, {figures['next_examples']:,.0f} examples later: bytes, of the first's",
        f"{figures['next_bytes_share']:.1%}",
        GOALS["next_bytes_share"],
    )
    row("… least, most", f"{figures['next_bytes_share_min']:.1%}, {figures['next_bytes_share_max']:.1%}", "")
    row("… of a new base: bytes", f"{figures['next_base_bytes_share']:.1%}", "")
    row("restore, s", f"{figures['restore_s']:.1f}", "")
    return table, figures
