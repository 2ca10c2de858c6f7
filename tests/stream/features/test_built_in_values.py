"""Built-in columns and dates: computed as of the page, logged in it, and none of a spec that doesn't use them."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.events.types import Item, Value
from stream.features.built_in_values import moment_ms, ranks_of
from stream.features.encoder import Encoder, one_page
from stream.features.page_features import Catalogue, Layout, build_page, id_of, seed_of, select
from stream.features.page_kernels import open_page
from stream.features.statistics import StatisticsProgram
from stream.spec.columns import PageTime
from stream.spec.spec import Spec
from stream.spec.spec_file import parse_spec
from stream.tables.dtypes import U64

DECLARED = """
name = "built-in"
[user]
id = "category"
age = "number"
history = { of = "item.id", last = 2 }
[item]
id = "category"
tags = "categories"
price = "number"
released = { type = "date", bands = [1, 7.5] }
[context]
device = "category"
"""
USED = """
[statistics]
then = { kind = "residual", by = ["user.history.newest", "item.id"] }
[wide]
features = ["item.released_band", "page.hour", "page.weekday"]
crosses = [["user.history.newest", "item.id"], ["page.weekday", "item.tags"]]
[deep]
features = ["item.released", "item.price.rank", "item.released.rank", "user.history.newest", "statistics.*"]
"""
UNUSED = """
[wide]
features = ["item.id"]
[deep]
features = ["item.tags"]
"""
SPEC = parse_spec(DECLARED + USED)
LAYOUT = Layout(SPEC)
DAY_MS = 86_400_000
NOW_MS = 1_700_000_000_000  # Tuesday 2023-11-14, 22:13 UTC


def built(
    items: list[Item],
    history: list[str],
    time_ms: int = NOW_MS,
    layout: Layout = LAYOUT,
    attributes: Mapping[str, Value] = MappingProxyType({}),
) -> U64:
    """A page of these items."""
    catalogue = Catalogue(layout)
    rows = np.array([catalogue.put(item) for item in items], np.int64)
    return build_page(layout, layout.user("u", attributes, history, {"device": "x"}), catalogue, rows, time_ms)


def lists_of(words: U64, name: str, position: int = 0, layout: Layout = LAYOUT) -> list[int]:
    """A list of ids."""
    page = open_page(words, layout.size_array)
    at, w32 = page.at, page.w32
    if name in layout.user_lists:
        first, ids = at.user_offsets + layout.user_lists.index(name), at.user_ids
    else:
        first, ids = at.item_offsets + position * len(layout.item_lists) + layout.item_lists.index(name), at.item_ids
    return words[ids + w32[first] : ids + w32[first + 1]].tolist()  # type: ignore[no-any-return]


def numbers_of(words: U64, name: str) -> list[float]:
    """A number of all items."""
    page = open_page(words, LAYOUT.size_array)
    numbers = page.f32[page.at.item_numbers : page.at.statistics].reshape(page.at.items, -1)
    return numbers[:, LAYOUT.item_numbers.index(name)].tolist()  # type: ignore[no-any-return]


def ids(column: str, *texts: str) -> list[int]:
    """Ids by the documented definition."""
    return [id_of(seed_of(column), text) for text in texts]


def test_only_what_is_used_is_in_a_page() -> None:
    """A spec that names no built-in column has the layout that it had before there were any."""
    bare = parse_spec(DECLARED + UNUSED)
    assert [*SPEC.built_in_columns()] == [
        "user.history.newest", "page.hour", "page.weekday", "item.price.rank", "item.released.rank"
    ]  # fmt: skip
    assert not bare.columns().keys() & SPEC.built_in_columns().keys()
    assert [*bare.columns()] == [name for name in SPEC.columns() if name not in SPEC.built_in_columns()]
    assert Layout(msgspec.structs.replace(bare, page=PageTime("+02:00"))).hash == Layout(bare).hash


@pytest.mark.parametrize(
    "use",
    [
        '[slices]\n"page.hour" = ["0"]\n[wide]\nfeatures = ["item.id"]\n[deep]\nfeatures = ["item.tags"]',
        '[statistics]\nr = { kind = "rate", by = ["page.hour"] }\n' + UNUSED,
        '[wide]\nfeatures = ["page.hour"]\n[deep]\nfeatures = ["item.tags"]',
        '[wide]\ncrosses = [["page.hour", "item.id"]]\n[deep]\nfeatures = ["item.tags"]',
        '[wide]\nfeatures = ["item.id"]\n[deep]\nfeatures = ["page.hour"]',
    ],
)
def test_every_way_to_name_one_counts(use: str) -> None:
    """Slices, statistics, wide features, crosses and deep features bring the column into the page."""
    layout = Layout(parse_spec(DECLARED + use))
    assert "page.hour" in layout.user_lists
    assert lists_of(built([Item("a")], [], layout=layout), "page.hour", layout=layout) == ids("page.hour", "22")


def test_a_declared_column_hides_the_built_in_one_of_its_name() -> None:
    """What a spec says itself comes from its own events."""
    text = (DECLARED + UNUSED).replace('device = "category"', 'device = "category"\n').replace(
        'age = "number"', '"history.newest" = "category"'
    )  # fmt: skip
    layout = Layout(parse_spec(text.replace('"item.id"]', '"item.id", "user.history.newest"]')))
    words = built([Item("a")], ["b"], layout=layout, attributes={"history.newest": "mine"})
    assert lists_of(words, "user.history.newest", layout=layout) == ids("user.history.newest", "mine")


def test_the_newest_of_a_history_is_its_last_item() -> None:
    """By the id of the item itself; without a history there's none, and no cross with it."""
    words = built([Item("a")], ["c", "a", "b"])
    assert lists_of(words, "user.history") == ids("item.id", "a", "b")
    assert lists_of(words, "user.history.newest") == ids("item.id", "b")
    nothing = built([Item("a")], [])
    assert lists_of(nothing, "user.history.newest") == []
    encoder, program = Encoder(SPEC, LAYOUT), StatisticsProgram(SPEC, LAYOUT)
    cross = 1 + encoder.cross_names.index("user.history.newest x item.id")
    for page, count in ((words, 1), (nothing, 0)):
        keys = encoder.wide_keys(one_page(page)).keys & np.uint64(255)
        assert int((keys == cross).sum()) == count
        assert len(program.keys_of(one_page(page)).keys) == 1 + count  # that of everything is always there


def test_an_attribute_cant_pretend_to_be_built_in() -> None:
    """What events say under such a name isn't read."""
    words = built([Item("a", {"price": 1.0, "price.rank": 7.0})], ["b"], attributes={"history.newest": "c"})
    assert lists_of(words, "user.history.newest") == ids("item.id", "b")
    assert numbers_of(words, "item.price.rank") == [1.0]


@given(st.integers(-(10**12), 4 * 10**12), st.sampled_from(["+00:00", "+05:30", "-11:45", "+14:00"]))
def test_hour_and_weekday_are_those_of_the_clock(time_ms: int, offset: str) -> None:
    """Of the page's event time, in UTC or as far from it as the spec says; Monday is 0."""
    spec = msgspec.structs.replace(SPEC, page=PageTime(offset))
    layout = Layout(spec)
    words = built([Item("a")], [], time_ms, layout)
    there = datetime.fromtimestamp((time_ms + spec.page.offset_ms()) / 1000, UTC)
    assert lists_of(words, "page.hour", layout=layout) == ids("page.hour", str(there.hour))
    assert lists_of(words, "page.weekday", layout=layout) == ids("page.weekday", str(there.weekday()))


@pytest.mark.parametrize(
    ("value", "days", "band"),
    [
        ("2023-11-14", 0.9259259, "0"), ("2023-11-13T22:13:20Z", 1, "1"), ("2023-11-14T00:13:20+02:00", 1, "1"),
        (float(NOW_MS - 7 * DAY_MS), 7, "1"), (NOW_MS - 30.0 * DAY_MS, 30, "2"), ("2023-11-15T22:13:20", -1, "0"),
    ],
)  # fmt: skip
def test_a_date_is_the_days_from_it_to_the_page(value: Value, days: float, band: str) -> None:
    """As a number and cut into bands; what isn't released yet has fewer than none."""
    words = built([Item("old", {"released": "1999-12-31", "tags": ["x", "y"]}), Item("a", {"released": value})], [])
    assert numbers_of(words, "item.released")[1] == pytest.approx(days)
    assert lists_of(words, "item.released_band", 1) == ids("item.released_band", band)
    assert lists_of(words, "item.released_band", 0) == ids("item.released_band", "2")
    assert lists_of(words, "item.tags", 0) == ids("item.tags", "x", "y")


@pytest.mark.parametrize("value", ["soon", "", "1714521600000.5", ["2023-11-14"], 1e300, math.inf, None])
def test_what_is_no_date_is_missing(value: Value | None) -> None:
    """It has neither days nor a band, and its neighbours keep theirs."""
    others = [Item("b", {"released": "2023-11-14"}), Item("c", {"released": "2000-01-01"})]
    attributes: dict[str, Value] = {} if value is None else {"released": value}
    words = built([others[0], Item("a", attributes), others[1]], [])
    assert [math.isnan(days) for days in numbers_of(words, "item.released")] == [False, True, False]
    assert [lists_of(words, "item.released_band", n) for n in range(3)] == [
        ids("item.released_band", "0"), [], ids("item.released_band", "2")
    ]  # fmt: skip
    assert math.isnan(numbers_of(words, "item.released.rank")[1])


def test_a_page_later_has_older_items_of_the_same_catalogue() -> None:
    """An item's row doesn't change with time: what a page says does."""
    catalogue = Catalogue(LAYOUT)
    rows = np.array([catalogue.put(Item("a", {"released": "2023-11-14"}))], np.int64)
    user = LAYOUT.user("u", {}, [], {})
    pages = [build_page(LAYOUT, user, catalogue, rows, NOW_MS + n * DAY_MS) for n in (0, 9, 0)]
    days = [numbers_of(page, "item.released")[0] for page in pages]
    assert days[1] - days[0] == pytest.approx(9)
    assert np.array_equal(pages[0], pages[2])


@given(st.lists(st.sampled_from([math.nan, -1.0, 0.0, 2.5, 7.0]), max_size=9))
def test_ranks_count_who_is_higher(values: list[float]) -> None:
    """One more than there are higher ones, in any order; a missing number has none."""
    known = [value for value in values if not math.isnan(value)]
    wanted = [math.nan if math.isnan(v) else 1.0 + sum(other > v for other in known) for v in values]
    assert ranks_of(np.array(values, np.float32)).tolist() == pytest.approx(wanted, nan_ok=True)


def test_a_selected_page_keeps_the_ranks_it_was_scored_with() -> None:
    """The best of many candidates are logged with their ranks among all of them: what ranked is what is learned."""
    words = built([Item(f"i{n}", {"price": float(n)}) for n in range(5)], [])
    assert numbers_of(words, "item.price.rank") == [5, 4, 3, 2, 1]
    assert numbers_of(select(LAYOUT, words, [1, 4]), "item.price.rank") == [4, 1]


def test_the_layout_tells_dates_and_offsets_apart() -> None:
    """Days aren't the number that stood in their place, and an hour elsewhere is another hour."""

    def changed(spec: Spec) -> int:
        return Layout(spec).hash

    moved = msgspec.structs.replace(SPEC, page=PageTime("+01:00"))
    number = parse_spec((DECLARED + USED).replace('"date"', '"number"'))
    assert len({LAYOUT.hash, changed(moved), changed(number)}) == 3
    assert len({SPEC.fingerprint(), moved.fingerprint(), number.fingerprint()}) == 3


def test_a_page_without_a_time_is_our_own_mistake() -> None:
    """A caller that forgets the time of a spec that needs it is stopped, rather than learned from."""
    catalogue = Catalogue(LAYOUT)
    with pytest.raises(AssertionError, match="page's time"):
        build_page(LAYOUT, LAYOUT.user("u", {}, [], {}), catalogue, catalogue.rows(["a"]))


def test_moments_are_read_as_utc() -> None:
    """A date without a zone is UTC; a day is its beginning."""
    assert moment_ms("2023-11-14T22:13:20") == NOW_MS == moment_ms("2023-11-14T22:13:20Z")
