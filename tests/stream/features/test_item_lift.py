"""Lift against its definition, written slowly: labels, organic installs, retractions."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.events.types import INSTALLED, LATE_POSITIVE, RETRACTION, WINDOW_CLOSED, Organic
from stream.features.encoder import Batch
from stream.features.item_similarity import Outcomes
from stream.features.page_features import Catalogue, Layout, build_page
from stream.features.page_kernels import open_page
from stream.features.statistic_kernels import Layers
from stream.features.statistics import WIDTH, Statistics, StatisticsProgram
from stream.runtime.errors import SpecError
from stream.spec.spec_file import parse_spec
from stream.tables.dtypes import U64
from stream.tables.hash_table import HashTable

LAST, PRIOR, NOW_MS = 3, 2.0, 1_000
TEXT = """
name = "lift"
[user]
id = "category"
[item]
id = "category"
[statistics]
item_seen = { kind = "count", by = ["item.id"] }
together = { kind = "lift", of = "installs", by = ["user.id", "item.id"], prior = 2, neighbours = 3 }
[wide]
features = ["user.id"]
[deep]
features = ["statistics.*"]
[label]
organic = "examples"
"""
SPEC = parse_spec(TEXT)
LAYOUT = Layout(SPEC)
PROGRAM = StatisticsProgram(SPEC, LAYOUT)
USERS, ITEMS = "uvw", "abcde"
PASSED_BY, INSTALL, ORGANIC, LATE, RETRACTED = range(5)
STEPS = st.lists(st.tuples(st.sampled_from(USERS), st.sampled_from(ITEMS), st.integers(0, 4)), max_size=40)
Step = tuple[str, str, int]


class Slow:
    """The definition: memories are lists, pairs a dictionary, all other counts sums over it."""

    def __init__(self) -> None:
        self.memories: dict[str, list[str | None]] = defaultdict(list)  # newest last; None: taken back
        self.pairs: Counter[frozenset[str]] = Counter()

    def read(self, user: str, item: str) -> float:
        """Σ (n(i, item) − e) / (e + prior) / √m; NaN without another item."""
        others = [one for one in self.memories[user] if one not in (None, item)]
        total = 0.0
        for one in others:
            assert one is not None
            expected = self._count(one) * self._count(item) / max(1, 2 * self.pairs.total())
            total += (self.pairs[frozenset((one, item))] - expected) / (expected + PRIOR)
        return total / math.sqrt(len(others)) if others else math.nan

    def step(self, user: str, item: str, what: int) -> None:
        """What one label or organic install does."""
        memory = self.memories[user]
        others = [one for one in memory if one not in (None, item)]
        if what == RETRACTED and item in memory:
            self.pairs.subtract(frozenset((one, item)) for one in others if one)
            memory[memory.index(item)] = None
        elif what in (INSTALL, ORGANIC, LATE) and item not in memory:
            self.pairs.update(frozenset((one, item)) for one in others if one)
            memory.append(item)
            del memory[:-LAST]

    def _count(self, item: str) -> int:
        return sum(count for pair, count in self.pairs.items() if item in pair)


def page(statistics: Statistics, user: str, item: str) -> U64:
    """A page of one item, as it would be ranked now."""
    catalogue = Catalogue(LAYOUT)
    words = build_page(LAYOUT, LAYOUT.user(user, {}, [], {}), catalogue, catalogue.rows([item]))
    statistics.fill(words, NOW_MS)
    return words


def lift(words: U64) -> float:
    """The lift of a page's only item."""
    _, _, f32, at = open_page(words, LAYOUT.size_array)
    return float(f32[at.statistics + 1])


def outcomes_of(steps: list[int]) -> Outcomes:
    """What labels say in these steps."""
    labels = [float(what in (INSTALL, LATE)) for what in steps]
    known = {PASSED_BY: WINDOW_CLOSED, INSTALL: INSTALLED, LATE: LATE_POSITIVE, RETRACTED: RETRACTION}
    reasons = np.array([known[what] for what in steps])
    return Outcomes(np.array(labels), np.ones(len(steps)), reasons, np.full(len(steps), float(NOW_MS)))


def learned(statistics: Statistics, step: Step) -> None:
    """Learn one step."""
    user, item, what = step
    if what == ORGANIC:
        statistics.learn_organic([Organic(user, item, NOW_MS, "x")])
        return
    batch = Batch(page(statistics, user, item), *(np.zeros(1, np.int64) for _ in range(3)))
    statistics.learn(batch, outcomes_of([what]))


def rows(statistics: Statistics) -> bytes:
    """All rows in the order of their keys."""
    found = statistics.likenesses.rows()
    return found[np.argsort(found[:, 0])].tobytes()


@given(STEPS)
def test_a_lift_is_what_its_definition_says(steps: list[Step]) -> None:
    """Memories that overflow, items that come again, several users, retractions: every lift at every time."""
    statistics, slow = Statistics(PROGRAM), Slow()
    for step in steps:
        learned(statistics, step)
        slow.step(*step)
        for user in USERS:
            for item in ITEMS:
                value = lift(page(statistics, user, item))
                assert value == pytest.approx(slow.read(user, item), rel=1e-5, abs=1e-6, nan_ok=True)


@given(STEPS, st.integers(0, 39))
def test_an_overlay_and_a_restored_table_read_the_same(steps: list[Step], half: int) -> None:
    """A delta over an older base, and a table put together from rows, say what the one table says."""
    statistics, base = Statistics(PROGRAM), np.zeros((0, WIDTH), np.uint64)
    for n, step in enumerate(steps):
        if n == half:
            base = statistics.rows()
            for table in (statistics.table, statistics.likenesses):
                table.take_changed()
        learned(statistics, step)
    below, above, whole = HashTable(WIDTH), HashTable(WIDTH), Statistics(PROGRAM)
    below.put(base)
    above.put(np.concatenate([t.take_changed() for t in (statistics.table, statistics.likenesses)]))
    whole.table.put(statistics.table.rows())
    whole.likenesses.put(statistics.likenesses.rows())
    for user in USERS:
        for item in ITEMS:
            wanted = page(statistics, user, item)
            words = wanted.copy()
            PROGRAM.fill(words, NOW_MS, *2 * (Layers(below.slots, above.slots),))
            assert words.tobytes() == wanted.tobytes() == page(whole, user, item).tobytes()


@given(STEPS)
def test_a_batch_moves_what_its_steps_move_one_by_one(steps: list[Step]) -> None:
    """All at once, labels and organic installs apart: the same rows, to the bit."""
    labels = [step for step in steps if step[2] != ORGANIC]
    organic = [Organic(user, item, NOW_MS, "x") for user, item, what in steps if what == ORGANIC]
    at_once, one_by_one = Statistics(PROGRAM), Statistics(PROGRAM)
    if labels:
        pages = [page(at_once, user, item) for user, item, _ in labels]
        starts, which = np.cumsum([0, *map(len, pages)])[:-1], np.arange(len(labels))
        batch = Batch(np.concatenate(pages), starts, which, np.zeros(len(labels), np.int64))
        at_once.learn(batch, outcomes_of([what for _, _, what in labels]))
    at_once.learn_organic(organic)
    for step in labels:
        learned(one_by_one, step)
    for one in organic:
        one_by_one.learn_organic([one])
    assert rows(at_once) == rows(one_by_one)


@given(STEPS, st.sampled_from(USERS), st.sampled_from(ITEMS))
def test_a_retraction_leaves_counts_as_if_the_install_had_never_been(steps: list[Step], user: str, item: str) -> None:
    """Pairs' and items' counts, as long as the memory hasn't overflowed meanwhile."""
    steps = [step for step in steps if step[:2] != (user, item)]
    with_it, without = Statistics(PROGRAM), Statistics(PROGRAM)
    for step in steps:
        learned(with_it, step)
        learned(without, step)
    memory = Slow()
    for step in steps:
        memory.step(*step)
    if len(memory.memories[user]) == LAST:
        return
    learned(with_it, (user, item, INSTALL))
    learned(with_it, (user, item, RETRACTED))
    for one in ITEMS:
        for other in USERS:
            got, wanted = (lift(page(statistics, other, one)) for statistics in (with_it, without))
            assert got == pytest.approx(wanted, nan_ok=True)


def test_growth_goes_in_steps_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memories and counts in the middle of growth, retracted ones too, are those of a table that had room before."""
    monkeypatch.setattr("stream.tables.hash_table.STEP", 8)
    growing, roomy = Statistics(PROGRAM), Statistics(PROGRAM, likenesses=HashTable(WIDTH, 100_000))
    random, middles = np.random.default_rng(0), 0
    for _ in range(1_500):
        step = f"u{random.integers(100)}", f"i{random.integers(100)}", int(random.integers(1, 5))
        for statistics in (growing, roomy):
            learned(statistics, step)
        assert page(growing, *step[:2]).tobytes() == page(roomy, *step[:2]).tobytes()
        middles += len(growing.likenesses.old) > 1
    assert middles > 50
    assert rows(growing) == rows(roomy)


def test_what_is_installed_together_is_recommended_together() -> None:
    """Two tastes, and an item that everyone has, which says less."""
    statistics = Statistics(PROGRAM)
    for n in range(60):
        for item in ("abe", "cde")[n % 2]:
            learned(statistics, (f"u{n}", item, ORGANIC))
    learned(statistics, ("new", "a", INSTALL))
    same, common, other = (lift(page(statistics, "new", item)) for item in "bed")
    assert same > 2 * common > 0
    assert other < -0.5


@pytest.mark.parametrize(
    ("given", "wrong", "why"),
    [
        ('by = ["user.id", "item.id"]', 'by = ["item.id", "user.id"]', "lift is by"),
        ("neighbours = 3", 'neighbours = 3, half_life = "1d"', "lift is by"),
        ('of = "installs", ', "", 'lift is of = "installs"'),
        ('of = "installs", ', 'of = "organic", ', 'lift is of = "installs"'),
        ('organic = "examples"', "organic = true", 'set organic = "examples"'),
    ],
)
def test_a_lift_that_makes_no_sense_is_refused(given: str, wrong: str, why: str) -> None:
    """By user and item, in this order, without decay, of all installs, which the learner must be sent."""
    assert given in TEXT
    with pytest.raises(SpecError, match=why):
        parse_spec(TEXT.replace(given, wrong))


def test_two_lifts_are_what_each_is_alone() -> None:
    """They share no row, not even the count of all."""
    again = 'again = { kind = "lift", of = "installs", by = ["user.id", "item.id"], neighbours = 9 }'
    spec = parse_spec(TEXT.replace("[wide]", f"{again}\n[wide]"))
    layout = Layout(spec)
    both, alone = Statistics(StatisticsProgram(spec, layout)), Statistics(PROGRAM)
    random = np.random.default_rng(3)
    for _ in range(300):
        installs = [Organic(f"u{random.integers(30)}", f"i{random.integers(9)}", NOW_MS, "x")]
        both.learn_organic(installs)
        alone.learn_organic(installs)
    catalogue = Catalogue(layout)
    words = build_page(layout, layout.user("u1", {}, [], {}), catalogue, catalogue.rows(["i1"]))
    both.fill(words, NOW_MS)
    _, _, f32, at = open_page(words, layout.size_array)
    assert float(f32[at.statistics + 1]) == lift(page(alone, "u1", "i1"))
    assert not np.isnan(f32[at.statistics + 1])


def test_rows_are_bounded_with_those_of_likenesses() -> None:
    """Organic installs alone never go over the bound."""
    program = StatisticsProgram(SPEC, LAYOUT)
    program.likeness_rows_max = 1_000
    statistics = Statistics(program)
    for n in range(3_000):
        statistics.learn_organic([Organic(f"u{n % 500}", f"i{n % 70}", NOW_MS + n, "x")])
        assert len(statistics.likenesses) <= 1_000 + 2 * LAST + 4
