"""Pages in columns: what was put in is what a slow reader finds, and nothing garbled gets through."""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.events.types import Item, Value
from stream.features import page_features
from stream.features.encoder import Encoder, one_page
from stream.features.item_similarity import Outcomes
from stream.features.page_features import Catalogue, Layout, build_page, cached_id_of, id_of, select, words_of
from stream.features.page_kernels import LIST_MAX
from stream.features.statistics import Statistics, StatisticsProgram
from stream.runtime.errors import BadEvent
from stream.spec.columns import Statistic
from stream.spec.spec_file import load_spec
from tests.support.feature_pages import (
    ITEM_LISTS,
    ITEM_NUMBERS,
    LAYOUT,
    SPEC,
    USER_LISTS,
    USER_NUMBERS,
    Parsed,
    Shown,
    id_by_hand,
    page,
    pages,
    parsed,
)

BANDS: dict[str, list[float]] = {"user.age_band": [18, 40.5], "item.year_band": [2000]}


def texts_by_hand(value: Value | None) -> list[str]:
    """A category's texts, by the documentation."""
    if value is None or value == "":
        return []
    if isinstance(value, float):
        return [f"{value:.0f}" if value == int(value) else str(value)]
    return value if isinstance(value, list) else [value]


def number_by_hand(value: Value | None) -> float:
    """A number as float32 holds it; NaN for what isn't one, or is too large."""
    try:
        number = float(value)  # type: ignore[arg-type]  # lists and None are what is tested
        return float(struct.unpack("<f", struct.pack("<f", number))[0]) if math.isfinite(number) else math.nan
    except (TypeError, ValueError, OverflowError):
        return math.nan


def column_by_hand(name: str, given_: Mapping[str, Value]) -> list[int]:
    """A column's ids."""
    if name in BANDS:
        value = given_.get(name.removesuffix("_band"))
        known = isinstance(value, str | float) and not math.isnan(number_by_hand(value))
        texts = [str(sum(float(str(value)) >= band for band in BANDS[name]))] if known else []
    else:
        texts = texts_by_hand(given_.get(name))
    return [id_by_hand(name, text) for text in texts]


def same(one: float, other: float) -> bool:
    """Equal, or both missing."""
    return one == other or (math.isnan(one) and math.isnan(other))


def held(raw: bytes, shown: Shown) -> None:
    """Assert that these bytes hold just what was shown."""
    found = parsed(raw)
    given_: dict[str, Value] = {f"user.{k}": v for k, v in shown.attributes.items()}
    given_ |= {f"context.{k}": v for k, v in shown.context.items()} | {"user.id": shown.user}
    given_["user.history"] = shown.history[-3:]
    assert found.layout == LAYOUT.hash
    assert found.lists == {name: column_by_hand(name, given_) for name in USER_LISTS}
    assert all(same(found.numbers[name], number_by_hand(given_.get(name))) for name in USER_NUMBERS)
    assert len(found.item_lists) == len(shown.items)
    for i, item in enumerate(shown.items):
        of_item: dict[str, Value] = {f"item.{k}": v for k, v in item.attributes.items()} | {"item.id": item.item}
        assert found.item_lists[i] == {name: column_by_hand(name, of_item) for name in ITEM_LISTS}
        assert all(same(found.item_numbers[i][n], number_by_hand(of_item.get(n))) for n in ITEM_NUMBERS)
        assert all(map(math.isnan, found.statistics[i].values()))
    assert math.isnan(found.base)


@given(pages())
def test_what_was_put_in_can_be_read_back(shown: Shown) -> None:
    """By an independent reader of the documented layout: columns, bands, numbers, missing ones."""
    words = shown.words()
    held(words.tobytes(), shown)
    assert np.array_equal(words_of(words.tobytes(), LAYOUT, len(shown.items)), words)


@given(pages(items_max=8), st.data())
def test_unknown_items_have_their_id_only(shown: Shown, data: st.DataObject) -> None:
    """Looked up, they give the page that they would if they had a row, and the catalogue stays as it was."""
    catalogue = Catalogue(LAYOUT)
    known = data.draw(st.sets(st.sampled_from(range(len(shown.items)))))
    items = [item if n in known else Item(item.item) for n, item in enumerate(shown.items)]
    for n in known:
        catalogue.put(items[n])
    before, names = len(catalogue), [item.item for item in items]
    rows, unknown = catalogue.lookup(names)
    user = LAYOUT.user(shown.user, shown.attributes, shown.history, shown.context)
    words = build_page(LAYOUT, user, catalogue, rows, None, unknown)
    assert (len(catalogue), len(unknown)) == (before, len(names) - len(known))
    assert np.array_equal(words, page(shown.user, shown.attributes, shown.history, shown.context, items))


def test_texts_that_are_longer_than_ids_are_not_kept() -> None:
    """So the cache of ids has a bounded size; the id is the same."""
    before = page_features._cached_id_of.cache_info().currsize
    for length, kept in ((256, 1), (257, 1), (60_000, 1)):
        assert cached_id_of(7, "z" * length) == id_of(7, "z" * length)
        assert page_features._cached_id_of.cache_info().currsize == before + kept
    assert page_features._cached_id_of.cache_info().maxsize == 65_536


@given(pages(items_max=5), st.data())
def test_a_selection_is_the_page_of_the_chosen_items(shown: Shown, data: st.DataObject) -> None:
    """Some items of a page in any order: the same bytes as if only these had been shown, statistics too."""
    words = shown.words()
    chosen = data.draw(st.lists(st.integers(0, len(shown.items) - 1), min_size=1, unique=True))
    few = Shown(shown.user, shown.attributes, shown.history, shown.context, [shown.items[i] for i in chosen])
    assert np.array_equal(select(LAYOUT, words, chosen), few.words())
    Statistics(StatisticsProgram(SPEC, LAYOUT)).fill(words, 1_000)
    picked, whole = parsed(select(LAYOUT, words, chosen).tobytes()), parsed(words.tobytes())
    assert picked.base == whole.base
    for i, position in enumerate(chosen):
        assert all(same(whole.statistics[position][k], v) for k, v in picked.statistics[i].items())


def flip(raw: bytearray, at: int, bit: int) -> None:
    """Turn one bit over."""
    raw[at % len(raw)] ^= 1 << bit


@st.composite
def mutations(draw: st.DrawFn) -> tuple[bytes, int]:
    """A sound page's bytes with some damage, and how many items the page says it has."""
    shown = draw(pages())
    raw = bytearray(shown.words().tobytes())
    heads = len(raw) if draw(st.booleans()) else min(len(raw), 80)  # offsets stand in front: hit them often
    for _ in range(draw(st.integers(0, 3))):
        match draw(st.sampled_from(["flip", "cut", "pad", "offset", "nan", "word"])):
            case "flip":
                flip(raw, draw(st.integers(0, heads)), draw(st.integers(0, 7)))
            case "cut":
                del raw[8 * draw(st.integers(0, len(raw) // 8)) :]
            case "pad":
                raw += draw(st.binary(max_size=9)) + bytes(8 * draw(st.integers(0, 2)))
            case "offset":
                at = 16 + 4 * draw(st.integers(0, 20))
                raw[at : at + 4] = struct.pack("<I", draw(st.integers(0, 12) | st.integers(0, 2**32 - 1)))
            case "nan":
                at = 4 * draw(st.integers(0, len(raw) // 4))
                raw[at : at + 4] = struct.pack("<f", draw(st.sampled_from([math.nan, math.inf, -math.inf, 3e38])))
            case _:
                at = 8 * draw(st.integers(0, len(raw) // 8))
                raw[at : at + 8] = struct.pack("<Q", draw(st.integers(0, 3) | st.integers(0, 2**64 - 1)))
        if not raw:
            break
    return bytes(raw), len(shown.items)


def sound(raw: bytes, items: int) -> bool:
    """Would a slow reader take this page?"""
    if len(raw) % 8 or len(raw) < 16 or struct.unpack_from("<2Q", raw) != (LAYOUT.hash, items):
        return False
    try:
        found = parsed(raw)
    except (ValueError, struct.error):
        return False
    tail = struct.unpack("<2f", raw[-8:])  # a word of padding may hold anything but an infinity
    floats = [*found.numbers.values(), found.base, tail[1]]
    for row in (*found.item_numbers, *found.statistics):
        floats += row.values()
    return not any(map(math.isinf, floats))


@given(mutations())
def test_a_damaged_page_is_refused_or_sound(mutated: tuple[bytes, int]) -> None:
    """Flipped, cut, padded, overwritten: words_of takes a page just when a slow reader does, and it can be encoded."""
    raw, items = mutated
    if not sound(raw, items):
        with pytest.raises(BadEvent):
            words_of(raw, LAYOUT, items)
        return
    words = words_of(raw, LAYOUT, items)
    encoder = Encoder(SPEC, LAYOUT)
    batch = one_page(words)
    assert len(encoder.wide_keys(batch).offsets) == items + 1
    numbers = encoder.deep_input(batch).numbers
    assert not np.isinf(numbers).any()
    statistics = Statistics(StatisticsProgram(SPEC, LAYOUT))
    one = np.ones(items)
    statistics.learn(batch, Outcomes(one, one, np.zeros(items, np.int64), 1_000 * one))
    assert np.isfinite(statistics.table.rows().view(np.float64)[:, 1:]).all()


def plain() -> bytes:
    """A page of two items."""
    items = [Item("a", {"tags": ["x", "y"]}), Item("b")]
    return page("u", {"likes": ["x"]}, ["a"], {}, items).tobytes()


@pytest.mark.parametrize(
    ("raw", "items", "word"),
    [
        (b"", 2, "no features"),
        (b"1234567", 2, "7 bytes"),
        (bytes(8), 2, "8 bytes"),
        (bytes(8 * 1024 * 1024 + 8), 2, "bytes are no page"),
        (bytes(16), 2, "another spec"),
        (plain(), 1, "are of 2 items, the page has 1"),
        (plain(), 3, "are of 2 items, the page has 3"),
        (plain()[:-8], 2, "truncated"),
        (plain() + bytes(8), 2, "truncated"),
        (plain()[:16], 2, "truncated"),
        (plain()[:16] + struct.pack("<I", 1) + plain()[20:], 2, "truncated"),
        (plain()[:20] + struct.pack("<I", 2**31) + plain()[24:], 2, "truncated"),
        (plain().replace(struct.pack("<Q", id_by_hand("item.id", "b")), bytes(8)), 2, "garbled"),
        (plain()[:-4] + struct.pack("<f", math.inf), 2, "infinite"),
    ],
)
def test_a_refusal_says_why(raw: bytes, items: int, word: str) -> None:
    """Nothing, too short, too long, another layout, another count, truncated, padded, garbled, infinite."""
    with pytest.raises(BadEvent, match=word):
        words_of(raw, LAYOUT, items)


def test_a_page_of_0_items_is_none() -> None:
    """Even when its words add up."""
    raw = select(LAYOUT, page("u", {}, [], {}, [Item("a")]), []).tobytes()
    with pytest.raises(BadEvent, match="0 items"):
        words_of(raw, LAYOUT, 0)


def test_lists_over_the_limit_are_cut_when_made_and_refused_when_read() -> None:
    """LIST_MAX ids of one list; a page that claims more is garbled."""
    raw = page("u", {"likes": [str(i) for i in range(1_500)]}, [], {}, [Item("a")]).tobytes()
    assert parsed(raw).lists["user.likes"] == [id_by_hand("user.likes", str(i)) for i in range(LIST_MAX)]
    words_of(raw, LAYOUT, 1)
    words = np.frombuffer(raw, np.uint64)
    likes = 4 + USER_LISTS.index("user.likes")
    heads = words.view(np.uint32)[: 4 + 6 + 4].copy()
    heads[likes + 1 : 4 + 6] += 1
    body = raw[heads.nbytes :]
    longer = heads.tobytes() + struct.pack("<Q", 1) + body
    with pytest.raises(ValueError, match="offsets"):
        parsed(longer)
    with pytest.raises(BadEvent, match="garbled"):
        words_of(longer, LAYOUT, 1)


def ids_of(**attributes: Value) -> Parsed:
    """The page of a user with these attributes."""
    return parsed(page("u", attributes, [], {}, [Item("a")]).tobytes())


@pytest.mark.parametrize(
    ("age", "band"),
    [(-1.0, "0"), (17.999, "0"), (18.0, "1"), ("18", "1"), (40.5, "2"), (99.0, "2"), ("x", None), (1e300, None)],
)
def test_a_band_begins_at_its_value(age: Value, band: str | None) -> None:
    """A number on a boundary is in the band above; what is no number, or too large for one, is in none."""
    assert ids_of(age=age).lists["user.age_band"] == ([id_by_hand("user.age_band", band)] if band else [])


@pytest.mark.parametrize(("value", "text"), [(3.0, "3"), (-0.0, "0"), (3.5, "3.5"), (1e15, "1000000000000000")])
def test_a_whole_number_as_a_category_reads_like_an_integer(value: float, text: str) -> None:
    """Languages that have only one kind of number mean the same category."""
    assert ids_of(likes=value).lists["user.likes"] == [id_by_hand("user.likes", text)]


def test_a_history_has_the_ids_of_items() -> None:
    """Newest last, the oldest cut off: what AND(installed i, shown j) crosses is the item itself."""
    found = parsed(page("u", {"history": ["no"]}, list("abcde"), {}, [Item("e")]).tobytes())
    assert found.lists["user.history"] == [id_by_hand("item.id", i) for i in "cde"]
    assert found.lists["user.history"][-1] == found.item_lists[0]["item.id"][0]


def test_the_users_name_is_its_id_whatever_the_attributes_say() -> None:
    """An attribute `id` doesn't change who the user, or which the item, is."""
    found = parsed(page("u", {"id": "other"}, [], {}, [Item("a", {"id": "other"})]).tobytes())
    assert found.lists["user.id"] == [id_by_hand("user.id", "u")]
    assert found.item_lists[0]["item.id"] == [id_by_hand("item.id", "a")]


def test_an_item_put_again_has_a_new_row_and_the_old_one_stays() -> None:
    """A page that is being ranked keeps what it began with; the next sees the new attributes."""
    catalogue = Catalogue(LAYOUT)
    user = LAYOUT.user("u", {}, [], {})
    old = catalogue.put(Item("a", {"price": 1.0, "tags": ["x"]}, "A", 5.0))
    before = build_page(LAYOUT, user, catalogue, np.array([old]))
    new = catalogue.put(Item("a", {"price": 2.0}, "A2", 1.0))
    assert new != old
    assert catalogue.rows(["a"]).tolist() == [new]
    assert np.array_equal(build_page(LAYOUT, user, catalogue, np.array([old])), before)
    now = parsed(build_page(LAYOUT, user, catalogue, np.array([new])).tobytes())
    assert now.item_numbers[0]["item.price"] == 2
    assert now.item_lists[0]["item.tags"] == []
    catalogue.put(Item("b", popularity=3.0))
    assert {*catalogue.row} == {"a", "b"}
    catalogue.remove("a")
    catalogue.remove("a")
    assert {*catalogue.row} == {"b"}
    assert np.array_equal(build_page(LAYOUT, user, catalogue, np.array([old])), before)


def test_an_unknown_item_has_its_id_and_nothing_else() -> None:
    """It can be ranked and learned before its attributes arrive; row 0 is nobody."""
    catalogue = Catalogue(LAYOUT)
    user = LAYOUT.user("u", {}, [], {})
    rows = catalogue.rows(["a", "b", "a"])
    assert rows.tolist() == [1, 2, 1]
    found = parsed(build_page(LAYOUT, user, catalogue, np.array([0, 2])).tobytes())
    assert found.item_lists[0]["item.id"] == []
    assert found.item_lists[1] == {"item.id": [id_by_hand("item.id", "b")], "item.tags": [], "item.year_band": []}
    assert all(math.isnan(v) for row in found.item_numbers for v in row.values())


def test_a_catalogue_grows() -> None:
    """Past its first thousand rows and ids, with lists longer than a doubling, every row is still its item."""
    catalogue = Catalogue(LAYOUT)
    user = LAYOUT.user("u", {}, [], {})
    items = [Item(str(i), {"tags": [f"t{i}"] * (i % 4), "price": float(i)}) for i in range(2_500)]
    items.insert(7, Item("long", {"tags": [str(i) for i in range(1_000)]}))
    for item in items:
        catalogue.put(item)
    assert len(catalogue) == 2_502
    for i in (0, 6, 7, 8, 1021, 1022, 1023, 1024, 2047, 2048, 2500):
        words = build_page(LAYOUT, user, catalogue, catalogue.rows([items[i].item]))
        held(words.tobytes(), Shown("u", {}, [], {}, [items[i]]))


@pytest.mark.parametrize(
    ("spec", "released"),
    [
        ("movielens", 0xBF2EB219396DA194),
        ("openbandit", 0xC3C1740F5B5DBDE1),
        ("paper", 0x3202AFB16D86870C),
        ("store", 0x5ACF17F2FCA07147),
    ],
)
def test_layouts_of_shipped_specs_keep_their_hash(spec: str, released: int) -> None:
    """A page that was logged by an earlier release can be read by this one: golden hashes never change."""
    assert Layout(load_spec(Path(f"specs/{spec}.toml"))).hash == released


class _Later(Statistic, frozen=True):
    """A statistic of a later release: two fields more."""

    floor: float = 0.5
    names: list[str] = msgspec.field(default_factory=list)


def test_a_later_field_counts_only_where_it_isnt_default() -> None:
    """A new defaulted field of statistics leaves every layout's hash; one that is set changes it."""

    def later(**changes: Any) -> int:
        first = SPEC.statistics.items()
        given_ = {name: _Later(**{**msgspec.structs.asdict(one), **changes}) for name, one in first}
        return Layout(msgspec.structs.replace(SPEC, statistics=given_)).hash

    assert later() == later(floor=0.5, names=[]) == LAYOUT.hash
    assert len({LAYOUT.hash, later(floor=0.25), later(names=["a"])}) == 3


def test_the_layout_tells_specs_apart() -> None:
    """Whatever changes where a column stands, or what an id or a statistic says, changes the layout.

    Names of models don't, nor what is held still when ranking: pages are logged as they were.
    """

    def changed(**changes: object) -> int:
        return Layout(msgspec.structs.replace(SPEC, **changes)).hash

    assert changed(name="other") == LAYOUT.hash
    turned = dict(reversed(SPEC.user.items()))
    few = {name: column for name, column in SPEC.item.items() if name != "price"}
    slower = {**SPEC.statistics, "seen": msgspec.structs.replace(SPEC.statistics["seen"], half_life="1h")}
    others = [{**SPEC.user, name: msgspec.structs.replace(SPEC.columns()[f"user.{name}"], **change)}
              for name, change in (("age", {"bands": [18, 41]}), ("history", {"last": 6}))]  # fmt: skip
    changes: list[dict[str, Any]] = [{"item": few}, {"statistics": slower}, *({"user": u} for u in (turned, *others))]
    hashes = [LAYOUT.hash, *(changed(**change) for change in changes)]
    assert len(set(hashes)) == len(hashes)
