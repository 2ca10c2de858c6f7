"""JIT warm-up: kernels are compiled, or read from numba's cache, before a learner reports that it is learning."""

import msgspec
import numpy as np

from learner.publishing.gate import PublishGate
from learner.publishing.version_builder import VersionBuilder
from learner.training.model import Model
from stream.events.codec import encode_record
from stream.events.types import INSTALLED, WINDOW_CLOSED, Examples, Impression, Organic
from stream.features.page_features import Catalogue, Layout, build_page
from stream.features.statistics import WIDTH, Statistics, StatisticsProgram
from stream.log.protocol import Record
from stream.spec.spec import Spec
from stream.tables.eviction import Evictor
from stream.tables.hash_table import HashTable


def compile_kernels(spec: Spec) -> None:
    """Learn a made-up record with a model of its own, and build a base and a delta of it."""
    layout = Layout(spec)
    catalogue = Catalogue(layout)
    words = build_page(layout, layout.user("u", {}, ["a"], {}), catalogue, catalogue.rows(["a", "b"]), 1)
    Statistics(StatisticsProgram(spec, layout)).fill(words, 1)
    page = Impression("r", 1, "u", ["a", "b"], features=words.tobytes())
    model = Model(spec)
    builder, gate = VersionBuilder(model), PublishGate(model)
    for n in range(2):
        examples = Examples(
            page, [2 * n + 1, 2 * n + 2], [0, 1], [1, 0], [1.0, 1.0], [INSTALLED, WINDOW_CLOSED], [1, 1]
        )
        model.learn([examples, Organic("u", "a", 1, str(n))], 2 * n)
        again = encode_record([msgspec.structs.replace(examples, ids=[2 * n + 11, 2 * n + 12])])
        other = msgspec.structs.replace(page, user="ü")  # takes the way of events
        foreign = encode_record([msgspec.structs.replace(examples, page=other, ids=[2 * n + 21, 2 * n + 22])])
        read = [Record("", 0, 2 * n + 1, 1, b"0", raw) for raw in (again, foreign)]
        for records in model.record_encoder.records(read):
            model.learn_records(records, 0, 1)
        gate.judge(deep=True)
        builder.build(n + 1, n, 1, n + 1, 1, {}, deep=True)
    model.drift.begin_anew()
    model.forget(0.5)
    table = HashTable(WIDTH)
    table.reserve_for(np.arange(1, 1_000, dtype=np.uint64))  # it grows
    table.put(np.arange(1, 41, dtype=np.uint64).reshape(10, WIDTH))
    Evictor(10).step(table, 1, 0)  # and is over its bound
    if model.deep:
        model.deep.freeze_quantiles()
