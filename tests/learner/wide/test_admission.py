"""Admission of keys: a counting Bloom filter beside exact counts."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.wide.admission import CELLS_PER_KEY, Admission, count_sighting
from learner.wide.ftrl import Ftrl, FtrlRates, KeyBounds
from stream.features.encoder import WideKeys
from tests.support.wide_steps import predict_then_learn

NEVER = np.zeros(2, np.uint32)
page_numbers = itertools.count(1_000_000)


def filter_of(most: int = 3, keys_max: int = 1_000) -> Admission:
    """One that lets keys of the second cross in at their `most`-th sighting, the first's at once."""
    return Admission(np.array([1, most], np.uint8), keys_max)


def seen_times(admission: Admission, key: int, page: int | None = None) -> int:
    """Count a sighting of this key, on a page of its own if none is given."""
    on = np.uint64(next(page_numbers) if page is None else page)
    return int(count_sighting(np.uint64(key), on, admission.young, admission.old, admission.pages, admission.added))


def one(*keys: int) -> WideKeys:
    """An example of these keys."""
    return WideKeys(np.array(keys, np.uint64), np.array([0, len(keys)]))


def key_of(number: int, cross: int) -> int:
    """A wide key of a cross, counted from 0."""
    return number << 8 | cross + 1


@given(st.lists(st.integers(1, 40), max_size=300))
def test_a_sighting_is_never_lost(keys: list[int]) -> None:
    """However keys are mixed, a count is never below the true one: no key is let in too late."""
    admission, true = filter_of(), Counter[int]()
    for key in keys:
        true[key] += 1
        assert seen_times(admission, key) >= min(true[key], 15)


def test_false_admissions_are_few() -> None:
    """Of the keys that a full generation holds, less than one in a hundred is taken for one that was seen before."""
    admission = filter_of()
    room = admission.young.size // CELLS_PER_KEY
    early = sum(seen_times(admission, key) > 1 for key in range(1, room + 1))
    assert early < room / 100
    assert admission.added[0] > 0.99 * room


def test_memory_is_bounded_and_one_turn_forgets_nothing() -> None:
    """A full generation becomes the old one; what was seen counts on until the next turn, then it's forgotten."""
    admission = filter_of()
    size = admission.young.size

    def fill(first: int) -> None:
        for key in range(first, first + size // CELLS_PER_KEY + 100):
            seen_times(admission, key)
        admission.rotate()

    assert seen_times(admission, 7) == 1
    fill(1_000)
    assert admission.added[0] == 0
    assert seen_times(admission, 7) == 2
    fill(100_000)
    assert seen_times(admission, 7) == 2, "the second sighting is in the old generation, the first is forgotten"
    fill(200_000)
    fill(300_000)
    assert seen_times(admission, 7) == 1
    assert admission.young.size == admission.old.size == size


def test_a_key_learns_from_its_nth_sighting_on() -> None:
    """Before that it has no row, weighs nothing and learns nothing; a cross without admission learns at once."""
    ftrl = Ftrl(FtrlRates(np.array([0.5, 0.5], np.float32), 1.0, 0.0, 0.0),
                bounds=KeyBounds(np.array([1, 3], np.uint8), NEVER, 1_000))  # fmt: skip
    zero, label = np.zeros(1, np.float32), np.ones(1, np.float32)
    for sighting in range(1, 6):
        wide, _ = predict_then_learn(ftrl, one(key_of(9, 1)), zero, label, label)
        assert len(ftrl.table) == (1 if sighting >= 3 else 0)
        assert (wide[0] > 0) == (sighting >= 4)
    predict_then_learn(ftrl, one(key_of(9, 0)), zero, label, label)
    assert len(ftrl.table) == 2


def test_sightings_within_one_record_count_one_by_one() -> None:
    """The third example of a record is the third sighting: it doesn't matter how a stream was cut into records."""
    rates, bounds = (
        FtrlRates(np.array([0.5, 0.5], np.float32), 1.0, 0.0, 0.0),
        KeyBounds(np.array([1, 3], np.uint8), NEVER, 99),
    )
    keys = WideKeys(np.full(5, key_of(9, 1), np.uint64), np.arange(6))
    together, apart = Ftrl(rates, bounds=bounds), Ftrl(rates, bounds=bounds)
    ones, zeros = np.ones(5, np.float32), np.zeros(5, np.float32)
    wide, _ = predict_then_learn(together, keys, zeros, ones, ones)
    single = [predict_then_learn(apart, keys.part(i, i + 1), zeros[:1], ones[:1], ones[:1])[0][0] for i in range(5)]
    assert wide.tolist() == single
    assert together.table.rows().tolist() == apart.table.rows().tolist()


def test_nobody_waits_nothing_is_counted() -> None:
    """Where every cross admits at once, there is no filter."""
    admission = Admission(np.array([1, 1], np.uint8), 1 << 40)
    assert admission.young.size == admission.old.size == len(admission.admits) == 0


def test_a_filter_of_another_size_is_refused() -> None:
    """A checkpoint whose filters don't fit the spec isn't half taken in."""
    admission = filter_of()
    with pytest.raises(ValueError, match="shape"):
        admission.restore(admission.young[1:], admission.old, admission.added)


def test_a_page_counts_once() -> None:
    """Ten items of a page with one user are one sighting of the user, also when its examples come apart."""
    admission = filter_of()
    assert [seen_times(admission, 7, page=5) for _ in range(10)] == [1] * 10
    assert seen_times(admission, 8, page=5) == 1
    assert seen_times(admission, 7, page=6) == 2
    assert seen_times(admission, 7, page=5) == 2, "the one before the last is known, too"
    for page in range(7, 17):
        seen_times(admission, 7, page)
    admission.rotate()
    assert seen_times(admission, 7, page=16) == 12, "in a new generation, too"


def test_a_correction_is_no_sighting() -> None:
    """Its page was counted when it was learned first."""
    ftrl = Ftrl(FtrlRates(np.array([0.5, 0.5], np.float32), 1.0, 0.0, 0.0),
                bounds=KeyBounds(np.array([1, 3], np.uint8), NEVER, 1_000))  # fmt: skip
    zero, label = np.zeros(1, np.float32), np.ones(1, np.float32)
    for _ in range(5):
        predict_then_learn(ftrl, one(key_of(9, 1)), zero, label, label, earlier=label)
    assert not len(ftrl.table)
    for _ in range(3):
        predict_then_learn(ftrl, one(key_of(9, 1)), zero, label, label)
    assert len(ftrl.table) == 1
