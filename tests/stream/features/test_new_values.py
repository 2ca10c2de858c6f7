"""Which values of requests are named, and when again."""

import pytest

from stream.events.codec import decode_entity
from stream.events.types import FeatureName
from stream.features import new_values
from stream.features.new_values import NewValues
from stream.features.page_features import Layout, id_of
from stream.spec.spec_file import parse_spec

LAYOUT = Layout(
    parse_spec("""
name = "m"
user = { id = "category", country = "category", likes = "categories", age = "number" }
item = { id = "category" }
context = { device = "category", hour = { type = "number", bands = [6, 18] }, price = "number" }
deep.features = ["context.device", "context.hour", "context.price", "user.country", "user.likes", "user.age"]
wide.features = ["context.hour_band"]
""")
)


class Clock:
    """Its time is set by hand."""

    now_ms = 0

    def __call__(self) -> int:
        """The time."""
        return self.now_ms


def taken(values: NewValues) -> list[tuple[str, str]]:
    """Columns and texts; each key is the id that features have."""
    found = []
    for key, value in values.take():
        named = decode_entity(value, FeatureName)
        assert int(key, 16) == id_of(LAYOUT.seeds[named.column], named.text)
        found.append((named.column, named.text))
    return found


def test_a_value_is_named_once() -> None:
    """Categories of the context, of given attributes, and the user who isn't described; numbers and others aren't."""
    values = NewValues(Clock())
    for _ in range(3):
        values.note(LAYOUT, {"device": "phone", "hour": 7.0, "price": 1.5, "query": "x"})
        values.note(LAYOUT, {"device": "tv"}, {"country": "fr", "likes": ["a", "b"], "age": 30.0, "shoe": "x"}, "ann")
    assert taken(values) == [
        ("context.device", "phone"), ("context.device", "tv"), ("user.country", "fr"), ("user.likes", "a"),
        ("user.likes", "b"), ("user.id", "ann"),
    ]  # fmt: skip
    assert taken(values) == []


def test_texts_are_those_that_are_hashed() -> None:
    """A whole number reads like an integer; an empty text is a missing value; what is longer than an id has no name."""
    values = NewValues(Clock())
    values.note(LAYOUT, {"device": 3.0})
    values.note(LAYOUT, {"device": ""})
    values.note(LAYOUT, {"device": "é" * 129})
    assert taken(values) == [("context.device", "3")]


def test_a_value_in_use_is_named_again_after_a_day() -> None:
    """The topic's records expire; whatever requests still have is written again before."""
    clock = Clock()
    values = NewValues(clock)
    values.note(LAYOUT, {"device": "phone"})
    clock.now_ms = new_values.FORGET_MS - 1
    assert taken(values) == [("context.device", "phone")]
    clock.now_ms += 1
    assert taken(values) == []
    values.note(LAYOUT, {"device": "phone"})
    assert taken(values) == [("context.device", "phone")]


def test_a_column_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it a column's values aren't named until the next day; other columns' are."""
    monkeypatch.setattr(new_values, "COLUMN_MAX", 5)
    values = NewValues(Clock())
    for n in range(20):
        values.note(LAYOUT, {"device": f"d{n}"})
    values.note(LAYOUT, {}, user="ann")
    assert taken(values) == [*(("context.device", f"d{n}") for n in range(5)), ("user.id", "ann")]
