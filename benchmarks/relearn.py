"""Relearning from exported files, examples per second, against the learner from Kafka with the same records.

Records of `learn`'s worlds are written to Kafka and exported. Then, in turn: the service's own learner learns them from
Kafka; a new model learns them from the files, as `thalweg retrain --from` does. The first fifth isn't timed. Medians.
CPU time is that of all threads of this process, over all examples: on a busy machine it is what can be compared.
An export's own pace, from Kafka to synced files, and their size beside the log's records are of the same run.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from benchmarks.joiner_world import cores, kafka
from benchmarks.learn import World
from benchmarks.learn_kafka import WARM, filled, learn_from_kafka
from benchmarks.learn_world import labelled_pages, world_spec
from learner.jit_warmup import compile_kernels
from learner.retraining.relearning import relearn
from learner.training.model import Model
from stream.events.topics import EXAMPLES
from stream.log.kafka_log import KafkaLog
from stream.log.log_scan import read_range
from stream.log.protocol import Record
from thalweg.exports.export_examples import export_examples
from thalweg.exports.export_files import ExportFiles
from thalweg.exports.past import past_of

REPEATS = 3
PAGES = {"shop": (10, 30_000), "movielens": (1, 60_000)}  # items of a page, pages
PACK = 16  # pages a record


class Export(NamedTuple):
    """What was exported of a world, and how."""

    folder: Path
    examples_a_second: float
    bytes_share: float  # of the files, over those of the log's records


def exported(world: World, folder: Path, examples: int) -> Export:
    """Export the world's log."""
    with closing(KafkaLog(world.settings)) as log:
        begun = time.perf_counter()
        done = export_examples(log, folder, None, None)
        seconds = time.perf_counter() - begun
        raw = sum(len(r.value or b"") for r in read_range(log, EXAMPLES.name, {0: 0}, {0: done.end}))
    size = sum(file.path.stat().st_size for file in ExportFiles(folder).all())
    return Export(folder, examples / seconds, size / raw)


def learn_from_files(world: World, folder: Path) -> float:
    """Examples per second over all records of the files but the first fifth."""
    model, begun, examples = Model(world.spec), 0.0, 0

    def timed(records: Iterator[Sequence[Record]], first: int) -> Iterator[Sequence[Record]]:
        nonlocal begun, examples
        for some in records:
            if not begun and some and some[0].offset >= first:
                begun, examples = time.perf_counter(), model.examples
            yield some

    with closing(KafkaLog(world.settings)) as log:
        end = log.ends(EXAMPLES.name)[0]
        relearn(model, timed(past_of(folder, log)(end), int(end * WARM)), lambda line: None)
    seconds = time.perf_counter() - begun
    assert not model.duplicates, "an example came twice"
    return (model.examples - examples) / seconds


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    part, repeats = (10, 1) if quick else (1, REPEATS)
    figures: dict[str, float] = {}
    table = Table(
        title="relearning from exported files, and the learner from Kafka: examples/s, medians; goal: ratio about 1"
    )
    for column in ("", "Kafka", "files", "ratio", "min to max", "CPU µs", "files", "export", "bytes"):
        table.add_column(column, justify="right" if column else "left")
    with kafka() as house, tempfile.TemporaryDirectory() as folder:
        os.sched_setaffinity(0, cores()[0] | cores()[1])
        for name, (items, count) in PAGES.items():
            spec = world_spec(name)
            world = World(name, filled(house, list(labelled_pages(spec, count // part, items)), PACK), spec)
            compile_kernels(spec)
            export = exported(world, Path(folder) / name, items * (count // part))
            logs, files, cpu = list[float](), list[float](), list[tuple[float, float]]()
            for _ in range(repeats):
                begun = time.process_time()
                logs.append(learn_from_kafka(world.settings, spec))
                between = time.process_time()
                files.append(learn_from_files(world, export.folder))
                cpu.append((between - begun, time.process_time() - between))
            of_log, of_files = (
                1e6 * statistics.median(one) / (items * (count // part)) for one in zip(*cpu, strict=True)
            )
            ratios = [ours / theirs for ours, theirs in zip(files, logs, strict=True)]
            found = {
                "examples_per_second_log": statistics.median(logs),
                "examples_per_second_files": statistics.median(files),
                "ratio": statistics.median(ratios),
                "cpu_us_log": of_log,
                "cpu_us_files": of_files,
                "examples_per_second_export": export.examples_a_second,
                "bytes_share": export.bytes_share,
            }
            prefix = "" if name == "shop" else f"{name}_"
            figures |= {f"{prefix}{key}": value for key, value in found.items()}
            table.add_row(
                f"{name}, pages of {items}", f"{found['examples_per_second_log']:,.0f}",
                f"{found['examples_per_second_files']:,.0f}", f"{found['ratio']:.2f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}", f"{of_log:.1f}", f"{of_files:.1f}",
                f"{found['examples_per_second_export']:,.0f}", f"{found['bytes_share']:.2f}",
            )  # fmt: skip
    return table, figures
