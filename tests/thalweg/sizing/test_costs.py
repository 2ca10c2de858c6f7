"""Constants of the calculator are those of real objects."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from benchmarks.learn_world import (
    HISTORY,
    ITEM_VALUES,
    ITEMS,
    USER_VALUES,
    USERS,
    labelled_pages,
    records_of,
    world_spec,
)
from benchmarks.size import in_redis
from benchmarks.size_objects import bytes_of, counted
from benchmarks.snapshot import own_redis
from learner.training.model import Model
from stream.events.topics import EXAMPLES
from stream.features.encoder import Encoder
from stream.features.page_features import Layout, words_of
from stream.log.protocol import Record
from stream.snapshots.redis_client import connect
from thalweg.sizing.keys import keys_of
from thalweg.sizing.load import Load
from thalweg.sizing.plan import user_bytes
from thalweg.sizing.wire import event_bytes, page_of
from thalweg.sizing.work import layers, work_of

PAGES = 400
VALUES = {**{f"user.{k}": v for k, v in USER_VALUES.items()}, **{f"item.{k}": v for k, v in ITEM_VALUES.items()}}
LOAD = Load(1.0, USERS, ITEMS, values=VALUES, lengths={"user.history": HISTORY})
SPEC = world_spec("shop")


def test_real_objects_are_as_large_as_counted() -> None:
    """A process that fills real tables grows, at its most, by what the rule counts for these numbers, within 10 %."""
    counts = {"wide_key": 600_000, "statistics_row": 1_000_000, "embedding_row": 300_000, "item": 60_000,
              "open_page": 960_000}  # fmt: skip
    assert bytes_of(counts) == pytest.approx({kind: counted(kind, n) for kind, n in counts.items()}, rel=0.1)


@pytest.mark.parametrize("history", [20, 100, 200])
def test_a_user_in_redis_is_as_large_as_counted(history: int, tmp_path: Path) -> None:
    """Attributes and a history in a real Redis, packed or not, within 10 %."""
    with own_redis(tmp_path) as settings, closing(connect(settings)) as client:
        assert in_redis(client, 2_000, history)["bytes_per_user"] == pytest.approx(user_bytes(history), rel=0.1)


def test_work_is_what_the_encoder_makes() -> None:
    """Wide keys and embeddings' numbers of an example are those of real pages, the tower's weights those of a model."""
    model, spec = Model(SPEC, draws=False), SPEC
    page = next(labelled_pages(spec, 1, 10)).page
    words, work = words_of(page.features, Layout(spec), 10), work_of(spec, LOAD)
    assert model.deep is not None
    assert work.wide_keys == len(Encoder(spec, Layout(spec)).cross_names)
    widths = model.deep.tower.widths
    assert layers(spec) == [a * b for a, b in zip(widths, [*widths[1:], 1], strict=True)]
    assert work.embedding_values == len(model.encoder.deep_lists) * spec.deep.embedding_dim
    assert len(words) > 0


def test_keys_are_an_upper_estimate_of_those_that_a_model_learns() -> None:
    """On pages whose items follow a power law, a model has at most the estimated keys, and more than half of them."""
    model, raw = Model(SPEC, draws=False), records_of(list(labelled_pages(SPEC, PAGES, 10)), 16)
    for n, value in enumerate(raw):
        for records in model.record_encoder.records([Record(EXAMPLES.name, 0, n, 0, b"0", value)]):
            for first, last in model.steps(records):
                model.learn_records(records, first, last)
    made = keys_of(SPEC, LOAD, PAGES)
    assert 0.5 * made["wide.max_keys"].made < len(model.wide.table) <= made["wide.max_keys"].made
    assert 0.5 * made["max_statistics"].made < len(model.statistics.table) <= made["max_statistics"].made


def test_a_page_in_the_log_is_one_that_was_encoded() -> None:
    """The page that is measured has valid features of the spec, for all of its items."""
    page = page_of(SPEC, LOAD)
    words = words_of(page.features, Layout(SPEC), LOAD.page_items)
    assert words.dtype == np.uint64
    assert event_bytes(SPEC, LOAD) > len(page.features)
