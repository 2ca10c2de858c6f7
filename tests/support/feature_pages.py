"""Pages for the tests of features, encoder and statistics: a spec that uses everything, a slow reader of the bytes."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import xxhash
from hypothesis import strategies as st

from stream.events.types import Item, Value
from stream.features.page_features import Catalogue, Layout, build_page
from stream.spec.spec_file import parse_spec
from stream.tables.dtypes import U64

SPEC = parse_spec("""
name = "everything"
[user]
id = "category"
age = { type = "number", bands = [18, 40.5] }
likes = "categories"
history = { of = "item.id", last = 3 }
[item]
id = "category"
tags = "categories"
price = "number"
year = { type = "number", bands = [2000] }
[context]
device = "category"
hour = "number"
position = { type = "number", serve_as = 2 }
[statistics]
item_rate = { kind = "rate", by = ["item.id"], prior = 5 }
pair_rate = { kind = "rate", by = ["user.age_band", "item.tags"], prior = 2, half_life = "1m" }
seen = { kind = "count", by = ["user.id"] }
faded = { kind = "count", by = ["item.tags"], half_life = "10s" }
last = { kind = "since", by = ["user.id", "item.tags"] }
taste = { kind = "residual", by = ["user.likes", "item.id"], prior = 3 }
trend = { kind = "residual", by = ["context.device"], half_life = "30s" }
alike = { kind = "affinity", of = "item.id", to = "user.history", prior = 1, neighbours = 2 }
[wide]
features = ["user.id", "item.tags", "context.device"]
crosses = [["user.history", "item.id"], ["user.likes", "item.tags", "item.year_band"], ["item.tags", "user.age_band"]]
[deep]
features = ["item.price", "user.likes", "context.position", "item.tags", "user.age", "item.id", "statistics.seen",
            "user.history", "context.hour", "item.year", "statistics.alike"]
""")
USER_LISTS = ("user.id", "user.age_band", "user.likes", "user.history", "context.device")
ITEM_LISTS = ("item.id", "item.tags", "item.year_band")
USER_NUMBERS = ("user.age", "context.hour")
ITEM_NUMBERS = ("item.price", "item.year")
LAYOUT = Layout(SPEC)


def id_by_hand(column: str, text: str) -> int:
    """An id, by the documented definition."""
    seed = xxhash.xxh3_64_intdigest(("item.id" if column == "user.history" else column).encode())
    return xxhash.xxh3_64_intdigest(text.encode(), seed)


@dataclass(frozen=True)
class Parsed:
    """A page as a slow reader sees it; lists and numbers by column, an item's at its position."""

    layout: int
    lists: dict[str, list[int]]  # the user's
    item_lists: list[dict[str, list[int]]]
    numbers: dict[str, float]
    base: float
    item_numbers: list[dict[str, float]]
    statistics: list[dict[str, float]]

    def column(self, name: str, position: int) -> list[int]:
        """A list as it is for the item at position."""
        return self.lists[name] if name in self.lists else self.item_lists[position][name]


def parsed(raw: bytes) -> Parsed:
    """Read a page of LAYOUT by its documentation. Raises ValueError or struct.error when it isn't sound."""
    layout, n = struct.unpack_from("<2Q", raw)
    users, width = len(USER_LISTS), len(ITEM_LISTS)
    if len(raw) < 16 + 4 * (users + 1 + n * width + 1):
        raise ValueError("cut off")
    heads = struct.unpack_from(f"<{users + 1 + n * width + 1}I", raw, 16)
    user_ends, item_ends = heads[: users + 1], heads[users + 1 :]
    for ends in (user_ends, item_ends):
        sizes = [high - low for low, high in pairwise(ends)]
        if ends[0] or min(sizes, default=0) < 0 or max(sizes, default=0) > 1000:
            raise ValueError("offsets")
    at = 16 + 4 * (len(heads) + len(heads) % 2)
    ids = struct.unpack_from(f"<{user_ends[-1] + item_ends[-1]}Q", raw, at)
    if 0 in ids:
        raise ValueError("an id of 0")
    at += 8 * len(ids)
    count = len(USER_NUMBERS) + 1 + n * (len(ITEM_NUMBERS) + len(SPEC.statistics))
    floats = struct.unpack_from(f"<{count}f", raw, at)
    if at + 4 * (count + count % 2) != len(raw):
        raise ValueError("length")
    item_ids = ids[user_ends[-1] :]
    item_lists = [
        {name: list(item_ids[item_ends[i * width + f] : item_ends[i * width + f + 1]])
         for f, name in enumerate(ITEM_LISTS)}
        for i in range(n)
    ]  # fmt: skip
    user_numbers = dict(zip(USER_NUMBERS, floats, strict=False))
    base, rest = floats[len(USER_NUMBERS)], floats[len(USER_NUMBERS) + 1 :]
    of_items = [dict(zip(ITEM_NUMBERS, rest[i * 2 :], strict=False)) for i in range(n)]
    rest, s = rest[2 * n :], len(SPEC.statistics)
    statistics = [dict(zip(SPEC.statistics, rest[i * s :], strict=False)) for i in range(n)]
    lists = {name: list(ids[user_ends[i] : user_ends[i + 1]]) for i, name in enumerate(USER_LISTS)}
    return Parsed(layout, lists, item_lists, user_numbers, base, of_items, statistics)


@dataclass(frozen=True)
class Shown:
    """What a page is made of."""

    user: str
    attributes: dict[str, Value]
    history: list[str]
    context: dict[str, Value]
    items: list[Item]

    def words(self) -> U64:
        """The page, its statistics not yet filled."""
        return page(self.user, self.attributes, self.history, self.context, self.items)


def page(
    user: str, attributes: Mapping[str, Value], history: Sequence[str], context: Mapping[str, Value], items: list[Item]
) -> U64:
    """A page of these items."""
    catalogue = Catalogue(LAYOUT)
    for item in items:
        catalogue.put(item)
    columns = LAYOUT.user(user, attributes, history, context)
    return build_page(LAYOUT, columns, catalogue, catalogue.rows([item.item for item in items]))


def some(**values: Any) -> "st.SearchStrategy[dict[str, Any]]":
    """Dictionaries that have some of these keys."""
    return st.fixed_dictionaries({}, optional=values)


names = st.sampled_from(["a", "b", "c", "7", "ü"])
texts = names | st.text(max_size=3)
values = st.floats(-100, 3000, width=32) | texts | st.floats(allow_nan=False, allow_infinity=False)
attributes = some(age=values, likes=st.lists(texts, max_size=4) | texts, other=texts)
contexts = some(device=texts | st.floats(0, 9).map(round).map(float), hour=values)
item_attributes = some(tags=st.lists(texts, max_size=3) | texts, price=values, year=values)
users = st.sampled_from(["u", "v", "w"])


@st.composite
def pages(draw: st.DrawFn, items_max: int = 4) -> Shown:
    """Pages of any content, over few names, so that they meet again."""
    shown = draw(st.lists(names, min_size=1, max_size=items_max, unique=True))
    items = [Item(name, draw(item_attributes)) for name in shown]
    return Shown(draw(users), draw(attributes), draw(st.lists(names, max_size=5)), draw(contexts), items)
