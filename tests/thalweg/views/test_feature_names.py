"""Names for hashed keys."""

import numpy as np

from stream.events.codec import encode
from stream.events.topics import ITEMS, NAMES, USERS
from stream.events.types import FeatureName, Item, User
from stream.features.encoder import Encoder, one_page
from stream.features.page_features import Catalogue, Layout, build_page
from stream.log.memory_log import MemoryLog
from stream.spec.spec_file import parse_spec
from thalweg.views.feature_names import FeatureNames

SPEC = parse_spec("""
name = "m"
[user]
id = "category"
age = { type = "number", bands = [18, 40] }
history = { of = "item.id", last = 5 }
[item]
id = "category"
tags = "categories"
[context]
device = "category"
[wide]
features = ["user.id", "context.device", "user.age_band"]
crosses = [["user.history", "item.id"], ["user.id", "item.tags", "user.age_band"]]
[deep]
features = ["item.tags"]
""")


def test_every_known_key_gets_its_name() -> None:
    """Keys of a page are named by the values that made them: of items, of users, and of requests."""
    layout = Layout(SPEC)
    encoder, catalogue = Encoder(SPEC, layout), Catalogue(layout)
    log = MemoryLog({ITEMS.name: 1, USERS.name: 1, NAMES.name: 1}, lambda: 1)
    for item in (Item("a", {"tags": ["x"]}, "Aye"), Item("b", {"tags": ["y", "z"]})):
        catalogue.put(item)
        log.send(ITEMS.name, 0, encode(item), item.item.encode())
    log.send(ITEMS.name, 0, b"\xff", b"broken")
    log.send(USERS.name, 0, encode(User("u", {"age": 30.0})), b"u")
    log.send(NAMES.name, 0, encode(FeatureName("context.device", "phone")), b"k")
    erased = encode(User("erased", {"age": 50.0})), encode(FeatureName("user.id", "erased"))
    for topic, value in zip((USERS.name, NAMES.name), erased, strict=True):
        log.send(topic, 0, value, b"erased")
        log.send(topic, 0, None, b"erased")
    user = layout.user("u", {"age": 30.0}, ["a"], {"device": "phone"})
    keys = encoder.wide_keys(one_page(build_page(layout, user, catalogue, catalogue.rows(["b"])))).keys
    names = FeatureNames.read(log, layout)
    assert set(names.values["user.id"].values()) == {"u"}
    assert names.of_keys(encoder, keys) == dict(zip(keys.tolist(), [
        "user.id=u",
        "context.device=phone",
        "user.age_band=[18, 40)",
        "user.history=a Aye x item.id=b",
        "user.id=u x item.tags=y x user.age_band=[18, 40)",
        "user.id=u x item.tags=z x user.age_band=[18, 40)",
        "bias",
    ], strict=True))  # fmt: skip


def test_built_in_columns_are_named_too() -> None:
    """The newest of a history is an item; hours and weekdays are known, and so are the bands of a date."""
    text = """
name = "m"
user = { id = "category", history = { of = "item.id" } }
item = { id = "category", made = { type = "date", bands = [7] } }
wide.crosses = [["user.history.newest", "item.id"], ["page.hour", "page.weekday"], ["item.made_band"]]
deep.features = ["item.made"]
"""
    layout = Layout(parse_spec(text))
    names, encoder, catalogue = FeatureNames(layout), Encoder(parse_spec(text), layout), Catalogue(layout)
    for item in (Item("a", {}, "Aye"), Item("b", {"made": "1970-01-01"})):
        catalogue.put(item)
        names.add_item(item)
    words = build_page(layout, layout.user("u", {}, ["b", "a"], {}), catalogue, catalogue.rows(["b"]), 700_000_000)
    keys = encoder.wide_keys(one_page(words)).keys
    assert [*names.of_keys(encoder, keys).values()] == [
        "user.history.newest=a Aye x item.id=b", "page.hour=2 x page.weekday=4", "item.made_band=[7, )", "bias"
    ]  # fmt: skip


def test_unknown_values_leave_the_name_of_the_cross() -> None:
    """Where no values are known, a key is named by its cross alone."""
    layout = Layout(SPEC)
    keys = np.array([4], np.uint64)  # of the fourth cross
    assert FeatureNames(layout).of_keys(Encoder(SPEC, layout), keys) == {4: "user.history x item.id = ?"}
