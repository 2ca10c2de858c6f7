"""Statistics of organic installs against their definition; labels and they leave each other's numbers alone."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.events.types import INSTALLED, LATE_POSITIVE, RETRACTION, WINDOW_CLOSED, Item, Organic
from stream.features.encoder import Batch, one_page
from stream.features.item_similarity import Outcomes
from stream.features.page_features import Catalogue, Layout, build_page, statistics_of
from stream.features.statistics import Statistics, StatisticsProgram
from stream.spec.columns import ALL_INSTALLS, ORGANIC_INSTALLS, Statistic
from stream.spec.spec_file import parse_spec
from stream.spec.values import duration_ms
from stream.tables.dtypes import F32, U64

START_MS = 1_700_000_000_000
SPEC = parse_spec("""
name = "organic"
parts = ["deep"]
[user]
id = "category"
[item]
id = "category"
[statistics]
rate = { kind = "rate", by = ["item.id"] }
installs = { kind = "count", of = "organic", by = ["item.id"] }
seen = { kind = "count", by = ["item.id"] }
trending = { kind = "count", of = "organic", by = ["item.id"], half_life = "10s" }
buyer = { kind = "count", of = "organic", by = ["user.id"] }
both = { kind = "count", of = "organic", by = ["user.id", "item.id"] }
turned = { kind = "since", of = "organic", by = ["item.id", "user.id"] }
[deep]
features = ["statistics.*"]
[label]
organic = "examples"
""")
LAYOUT = Layout(SPEC)
PROGRAM = StatisticsProgram(SPEC, LAYOUT)
ORGANIC = {name: one for name, one in SPEC.statistics.items() if one.of == ORGANIC_INSTALLS}
NAMES = "abc"

installs = st.lists(
    st.builds(
        Organic,
        user=st.sampled_from(NAMES),
        item=st.sampled_from(NAMES),
        time_ms=st.integers(-20_000, 20_000).map(lambda after: START_MS + after),
        install_id=st.text("xyz", min_size=1, max_size=3),
    ),
    max_size=12,
)


def page(user: str) -> U64:
    """A page of all items that one user sees."""
    catalogue = Catalogue(LAYOUT)
    return build_page(LAYOUT, LAYOUT.user(user, {}, [], {}), catalogue, catalogue.rows(list(NAMES)))


def read(statistics: Statistics, user: str, now_ms: int) -> dict[str, dict[str, float]]:
    """What a page of the user would be given now, by item and statistic."""
    words = page(user)
    statistics.fill(words, now_ms)
    count = len(SPEC.statistics)
    values = words.view(np.float32)[2 * (len(words) - (1 + count * len(NAMES) + 1) // 2) + 1 :]
    rows = values[: count * len(NAMES)].reshape(len(NAMES), count).tolist()
    return {item: dict(zip(SPEC.statistics, row, strict=True)) for item, row in zip(NAMES, rows, strict=True)}


def defined(stat: Statistic, learned: Sequence[Organic], user: str, item: str, now_ms: int) -> float:
    """The statistic's value, by the docs: the installs of its key, decayed one by one."""
    wanted = {"user.id": user, "item.id": item}
    mine = [
        one for one in learned if all({"user.id": one.user, "item.id": one.item}[by] == wanted[by] for by in stat.by)
    ]
    if stat.kind == "since":
        return math.log1p(max(0, now_ms - max(one.time_ms for one in mine)) / 1_000) if mine else math.nan
    half_life = duration_ms(stat.half_life) if stat.half_life else math.inf
    newest = max([now_ms, *(one.time_ms for one in mine)])
    return math.log1p(sum(2 ** ((one.time_ms - newest) / half_life) for one in mine))


@given(installs, st.integers(0, 12), st.integers(-30_000, 60_000))
def test_they_are_what_their_definition_says(learned: list[Organic], cut: int, after_ms: int) -> None:
    """Counts and times by item, user and both, decayed, in any order of time, learned at once or in two goes."""
    statistics = Statistics(PROGRAM)
    statistics.learn_organic(learned[:cut])
    statistics.learn_organic(learned[cut:])
    for user in NAMES:
        found = read(statistics, user, START_MS + after_ms)
        for item in NAMES:
            wanted = {name: defined(one, learned, user, item, START_MS + after_ms) for name, one in ORGANIC.items()}
            got = {name: found[item][name] for name in ORGANIC}
            assert got == pytest.approx(wanted, rel=1e-5, abs=1e-6, nan_ok=True)


def rows(statistics: Statistics) -> dict[int, bytes]:
    """The table's rows by key."""
    return {int(row[0]): row.tobytes() for row in statistics.table.rows()}


def label(statistics: Statistics, user: str) -> None:
    """The user installs all items of a page."""
    n = len(NAMES)
    outcomes = Outcomes(np.ones(n), np.ones(n), np.full(n, INSTALLED), np.full(n, float(START_MS)))
    statistics.learn(one_page(page(user)), outcomes)


@given(installs, st.lists(st.sampled_from(NAMES), max_size=4))
def test_labels_and_organic_installs_leave_each_other_alone(learned: list[Organic], labels: list[str]) -> None:
    """Rows of either kind are those of a learner that met nothing else, whichever came first; so is the base rate."""
    labelled, organic, mixed, turned = (Statistics(PROGRAM) for _ in range(4))
    turned.learn_organic(learned)
    for user in labels:
        for statistics in (labelled, mixed, turned):
            label(statistics, user)
    organic.learn_organic(learned)
    mixed.learn_organic(learned)
    assert not rows(labelled).keys() & rows(organic).keys()
    assert rows(mixed) == rows(turned) == rows(labelled) | rows(organic)


def test_what_they_move_is_in_the_next_delta() -> None:
    """A version's rows are those that changed since the one before, however they were moved."""
    statistics = Statistics(PROGRAM)
    statistics.learn_organic([Organic("a", "b", START_MS, "i")])
    assert {int(row[0]) for row in statistics.table.take_changed()} == rows(statistics).keys()
    statistics.learn_organic([Organic("a", "c", START_MS, "j")])
    fresh = {int(row[0]) for row in statistics.table.take_changed()}
    assert 0 < len(fresh) < len(rows(statistics))


def test_their_rows_are_bounded_with_all_others() -> None:
    """Over the spec's bound those go that moved longest ago: the newest stay."""
    program = StatisticsProgram(SPEC, LAYOUT)
    program.rows_max = 1_000
    statistics = Statistics(program)
    for n in range(3_000):
        statistics.learn_organic([Organic(f"u{n}", f"i{n}", START_MS + n, "x")])
    assert len(statistics.table) <= 1_010
    ids = program.organic_ids([Organic("u2999", "i2999", START_MS, "x")])
    last = program.organic_keys(ids)
    assert {int(key) for key in last} <= rows(statistics).keys()


ALL = msgspec.structs.replace(
    SPEC,
    statistics={
        "installs": Statistic("count", of=ALL_INSTALLS, by=["item.id"]),
        "trending": Statistic("count", of=ALL_INSTALLS, by=["item.id"], half_life="10s"),
        "last": Statistic("since", of=ALL_INSTALLS, by=["item.id"]),
        "rate": Statistic("rate", by=["item.id"]),
    },
)
CATALOGUE = Catalogue(Layout(ALL))
for known in NAMES:
    CATALOGUE.put(Item(known))
outcomes_ = st.sampled_from([(0, WINDOW_CLOSED), (1, INSTALLED), (1, LATE_POSITIVE)])
labels_ = st.lists(st.tuples(st.integers(0, 2), outcomes_, st.integers(-20_000, 20_000)), max_size=8)


@given(labels_, installs, st.booleans())
def test_all_installs_are_positive_labels_and_organic_ones(
    labelled: list[tuple[int, tuple[int, int], int]], organic: list[Organic], turned: bool
) -> None:
    """Each counts once, as of its time, whichever came first; a negative label is none, and rates are as without."""
    layout = Layout(ALL)
    program, without = StatisticsProgram(ALL, layout), Statistics(StatisticsProgram(ALL, layout))
    statistics, now_ms = Statistics(program), START_MS + 30_000
    words = build_page(layout, layout.user("a", {}, [], {}), CATALOGUE, np.arange(1, 4))
    if turned:
        statistics.learn_organic(organic)
    for place, (positive, reason), after_ms in labelled:
        one = Batch(words, np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([place]))
        outcome = Outcomes(
            np.full(1, positive, float), np.ones(1), np.array([reason]), np.array([START_MS + after_ms], float)
        )
        statistics.learn(one, outcome)
        without.learn(one, outcome)
    if not turned:
        statistics.learn_organic(organic)
    found, alone = (filled(layout, each, words, now_ms) for each in (statistics, without))
    for n, item in enumerate(NAMES):
        times = [one.time_ms for one in organic if one.item == item]
        times += [START_MS + after_ms for number, (positive, _), after_ms in labelled if positive and number == n]
        decayed = sum(2 ** ((one - now_ms) / 10_000) for one in times)
        last = math.log1p((now_ms - max(times)) / 1_000) if times else math.nan
        wanted = [math.log1p(len(times)), math.log1p(decayed), last, alone[n, 3]]
        assert found[n].tolist() == pytest.approx(wanted, rel=1e-5, abs=1e-6, nan_ok=True)


def test_a_retracted_install_is_none_any_more() -> None:
    """What a retraction takes back was added as of the same page: nothing is left, and never less than that."""
    layout = Layout(ALL)
    statistics = Statistics(StatisticsProgram(ALL, layout))
    words = build_page(layout, layout.user("a", {}, [], {}), CATALOGUE, np.arange(1, 4))
    one, times = one_page(words), np.full(3, float(START_MS))
    statistics.learn(one, Outcomes(np.array([1.0, 1.0, 0.0]), np.ones(3), np.full(3, INSTALLED), times))
    statistics.learn_organic([Organic("x", "a", START_MS, "i")])
    for _ in range(2):
        back = Batch(words, one.starts, one.page[1:2], np.array([1]))
        statistics.learn(back, Outcomes(np.zeros(1), np.ones(1), np.array([RETRACTION]), times[:1] + 5_000))
        assert filled(layout, statistics, words, START_MS)[:, 0].tolist() == pytest.approx([math.log(3), 0, 0])


def filled(layout: Layout, statistics: Statistics, words: U64, now_ms: int) -> F32:
    """What the page's statistics are now, float32 [n, S]."""
    again = words.copy()
    statistics.fill(again, now_ms)
    return statistics_of(layout, again)[1:].reshape(len(NAMES), -1)
