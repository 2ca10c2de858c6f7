"""Down-sampling of negatives: time and quality by the share that is learned, in the store at 1 %.

The store's closed loop is played once (`popular` and `wide_deep` serve); the records of `examples` are then learned at
each share, one model after the other, with the spec's hidden layer and with larger ones. Seconds are of the process,
decoding included, the best of some runs. AUC is of the second half, each label predicted just before it is learned;
sampled negatives weigh what they stand for.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from learner.training.model import Model
from learner.training.progressive_validation import auc_of
from producers.store.parameters import preset
from producers.store.storefront import ShownPages
from producers.store.world import StoreWorld
from stream.events.codec import decode_training, encode_record
from stream.events.topics import EXAMPLES
from stream.log.protocol import Record
from stream.spec.spec import Spec
from stream.spec.spec_file import load_spec
from thalweg.experiment.assignment import Assignment
from thalweg.experiment.closed_loop import ClosedLoop

PAGES, QUICK_PAGES = 60_000, 6_000
SHARES: Final = (1.0, 0.3, 0.1)
TOWERS: Final[dict[str, list[int]]] = {"64": [64], "512-256": [512, 256]}
RUNS: Final = 3
PACKED: Final = 16  # of the loop's records into one, as a joiner under load makes them: about 200 examples
CHUNK: Final = 32  # records that are decoded at once
SEED: Final = 777


class Learned(NamedTuple):
    """What came of learning the records once."""

    seconds: float
    auc: float
    calibration: float


class RecordedLoop(ClosedLoop):
    """A closed loop that retains the records of `examples`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.examples = list[Record]()
        self._examples = self.log.reader(EXAMPLES.name, {0: 0})

    def _learn(self, shown: Sequence[ShownPages], *, publish: bool) -> None:
        while records := self._examples.poll(0.0, 10_000):
            self.examples.extend(records)
        super()._learn(shown, publish=publish)


def played(spec: Spec, pages: int, progress: Progress) -> list[Record]:
    """The records of `examples` of the store's closed loop."""
    arms, task = ("popular", "wide_deep"), progress.add_task("play the store", total=pages)
    assign = Assignment("sampling", dict.fromkeys(arms, 1.0)).arm_of
    loop = RecordedLoop(
        spec, StoreWorld(preset("usual"), SEED), arms, assign,
        on_progress=lambda done: progress.update(task, completed=done),
    )  # fmt: skip
    loop.run(pages)
    return [packed(loop.examples[i : i + PACKED]) for i in range(0, len(loop.examples), PACKED)]


def packed(records: list[Record]) -> Record:
    """These records as one."""
    events = [event for record in records for event in decode_training(record.value or b"")[0]]
    return records[0]._replace(value=encode_record(events))


def learn(spec: Spec, records: list[Record]) -> Learned:
    """Learn the records."""
    model, half = Model(spec), None
    state = model.progress.state
    begun = time.process_time()
    for i in range(0, len(records), CHUNK):
        if half is None and 2 * i >= len(records):
            half = state.bins[0].copy(), state.sums[0].copy()
        for batch in model.record_encoder.records(records[i : i + CHUNK]):
            for first, last in model.steps(batch):
                model.learn_records(batch, first, last)
    seconds = time.process_time() - begun
    assert half is not None
    sums = state.sums[0] - half[1]
    return Learned(seconds, auc_of(state.bins[0] - half[0]), float(sums[1] / sums[2]))


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    spec = load_spec(Path("specs/store.toml"))
    figures: dict[str, float] = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        records = played(spec, QUICK_PAGES if quick else PAGES, progress)
        learn(spec, records[: 2 * CHUNK])  # compiles
        repeats = 1 if quick else RUNS
        task = progress.add_task("learn", total=len(TOWERS) * len(SHARES) * repeats)
        table = Table(title=f"the store at 1 %, {len(records):,} records", caption="AUC: second half, as it arrives")
        for head in ("hidden units", "share of negatives", "seconds", "times as fast", "auc", "calibration"):
            table.add_column(head, justify="left" if head == "hidden units" else "right")
        for tower, units in TOWERS.items():
            whole: Learned | None = None
            for share in SHARES:
                one = msgspec.structs.replace(
                    spec,
                    label=msgspec.structs.replace(spec.label, sample_negatives=share),
                    deep=msgspec.structs.replace(spec.deep, hidden_units=units),
                )
                runs = []
                for _ in range(repeats):
                    runs.append(learn(one, records))
                    progress.advance(task)
                best = min(runs)
                whole = whole or best
                speed = whole.seconds / best.seconds
                table.add_row(tower, f"{share:g}", f"{best.seconds:.2f}", f"{speed:.2f}", f"{best.auc:.4f}",
                              f"{best.calibration:.3f}")  # fmt: skip
                name = f"{tower.replace('-', '_')}_{share * 100:.0f}"
                figures |= {f"sampling_speed_{name}": speed, f"sampling_auc_{name}": best.auc,
                            f"sampling_calibration_{name}": best.calibration}  # fmt: skip
    return table, figures
