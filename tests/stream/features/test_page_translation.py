"""Pages logged under one spec, in the layout of another: equal to those that the other would have built."""

from collections.abc import Mapping

import msgspec
import numpy as np
import pytest

from stream.events.types import Impression, Item, Value
from stream.features.page_features import Catalogue, Layout, build_page
from stream.features.page_kernels import open_page
from stream.features.page_translation import Attributes, PageTranslator
from stream.runtime.errors import BadEvent
from stream.spec.spec import Spec
from stream.spec.spec_file import parse_spec
from stream.tables.dtypes import U64

OLD = """
name = "shop"
[user]
id = "category"
age = { type = "number", bands = [18, 40] }
history = { of = "item.id", last = 4 }
[item]
id = "category"
tags = "categories"
price = "number"
[context]
device = "category"
[statistics]
rate = { kind = "rate", by = ["item.id"] }
seen = { kind = "count", by = ["user.id"] }
[wide]
features = ["user.id", "user.age_band", "item.tags", "context.device"]
[deep]
features = ["user.history", "item.price", "statistics.*"]
"""
ITEMS = {
    "a": Item("a", {"tags": ["x", "y"], "price": 3.0, "maker": "m1", "released": "2020-01-01"}),
    "b": Item("b", {"tags": [], "price": 9.5, "maker": "m2"}),
    "c": Item("c", {"maker": "m1", "released": "2021-06-01"}),
}
USERS: Mapping[str, dict[str, Value]] = {"u": {"age": 33.0, "city": "Rome"}}
KNOWN = Attributes(lambda user: USERS.get(user, {}), ITEMS.get)
TIME_MS = 1_700_000_000_000


def page_of(spec: Spec, context: Mapping[str, str | float], items: list[str]) -> U64:
    """A page as a ranker builds it, with made-up statistics."""
    layout = Layout(spec)
    catalogue = Catalogue(layout)
    for item in ITEMS.values():
        catalogue.put(item)
    user = layout.user("u", USERS["u"], ["a", "b", "c", "a", "b"][-layout.history_last :], context)
    words = build_page(layout, user, catalogue, catalogue.rows(items), TIME_MS)
    page = open_page(words, layout.size_array)
    page.f32[page.at.base_rate] = 0.25
    for position in range(len(items)):
        for k, name in enumerate(layout.statistics):
            value = {"rate": 0.5 + position, "seen": 7.0}.get(name, np.nan)
            page.f32[page.at.statistics + position * page.at.sizes.statistics + k] = value
    return words


def logged(words: U64, context: dict[str, str | float], items: list[str]) -> Impression:
    """The page as it was logged."""
    return Impression("r", TIME_MS, "u", items, features=words.tobytes(), context=context)


CHANGES = {
    "nothing": (),
    "a user's column": ('id = "category"\nage', 'id = "category"\ncity = "category"\nage'),
    "an item's columns": ('price = "number"', 'maker = "category"\nprice = "number"\nreleased = "date"'),
    "a context's column": ('device = "category"', 'device = "category"\nhour = "number"'),
    "a dropped column": ('tags = "categories"\n', "", '"item.tags", ', ""),
    "another order": ('tags = "categories"\nprice = "number"', 'price = "number"\ntags = "categories"'),
    "bands of a user's number": ("bands = [18, 40]", "bands = [30, 33, 50]"),
    "bands of an item's number": ('price = "number"', 'price = { type = "number", bands = [5] }'),
    "built-in columns": (
        '["user.history", "item.price"',
        '["user.history", "page.hour", "item.price.rank", "item.price"',
    ),
    "the newest of a history": ('["user.history"', '["user.history.newest", "user.history"'),
    "a shorter history": ("last = 4", "last = 2"),
    "a dropped statistic": ('rate = { kind = "rate", by = ["item.id"] }\n', ""),
    "an added statistic": ("[statistics]\n", '[statistics]\nlast = { kind = "since", by = ["user.id"] }\n'),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_translated_page_is_the_one_that_the_new_spec_builds(change: str) -> None:
    """Word by word, with what is known of its user and items besides."""
    text = OLD
    for there, other in zip(CHANGES[change][::2], CHANGES[change][1::2], strict=True):
        assert there in text
        text = text.replace(there, other)
    old, new = parse_spec(OLD), parse_spec(text)
    context: dict[str, str | float] = {"device": "phone", "hour": 17.0}
    for items in (["a", "b", "c"], ["c"], ["unknown", "a"]):
        made = PageTranslator(old, new, KNOWN).translate(logged(page_of(old, context, items), context, items))
        np.testing.assert_array_equal(made, page_of(new, context, items))


def test_what_is_not_known_is_missing() -> None:
    """New columns without a value; a number's bands come from the page itself."""
    new = parse_spec(
        OLD.replace("bands = [18, 40]", "bands = [30]").replace(
            'tags = "c', 'maker = "category"\nsize = "number"\ntags = "c'
        )
    )
    made = PageTranslator(parse_spec(OLD), new).translate(
        logged(page_of(parse_spec(OLD), {}, ["a", "b"]), {}, ["a", "b"])
    )
    layout = Layout(new)
    page = open_page(made, layout.size_array)
    band, maker = layout.user_lists.index("user.age_band"), layout.item_lists.index("item.maker")
    assert page.w32[page.at.user_offsets + band + 1] - page.w32[page.at.user_offsets + band] == 1
    assert page.w32[page.at.item_offsets + maker + 1] == page.w32[page.at.item_offsets + maker]
    assert np.isnan(page.f32[page.at.item_numbers + layout.item_numbers.index("item.size")])


def test_a_page_that_isnt_of_the_old_spec_is_rejected() -> None:
    """As the learner would reject it."""
    old, new = parse_spec(OLD), parse_spec(OLD.replace("last = 4", "last = 3"))
    words = page_of(old, {}, ["a", "b"])
    page = logged(words, {}, ["a", "b"])
    for features in (b"", words.tobytes()[:-8], page_of(new, {}, ["a", "b"]).tobytes()):
        with pytest.raises(BadEvent):
            PageTranslator(old, new).translate(msgspec.structs.replace(page, features=features))
