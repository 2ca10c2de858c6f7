"""Windowed rates and counts against a slow reference, and what two panes can't tell."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.events.types import INSTALLED, LATE_POSITIVE, WINDOW_CLOSED, Organic
from stream.features.encoder import Batch
from stream.features.item_similarity import Outcomes
from stream.features.page_features import Catalogue, Layout, build_page, statistics_of
from stream.features.statistics import Statistics, StatisticsProgram
from stream.runtime.errors import SpecError
from stream.spec.spec_file import parse_spec
from stream.tables.dtypes import F32, U64

WINDOW_MS = 3_600_000
TEXT = """
name = "windowed"
user.id = "category"
item.id = "category"
[statistics]
lately = { kind = "rate", by = ["item.id"], prior = 2, window = "1h" }
shown = { kind = "count", by = ["item.id"], window = "1h" }
given = { kind = "count", of = "organic", by = ["item.id"], window = "1h" }
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
NAMES = ("a", "b")
Label = tuple[int, int, int, int]  # time, item, label, reason


def page() -> U64:
    """Both items."""
    catalogue = Catalogue(LAYOUT)
    return build_page(LAYOUT, LAYOUT.user("u", {}, [], {}), catalogue, catalogue.rows(list(NAMES)))


def learned(statistics: Statistics, labels: list[Label]) -> None:
    """These labels, in one batch."""
    words = page()
    count = len(labels)
    times, items, values, reasons = np.array(labels, np.int64).reshape(count, 4).T
    batch = Batch(words, np.zeros(1, np.int64), np.zeros(count, np.int64), items.copy())
    outcomes = Outcomes(values.astype(np.float64), np.ones(count), reasons.copy(), times.astype(np.float64))
    statistics.learn(batch, outcomes)


def read(statistics: Statistics, time_ms: int) -> F32:
    """Rate, count, organic count of both items. float32 [2, 3]."""
    words = page()
    statistics.fill(words, time_ms)
    return statistics_of(LAYOUT, words)[1:].reshape(len(NAMES), 3)


def panes(labels: list[Label], item: int, now_ms: int) -> tuple[float, float]:
    """n and s by definition: all of this pane, and of the one before the share that the window still has."""
    mine = [one for one in labels if one[1] == item]
    now_ms = max([now_ms, *(one[0] for one in mine)])
    left = 1 - Fraction(now_ms % WINDOW_MS, WINDOW_MS)
    n = s = Fraction(0)
    for time_ms, _, label, reason in mine:
        share = {0: Fraction(1), 1: left}.get(now_ms // WINDOW_MS - time_ms // WINDOW_MS, Fraction(0))
        n += share * (reason != LATE_POSITIVE)
        s += share * label
    return float(n), float(s)


labels_of = st.lists(
    st.tuples(
        st.integers(1, 5 * WINDOW_MS), st.integers(0, 1), st.integers(0, 1), st.just(WINDOW_CLOSED)
    ).map(lambda one: (*one[:3], INSTALLED if one[2] else WINDOW_CLOSED))
    | st.tuples(st.integers(1, 5 * WINDOW_MS), st.integers(0, 1), st.just(1), st.just(LATE_POSITIVE)),
    max_size=30,
)  # fmt: skip


@given(labels_of, st.integers(1, 6 * WINDOW_MS), st.data())
def test_a_window_is_what_its_panes_say_in_any_order_and_packing(
    labels: list[Label], now_ms: int, data: st.DataObject
) -> None:
    """Late labels and corrections go to the pane of their page; at once, one by one, or shuffled: the same bits."""
    at_once, one_by_one, shuffled = (Statistics(PROGRAM) for _ in range(3))
    learned(at_once, labels)
    for label in labels:
        learned(one_by_one, [label])
    learned(shuffled, data.draw(st.permutations(labels)))
    base = (sum(one[2] for one in labels) + 1) / (sum(one[3] != LATE_POSITIVE for one in labels) + 2)
    for item, (rate, count, _) in enumerate(read(at_once, now_ms)):
        n, s = panes(labels, item, now_ms)
        assert rate == pytest.approx((s + 2 * base) / (n + 2), rel=1e-6)
        assert count == pytest.approx(math.log1p(n), rel=1e-6, abs=1e-7)
    wanted, *others = (
        np.sort(each.table.rows().view("u8,u8,u8,u8"), axis=0) for each in (at_once, one_by_one, shuffled)
    )
    assert [other.tobytes() for other in others] == [wanted.tobytes()] * 2


def test_a_window_forgets() -> None:
    """Two windows after the last label nothing is left: the rate is the base rate, the count 0."""
    statistics = Statistics(PROGRAM)
    learned(statistics, [(WINDOW_MS + n, 0, 1, INSTALLED) for n in range(1, 50)])
    learned(statistics, [(WINDOW_MS + n, 1, 0, WINDOW_CLOSED) for n in range(1, 50)])
    rate, count, _ = read(statistics, WINDOW_MS + 100)[0]
    assert rate > 0.95
    assert count == pytest.approx(math.log(50))
    rates, counts, _ = read(statistics, 3 * WINDOW_MS + 1).T
    assert rates == pytest.approx([0.5, 0.5])
    assert counts.tolist() == [0, 0]


@pytest.mark.parametrize("place", [0.0, 0.25, 0.5, 0.99])
def test_a_steady_stream_is_counted_right(place: float) -> None:
    """What two panes interpolate is exact for labels that come evenly, wherever the window ends."""
    statistics = Statistics(PROGRAM)
    step = WINDOW_MS // 400
    end = int((5 + place) * WINDOW_MS)
    learned(statistics, [(t, 0, 0, WINDOW_CLOSED) for t in range(step, end, step)])
    assert np.expm1(read(statistics, end)[0][1]) == pytest.approx(400, abs=2)


def test_an_error_is_within_the_pane_before() -> None:
    """100 labels in one moment: a window that still has them counts at most all, one that has lost them at most those
    of the share of the pane that it doesn't cover."""
    statistics = Statistics(PROGRAM)
    moment = 10 * WINDOW_MS + WINDOW_MS // 10
    learned(statistics, [(moment, 0, 0, WINDOW_CLOSED)] * 100)
    inside, outside = read(statistics, moment + WINDOW_MS - 1)[0][1], read(statistics, moment + WINDOW_MS + 1)[0][1]
    assert np.expm1(inside) == pytest.approx(90, abs=0.1)
    assert np.expm1(outside) == pytest.approx(90, abs=0.1)
    assert np.expm1(read(statistics, 11 * WINDOW_MS - 1)[0][1]) == pytest.approx(100)


def test_organic_installs_have_windows_too() -> None:
    """A count of organic installs in the last hour."""
    statistics = Statistics(PROGRAM)
    statistics.learn_organic([Organic("u", "a", 10 * WINDOW_MS + n, str(n)) for n in range(7)])
    assert np.expm1(read(statistics, 10 * WINDOW_MS + 7)[0][2]) == pytest.approx(7)
    assert read(statistics, 12 * WINDOW_MS)[0][2] == 0


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"1h" }\nshown', '"1h", half_life = "1h" }\nshown', "without half_life"),
        ('kind = "rate"', 'kind = "residual"', "a window is for rate and count"),
        ('"1h" }\nshown', '"30m" }\nshown', "longer window"),
        ('"1h" }\nshown', '"0.1ms" }\nshown', "longer window"),
        ('"1h" }\ngiven', '"99999999d" }\ngiven', "hundred years"),
    ],
)
def test_a_window_that_makes_no_sense_is_refused(old: str, new: str, why: str) -> None:
    """Beside a half-life, of another kind, shorter than labels take to come, out of range."""
    assert old in TEXT
    with pytest.raises(SpecError, match=why):
        parse_spec(TEXT.replace(old, new))
