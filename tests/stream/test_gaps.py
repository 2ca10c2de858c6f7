"""Which offsets a log leaves out, told by who reads to who is given the records."""

from hypothesis import given
from hypothesis import strategies as st

from stream.gaps import GAPS_MAX, Gaps


@given(st.sets(st.integers(0, 40)), st.lists(st.tuples(st.integers(0, 45), st.integers(0, 12)), max_size=8))
def test_a_gap_begins_behind_the_last_record_that_the_log_has(log: set[int], reads: list[tuple[int, int]]) -> None:
    """Read from anywhere in stretches of any length, markers at their ends or not: never wider than the truth, and at
    least as wide as this reading, and the ones before that it went on from, have seen."""
    gaps, position, given_up_to = Gaps(), -1, -1
    for start, length in reads:
        first = position if start > 40 and position >= 0 else start  # now and then it goes on where it was
        end = first + length
        records = sorted(offset for offset in log if first <= offset < end)
        if first != position:
            given_up_to = first
        gaps.note("p", first, records, end)
        for offset in records:
            begin = gaps.begin("p", offset)
            assert not [one for one in range(begin, offset) if one in log], "a record is taken for a gap"
            assert begin <= given_up_to
            given_up_to = offset + 1
        position = end


def test_of_many_the_oldest_are_forgotten() -> None:
    """A log full of markers takes no more memory than a short stretch of it."""
    gaps = Gaps()
    for n in range(2 * GAPS_MAX + 1):
        gaps.note("p", 2 * n, [2 * n + 1], 2 * n + 2)
    assert gaps.begin("p", 1) == 1
    kept = 2 * (GAPS_MAX + 1) + 1
    assert (gaps.begin("p", kept), gaps.begin("p", kept), gaps.begin("p", kept - 2)) == (kept - 1, kept - 1, kept - 2)


def test_partitions_are_kept_apart() -> None:
    """Each has a position of its own; a record without a gap before it begins at itself."""
    gaps = Gaps()
    gaps.note("p", 0, [0, 1], 3)
    gaps.note("q", 0, [2], 3)
    gaps.note("p", 3, [3], 4)
    assert [gaps.begin("p", offset) for offset in (0, 1, 3)] == [0, 1, 2]
    assert gaps.begin("q", 2) == 0
