"""What an example costs a learner by the spec: CPU time of the thread that learns, fitted over specs of many shapes.

Least squares without negative terms; every example is new, records have 16 pages of ten, a label in a hundred positive.
"""

import time
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from msgspec.structs import replace
from scipy.optimize import nnls

from benchmarks.learn_world import HISTORY, ITEMS, USERS, labelled_pages, records_of, world_spec
from learner.jit_warmup import compile_kernels
from learner.training.model import Model
from stream.events.topics import EXAMPLES
from stream.log.protocol import Record
from stream.spec.spec import Spec
from thalweg.sizing.load import Load
from thalweg.sizing.work import Work, work_of

PAGES: Final = 20_000
WARM: Final = 0.3  # of the records are learned before the clock starts
LOAD: Final = Load(1, USERS, ITEMS, lengths={"user.history": HISTORY, "item.genres": 2.5})  # `labelled_pages`
CHUNK: Final = 32  # records that are encoded at once


class Case(NamedTuple):
    """A spec's work for an example, and what it took: µs to learn, and to decode and encode."""

    name: str
    work: Work
    learned_us: float
    encoded_us: float


def specs() -> Iterator[tuple[str, Spec]]:
    """Two specs in many shapes."""
    for name in ("shop", "movielens"):
        spec = world_spec(name)
        deep = spec.deep
        yield name, spec
        yield f"{name}, wide only", replace(spec, parts=["wide"])
        yield f"{name}, deep only", replace(spec, parts=["deep"])
        yield f"{name}, dim 8", replace(spec, deep=replace(deep, embedding_dim=8))
        yield f"{name}, 512-256", replace(spec, deep=replace(deep, hidden_units=[512, 256]))
        yield (
            f"{name}, no statistics",
            replace(
                spec, statistics={}, deep=replace(deep, features=[f for f in deep.features if "statistics" not in f])
            ),
        )


def measured(pages: int) -> list[Case]:
    """Each spec on new pages."""
    return [_case(name, spec, pages) for name, spec in specs()]


def _case(name: str, spec: Spec, pages: int) -> Case:
    compile_kernels(spec)
    model, raw = Model(spec), records_of(list(labelled_pages(spec, pages, 10)), 16)
    records = [Record(EXAMPLES.name, 0, n, 0, b"0", value) for n, value in enumerate(raw)]
    spent, examples, begin = [0.0, 0.0], 0, int(WARM * len(records))
    for first in range(0, len(records), CHUNK):
        begun = time.thread_time()
        encoded = list(model.record_encoder.records(records[first : first + CHUNK]))
        between = time.thread_time()
        new = sum(model.learn_records(chunk, a, b) for chunk in encoded for a, b in model.steps(chunk))
        if first >= begin:
            spent[0] += time.thread_time() - between
            spent[1] += between - begun
            examples += new
    return Case(name, work_of(spec, LOAD), 1e6 * spent[0] / examples, 1e6 * spent[1] / examples)


def fitted(cases: list[Case], taken: list[float]) -> dict[str, float]:
    """µs for one of each term."""
    matrix = np.array([case.work for case in cases], np.float64)
    weights = 1 / np.array(taken)  # errors count in proportion
    return dict(zip(Work._fields, nnls(matrix * weights[:, None], np.ones(len(cases)))[0].tolist(), strict=True))
