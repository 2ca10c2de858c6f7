"""Bad input at the learner's edge: a dead letter with its reason, or taken for what it is; all stays finite."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from learner.checkpoints.checkpoint import take
from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.learner import Learner
from learner.training.model import Model
from stream.events.codec import decode_entity, encode_record
from stream.events.types import DeadLetter, Examples, Item
from stream.features.cross_products import KEYS_MAX
from stream.features.encoder import one_page
from stream.features.page_features import Catalogue, Layout, build_page
from stream.features.page_kernels import LIST_MAX, UserColumns
from stream.log.memory_log import MemoryLog
from stream.tables.dtypes import U64
from tests.support.learned_models import state_of
from tests.support.learner_world import records, small_spec

SPEC = small_spec()
LAYOUT = Layout(SPEC)
FLOAT_MAX = float(np.finfo(np.float32).max)
Spoil = Callable[[Examples], Examples]


def learned(folder: Path, log: list[list[Examples]]) -> tuple[Learner, list[DeadLetter]]:
    """A learner that was given these records, and what it buried."""
    topics = MemoryLog({"examples": 1, "examples.dlq": 1}, lambda: 1_000)
    for record in log:
        topics.send("examples", 0, encode_record(record), b"key")
    learner = Learner(topics, Model(SPEC), 0, CheckpointFiles(folder), 1_000_000)
    learner.learn(learner.model.record_encoder.records(topics.reader("examples", {0: 0}).poll(0)), lambda: None)
    letters = topics.reader("examples.dlq", {0: 0}).poll(0)
    return learner, [decode_entity(letter.value or b"", DeadLetter) for letter in letters]


def assert_finite(model: Model) -> None:
    """Every weight, statistic, figure and prediction is a number."""
    assert model.finite()
    for name, array in take(model, 0, 0, 0).arrays.items():
        values = array[:, 1:] if name in ("wide", "statistics") else array
        if name == "wide":
            values = model.wide.weights(array)
        elif name == "statistics":
            values = np.ascontiguousarray(values).view(np.float64)
        elif name == "sample":
            continue  # numbers as they came: NaN is a missing one
        assert np.isfinite(values).all(), name
    for raw in model.recent_pages:
        assert np.isfinite(model.predict(np.frombuffer(raw, np.uint64))).all()


def with_words(examples: Examples, words: U64) -> Examples:
    """The same examples of a page with these features."""
    return msgspec.structs.replace(examples, page=msgspec.structs.replace(examples.page, features=words.tobytes()))


def with_numbers(value: float, every: int = 1) -> Spoil:
    """Every so many-th number of the page, statistics among them, is this one."""

    def spoil(examples: Examples) -> Examples:
        words = np.frombuffer(examples.page.features, np.uint64).copy()
        sizes, n = LAYOUT.sizes, int(words[1])
        count = sizes[2] + 1 + n * (sizes[3] + sizes[4])
        first = 2 * (len(words) - (count + 1) // 2)
        words.view(np.float32)[first : first + count : every] = value
        return with_words(examples, words)

    return spoil


def with_history(length: int, catalogue: Catalogue | None = None) -> Spoil:
    """The user's history has so many items, as no encoder of ours would write it."""
    known = catalogue or Catalogue(LAYOUT)

    def spoil(examples: Examples) -> Examples:
        user = LAYOUT.user("u", {"age": 30.0}, [], {})
        at = LAYOUT.user_lists.index("user.history")
        offsets = user.offsets.copy()
        offsets[at + 1 :] += length
        ids = np.insert(user.ids, int(user.offsets[at]), np.arange(1, length + 1, dtype=np.uint64))
        rows = known.rows(examples.page.items)
        return with_words(examples, build_page(LAYOUT, UserColumns(ids, offsets, user.numbers), known, rows))

    return spoil


def column(**values: Any) -> Spoil:
    """Another column of examples."""
    return lambda examples: msgspec.structs.replace(examples, **values)


def foreign(there: str, other: str) -> Spoil:
    """An example that was made for a spec that has another text there."""
    return lambda _: records(small_spec(**{there: other}), 1, seed=9)[0][0]


REFUSED: list[tuple[str, Spoil, str]] = [
    ("label NaN", column(labels=[0, math.nan, 1]), "int"),
    ("label infinite", column(labels=[0, math.inf, 1]), "int"),
    ("label 0.5", column(labels=[0, 0.5, 1]), "int"),
    ("label 2", column(labels=[0, 2, 1]), "a label is neither 0 nor 1"),
    ("label -1", column(labels=[0, -1, 1]), "a label is neither 0 nor 1"),
    ("label a text", column(labels=[0, "yes", 1]), "int"),
    ("a label too few", column(labels=[0, 1]), "differ in length"),
    ("weight NaN", column(weights=[1.0, math.nan, 1.0]), "a weight must be"),
    ("weight infinite", column(weights=[1.0, math.inf, 1.0]), "a weight must be"),
    ("weight 0", column(weights=[1.0, 0.0, 1.0]), "a weight must be"),
    ("weight below 0", column(weights=[1.0, -1.0, 1.0]), "a weight must be"),
    ("weight that is 0 in 32 bits", column(weights=[1.0, 1e-300, 1.0]), "a weight must be"),
    ("weight over a million", column(weights=[1.0, 1e30, 1.0]), "a weight must be"),
    ("feature infinite", with_numbers(math.inf), "an infinite number"),
    ("feature minus infinite", with_numbers(-math.inf, every=7), "an infinite number"),
    ("another spec: one more column", foreign('price = "number"', 'price = "number"\nsize = "number"'), "another spec"),
    ("another spec: other bands", foreign("bands = [20, 40]", "bands = [30, 60]"), "another spec"),
    ("another spec: a longer history", foreign("last = 5", "last = 6"), "another spec"),
    ("10,000 items in a history", with_history(10_000), "truncated or garbled"),
    ("no features", lambda e: with_words(e, np.zeros(0, np.uint64)), "no features"),
]


@pytest.mark.parametrize(("what", "spoil", "reason"), REFUSED, ids=[case[0] for case in REFUSED])
def test_what_is_wrong_is_buried_and_changes_nothing(tmp_path: Path, what: str, spoil: Spoil, reason: str) -> None:
    """One dead letter with the bytes and the reason; the model is bit for bit the one that never saw it."""
    log = records(SPEC, 60, per_record=3)
    bad = spoil(log[10][2])
    learner, letters = learned(tmp_path / "a", [*log[:10], [*log[10][:2], bad], *log[11:]])
    without, none = learned(tmp_path / "b", [*log[:10], log[10][:2], *log[11:]])
    assert [letter.error for letter in letters] == ["BadEvent"]
    assert reason in letters[0].message
    assert letters[0].offset == 10
    assert letters[0].original == msgspec.msgpack.encode(bad)
    assert none == []
    assert state_of(learner.model) == state_of(without.model)
    assert learner.model.examples == 59 * 3
    assert_finite(learner.model)


@pytest.mark.parametrize("value", [math.nan, FLOAT_MAX, -FLOAT_MAX, 1e-45])
@pytest.mark.parametrize("every", [1, 3])
def test_odd_numbers_are_learned_and_harm_nothing(tmp_path: Path, value: float, every: int) -> None:
    """NaN is a missing value; the greatest and smallest floats are numbers: all is learned, all stays finite."""
    log = records(SPEC, 120, per_record=3)
    spoil = with_numbers(value, every)
    learner, letters = learned(tmp_path, [[spoil(e) if n % 4 == 1 else e for n, e in enumerate(r)] for r in log])
    assert letters == []
    assert learner.model.examples == 360
    assert_finite(learner.model)


@pytest.mark.parametrize("weight", [1e-6, 1e6])
def test_odd_weights_are_learned_and_harm_nothing(tmp_path: Path, weight: float) -> None:
    """The least and the greatest weight that is taken: all is learned, all stays finite."""
    log = [[column(weights=[weight, 1.0, weight])(e) for e in record] for record in records(SPEC, 120)]
    learner, letters = learned(tmp_path, log)
    assert letters == []
    assert learner.model.examples == 360
    assert_finite(learner.model)


def test_a_long_history_is_cut_where_it_is_encoded(tmp_path: Path) -> None:
    """10,000 installs of one user: the page holds the last few that the spec wants, and is learned."""
    log = records(SPEC, 6)
    catalogue = Catalogue(LAYOUT)
    user = LAYOUT.user("u", {"age": 30.0}, [f"i{n}" for n in range(10_000)], {})
    first = log[0][0]
    words = build_page(LAYOUT, user, catalogue, catalogue.rows(first.page.items))
    at = LAYOUT.user_lists.index("user.history")
    assert np.diff(user.offsets)[at] == 5
    assert list(user.ids[user.offsets[at] : user.offsets[at + 1]]) == [
        int(LAYOUT.user("u", {}, [f"i{n}"], {}).ids[-1]) for n in range(9_995, 10_000)
    ]
    learner, letters = learned(tmp_path, [[with_words(first, words)], *log[1:]])
    assert letters == []
    assert_finite(learner.model)


def test_a_cross_product_of_two_long_lists_is_left_out(tmp_path: Path) -> None:
    """A list may have 1,000 ids; where two of them would make a million keys, that cross makes none, and is counted."""
    spec = small_spec(**{'["user.history", "item.id"]': '["user.history", "item.tags"]'})
    first = records(spec, 1)[0][0]
    catalogue, encoder = Catalogue(LAYOUT), Model(spec).encoder
    for item, tags in zip(first.page.items, (1, 4, LIST_MAX), strict=True):
        catalogue.put(Item(item, {"tags": [f"t{n}" for n in range(tags)]}))
    page = with_history(LIST_MAX, catalogue)(first)
    keys = encoder.wide_keys(one_page(np.frombuffer(page.page.features, np.uint64)))
    assert 4 * LIST_MAX < KEYS_MAX < LIST_MAX**2
    others = 3  # user, item, bias
    assert np.diff(keys.offsets).tolist() == [
        others + 1 + LIST_MAX, others + 4 + 4 * LIST_MAX, others + LIST_MAX,
    ], "band x tags and history x tags of each item"  # fmt: skip
    counted = Model(spec)
    counted.learn([page], 0)
    assert counted.left_out == 1
    learner, letters = learned(tmp_path, [[page], *records(SPEC, 9)])
    assert letters == []
    assert_finite(learner.model)
