"""Which offsets a log leaves out, told by who reads to who is given the records."""

from hypothesis import given
from hypothesis import strategies as st

from stream.joiner.offset_gaps import Gaps


@given(st.sets(st.integers(0, 40)), st.lists(st.tuples(st.integers(0, 45), st.integers(0, 12)), max_size=8))
def test_a_gap_begins_behind_the_last_record_that_the_log_has(log: set[int], reads: list[tuple[int, int]]) -> None:
    """Read from anywhere in stretches of any length, markers at their ends or not: never wider than the truth, and
    as wide as it where reading went on without a seek."""
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
            assert begin == given_up_to
            given_up_to = offset + 1
        position = end


def test_however_many_are_on_their_way_all_are_known() -> None:
    """A log with a marker behind each record may be read far ahead; what had its turn takes no room."""
    gaps, many = Gaps(), 50_000
    gaps.note("p", 0, [2 * n + 1 for n in range(many)], 2 * many)
    assert all(gaps.begin("p", 2 * n + 1) == 2 * n for n in range(many))
    for n in range(many):
        gaps.taken("p", 2 * n + 1)
    assert not gaps._begins["p"]


def test_the_end_is_behind_the_last_record_once_all_was_read() -> None:
    """Until then it is where it was said to be."""
    gaps = Gaps()
    assert gaps.end("p", 5) == 5
    gaps.note("p", 0, [0, 1], 3)
    assert (gaps.end("p", 5), gaps.end("p", 3)) == (5, 2)
    gaps.note("p", 3, [], 5)
    assert gaps.end("p", 5) == 2


def test_partitions_are_kept_apart() -> None:
    """Each has a position of its own; a record without a gap before it begins at itself."""
    gaps = Gaps()
    gaps.note("p", 0, [0, 1], 3)
    gaps.note("q", 0, [2], 3)
    gaps.note("p", 3, [3], 4)
    assert [gaps.begin("p", offset) for offset in (0, 1, 3)] == [0, 1, 2]
    assert gaps.begin("q", 2) == 0
