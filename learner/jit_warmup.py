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
from stream.tables.dtypes import U64
from stream.tables.eviction import Evictor
from stream.tables.hash_table import HashTable


def compile_kernels(spec: Spec) -> Model:
    """Learn made-up records with a model of its own, and build a base and a delta of it. Returns the model."""
    layout, model = Layout(spec), Model(spec, draws=False)
    words = made_up_page(layout)
    Statistics(StatisticsProgram(spec, layout)).fill(words, 1)
    builder, gate = VersionBuilder(model), PublishGate(model)
    for n in range(2):
        learn_made_up(model, words, n)
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
    return model


def made_up_page(layout: Layout) -> U64:
    """A page of two items, without statistics."""
    catalogue = Catalogue(layout)
    return build_page(layout, layout.user("u", {}, ["a"], {}), catalogue, catalogue.rows(["a", "b"]), 1)


def learn_made_up(model: Model, words: U64, n: int) -> None:
    """Learn three records of this page, one of each way in which records are decoded. `n`: others have other ids."""
    page = Impression("r", 1, "u", ["a", "b"], features=words.tobytes())
    examples = Examples(page, [2 * n + 1, 2 * n + 2], [0, 1], [1, 0], [1.0, 1.0], [INSTALLED, WINDOW_CLOSED], [1, 1])
    model.learn([examples, Organic("u", "a", 1, str(n))], 2 * n)
    again = encode_record([msgspec.structs.replace(examples, ids=[2 * n + 1_001, 2 * n + 1_002])])
    other = msgspec.structs.replace(page, user="ü")  # is decoded as events
    foreign = encode_record([msgspec.structs.replace(examples, page=other, ids=[2 * n + 2_001, 2 * n + 2_002])])
    read = [Record("", 0, 2 * n + 1, 1, b"0", raw) for raw in (again, foreign)]
    for records in model.record_encoder.records(read):
        model.learn_records(records, 0, 1)
