"""Likeness against its definition, written slowly."""

import itertools
import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.events.types import INSTALLED, LATE_POSITIVE, RETRACTION, WINDOW_CLOSED
from stream.features.encoder import Batch
from stream.features.item_similarity import Outcomes
from stream.features.page_features import Catalogue, Layout, build_page
from stream.features.page_kernels import open_page
from stream.features.statistic_kernels import Layers
from stream.features.statistics import WIDTH, StatisticKeys, Statistics, StatisticsProgram
from stream.runtime.errors import SpecError
from stream.spec.spec_file import parse_spec
from stream.tables.dtypes import U64
from stream.tables.hash_table import HashTable

LAST = 3
TEXT = """
name = "alike"
[user]
id = "category"
[item]
id = "category"
[statistics]
item_seen = { kind = "count", by = ["item.id"] }
alike = { kind = "likeness", by = ["user.id", "item.id"], prior = 2, neighbours = 3 }
[wide]
features = ["user.id"]
[deep]
features = ["statistics.*"]
"""
SPEC = parse_spec(TEXT)
LAYOUT = Layout(SPEC)
PROGRAM = StatisticsProgram(SPEC, LAYOUT)


def page(statistics: Statistics, user: str, item: str) -> U64:
    """A page of one item, as it would be ranked now."""
    catalogue = Catalogue(LAYOUT)
    words = build_page(LAYOUT, LAYOUT.user(user, {}, [], {}), catalogue, catalogue.rows([item]))
    statistics.fill(words, 1_000)
    return words


def floats(words: U64) -> tuple[float, float]:
    """Base rate and likeness of a page's only item."""
    _, _, f32, at = open_page(words, LAYOUT.size_array)
    return float(f32[at.base_rate]), float(f32[at.statistics + 1])


def learned(statistics: Statistics, words: U64, label: int, reason: int | None = None) -> None:
    """One label of a page's only item."""
    batch = Batch(words, *(np.zeros(1, np.int64) for _ in range(3)))
    reason = (INSTALLED if label else WINDOW_CLOSED) if reason is None else reason
    outcomes = Outcomes(np.array([float(label)]), np.ones(1), np.array([reason]), np.array([1_000.0]))
    statistics.learn(batch, outcomes)


class Slow:
    """The definition: memories are lists, pairs a dictionary."""

    def __init__(self) -> None:
        self.memories: dict[str, list[list[Any]]] = defaultdict(list)  # [item, r], newest last
        self.pairs: dict[frozenset[str], list[float]] = defaultdict(lambda: [0.0, 0.0])

    def read(self, user: str, item: str) -> float:
        """Σ r · s / (n + prior) / √m; NaN without another item."""
        others = [(i, r) for i, r in self.memories[user] if i != item]
        pairs = [(r, self.pairs.get(frozenset((i, item)), [0.0, 0.0])) for i, r in others]
        return sum(r * s / (n + 2) for r, (n, s) in pairs) / math.sqrt(len(others)) if others else math.nan

    def learn(self, user: str, item: str, label: int, base: float) -> None:
        """A first label."""
        r, memory = label - base, self.memories[user]
        for i, other in memory:
            if i != item:
                pair = self.pairs[frozenset((i, item))]
                pair[0] += 1
                pair[1] += r * other
        memory.append([item, r])
        del memory[:-LAST]


def changed(statistics: Statistics) -> U64:
    """Rows of both tables that changed since the last call."""
    return np.concatenate([table.take_changed() for table in (statistics.table, statistics.likenesses)])


LABELS = st.lists(st.tuples(st.sampled_from("uv"), st.sampled_from("abcde"), st.integers(0, 1)), max_size=40)


@given(LABELS)
def test_likeness_is_what_its_definition_says(labels: list[tuple[str, str, int]]) -> None:
    """Memories that overflow, items that come again, several users: every likeness at every time."""
    statistics, slow = Statistics(PROGRAM), Slow()
    for user, item, label in labels:
        words = page(statistics, user, item)
        base, value = floats(words)
        assert value == pytest.approx(slow.read(user, item), rel=1e-5, abs=1e-6, nan_ok=True)
        learned(statistics, words, label)
        slow.learn(user, item, label, base)


@given(LABELS, st.integers(0, 39))
def test_an_overlay_and_a_restored_table_read_the_same(labels: list[tuple[str, str, int]], half: int) -> None:
    """A delta over an older base, and a table put together from rows, say what the one table says."""
    statistics = Statistics(PROGRAM)
    for n, (user, item, label) in enumerate(labels):
        if n == half:
            changed(statistics)
        learned(statistics, page(statistics, user, item), label)
        if n < half:
            base = statistics.rows()
    below, above, whole = HashTable(WIDTH), HashTable(WIDTH), Statistics(PROGRAM)
    if 0 < half < len(labels):
        below.put(base)
    above.put(changed(statistics))
    whole.table.put(statistics.table.rows())
    whole.likenesses.put(statistics.likenesses.rows())
    for user in "uv":
        for item in "abcde":
            wanted = page(statistics, user, item)
            words = wanted.copy()
            PROGRAM.fill(words, 1_000, *2 * (Layers(below.slots, above.slots),))
            assert words.tobytes() == wanted.tobytes() == page(whole, user, item).tobytes()


def test_growth_goes_in_steps_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memories and pairs in the middle of growth, corrected ones too, are those of a table that had room before."""
    monkeypatch.setattr("stream.tables.hash_table.STEP", 8)
    growing, roomy = Statistics(PROGRAM), Statistics(PROGRAM, likenesses=HashTable(WIDTH, 100_000))
    random, middles = np.random.default_rng(0), 0
    for _ in range(1_500):
        user, item = f"u{random.integers(100)}", f"i{random.integers(100)}"
        words, label = page(growing, user, item), int(random.integers(2))
        assert words.tobytes() == page(roomy, user, item).tobytes()
        reason = None if random.random() < 0.7 else LATE_POSITIVE if label else RETRACTION
        for statistics in (growing, roomy):
            learned(statistics, words, label, reason)
        middles += len(growing.likenesses.old) > 1
    assert middles > 50
    one, other = (each.likenesses.rows()[np.argsort(each.likenesses.rows()[:, 0])] for each in (growing, roomy))
    assert one.tobytes() == other.tobytes()


@given(st.integers(0, 2**32), st.integers(1, 30), st.booleans())
def test_a_batch_moves_what_its_examples_move_one_by_one(seed: int, most: int, holes: bool) -> None:
    """Users in turn or in a row, memories that wrap around, rows that were evicted, corrections; in slices too."""
    random = np.random.default_rng(seed)
    one_by_one, at_once, sliced = (Statistics(PROGRAM) for _ in range(3))
    for _ in range(3):
        count = int(random.integers(1, most + 1))
        pages = [page(one_by_one, f"u{random.integers(2)}", f"i{random.integers(6)}") for _ in range(count)]
        starts = np.cumsum([0, *map(len, pages)])[:-1]
        which = np.sort(random.integers(0, count, count)) if random.random() < 0.5 else np.arange(count)
        batch = Batch(np.concatenate(pages), starts, which, np.zeros(count, np.int64))
        labels = random.integers(0, 2, count).astype(np.float64)
        first = np.where(labels > 0, INSTALLED, WINDOW_CLOSED)
        reasons = np.where(random.random(count) < 0.7, first, np.where(labels > 0, LATE_POSITIVE, RETRACTION))
        outcomes = Outcomes(labels, random.random(count), reasons, random.integers(1, 9, count).astype(np.float64))
        keys, kinds = PROGRAM.keys_of(batch), 2

        def part(a: int, b: int) -> tuple[Batch, Outcomes, StatisticKeys]:
            ends = keys.offsets[a * kinds : b * kinds + 1]  # noqa: B023  # called before the next turn
            pages = Batch(batch.words, batch.starts, batch.page[a:b], batch.position[a:b])  # noqa: B023
            labels, weights, reasons, times = outcomes  # noqa: B023
            some = Outcomes(labels[a:b], weights[a:b], reasons[a:b], times[a:b])
            return pages, some, StatisticKeys(keys.keys, ends)  # noqa: B023

        at_once.learn(batch, outcomes)
        for b in range(count):
            pages_of_one, outcome, _ = part(b, b + 1)
            one_by_one.learn(pages_of_one, outcome)
        cuts = sorted({0, count, *random.integers(0, count, 2).tolist()})
        for a, b in itertools.pairwise(cuts):
            sliced.learn(*part(a, b))
        if holes:
            evicted = np.sort(one_by_one.likenesses.rows()[:, 0])[:: int(random.integers(2, 9))].copy()
            for statistics in (one_by_one, at_once, sliced):
                statistics.likenesses.remove(evicted)
    wanted, *others = (
        np.sort(each.likenesses.rows().view("u8,u8,u8,u8"), axis=0) for each in (one_by_one, at_once, sliced)
    )
    assert [other.tobytes() for other in others] == [wanted.tobytes()] * 2


@pytest.mark.parametrize(("first", "reason"), [(0, LATE_POSITIVE), (1, RETRACTION)])
def test_a_correction_turns_the_remembered_label_over(first: int, reason: int) -> None:
    """A late positive or a retraction leaves what the right label would have left, while all is still remembered."""
    wrong, right = Statistics(PROGRAM), Statistics(PROGRAM)
    words = page(wrong, "u", "a"), page(wrong, "u", "b")  # both by the base rate of before any label
    for statistics, label in ((wrong, first), (right, 1 - first)):
        learned(statistics, words[0], label)
        learned(statistics, words[1], 1)
    learned(wrong, words[0], 1 - first, reason)
    for item in "abc":
        assert floats(page(wrong, "u", item))[1] == pytest.approx(floats(page(right, "u", item))[1], abs=1e-7)


def test_a_correction_of_what_was_forgotten_changes_no_likeness() -> None:
    """An item that newer ones have pushed out of the memory isn't met again."""
    statistics = Statistics(PROGRAM)
    words = page(statistics, "u", "a")
    learned(statistics, words, 1)
    for item in "bcd":
        learned(statistics, page(statistics, "u", item), 1)
    before = [floats(page(statistics, "u", item))[1] for item in "abcde"]
    learned(statistics, words, 0, RETRACTION)
    assert [floats(page(statistics, "u", item))[1] for item in "abcde"] == before


def test_those_whose_labels_agree_are_alike() -> None:
    """Users who want both or neither make two items alike; a user who passed one by is warned of the other."""
    statistics = Statistics(PROGRAM)
    for n in range(40):
        for item in "ab":
            learned(statistics, page(statistics, f"u{n}", item), n % 2)
    for user, label in (("fan", 1), ("foe", 0)):
        learned(statistics, page(statistics, user, "a"), label)
    fan, foe = (floats(page(statistics, user, "b"))[1] for user in ("fan", "foe"))
    assert foe < -0.05 < 0.05 < fan


@pytest.mark.parametrize("change", ['by = ["item.id", "user.id"]', 'half_life = "1d", by = ["user.id", "item.id"]'])
def test_a_likeness_that_makes_no_sense_is_refused(change: str) -> None:
    """By user and item, in this order, and without decay."""
    with pytest.raises(SpecError, match="likeness is by"):
        parse_spec(TEXT.replace('likeness", by = ["user.id", "item.id"]', f'likeness", {change}'))
