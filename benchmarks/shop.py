"""A made-up shop for `wide`: pages of 10 items with 47 features each, as record bytes and as what peers read."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from stream.events.codec import encode_record, example_id
from stream.events.types import INSTALLED, WINDOW_CLOSED, Examples, Impression, Item
from stream.features.encoder import WideKeys
from stream.features.page_features import Catalogue, Layout, build_page
from stream.spec.spec import Spec
from stream.spec.spec_file import parse_spec

ITEMS_PER_PAGE = 10
PAGES_PER_RECORD = 64
USERS, ITEMS = 6_000, 2_000

SPEC = """
name = "shop"
parts = ["wide"]
[user]
id = "category"
country = "category"
device = "category"
language = "category"
gender = "category"
age = "category"
history = { of = "item.id", last = 5 }
[item]
id = "category"
kind = "category"
maker = "category"
price = "category"
size = "category"
stars = "category"
tags = "categories"
[context]
hour = "category"
weekday = "category"
slot = "category"
[wide]
alpha = 0.05
l1 = 0.5
l2 = 1.0
features = ["user.id", "user.country", "user.device", "user.language", "user.gender", "user.age", "context.hour",
            "context.weekday", "context.slot", "item.id", "item.kind", "item.maker", "item.price", "item.size",
            "item.stars", "item.tags"]
crosses = [
  ["user.history", "item.id"], ["user.id", "item.kind"], ["user.id", "item.maker"], ["user.id", "item.tags"],
  ["user.country", "item.id"], ["user.device", "item.id"], ["user.language", "item.id"], ["user.gender", "item.id"],
  ["user.age", "item.id"], ["context.hour", "item.id"], ["context.weekday", "item.id"], ["context.slot", "item.id"],
  ["user.country", "item.kind"], ["user.device", "item.kind"], ["user.age", "item.kind"], ["user.gender", "item.kind"],
  ["context.hour", "item.kind"], ["user.country", "item.maker"], ["user.gender", "item.maker"],
  ["user.age", "item.tags"],
]
"""


def shop_spec() -> Spec:
    """46 features an item and the bias."""
    return parse_spec(SPEC)


def examples_of(spec: Spec, pages: int, seed: int) -> Iterator[Examples]:
    """Labelled pages: users uniform, items by a power law, one in ten is installed."""
    random = np.random.default_rng(3)  # the shop is the same whatever the seed
    layout = Layout(spec)
    catalogue = Catalogue(layout)
    for i in range(ITEMS):
        kinds = ("kind", 40), ("maker", 300), ("price", 20), ("size", 20), ("stars", 10)
        attributes = {name: f"{name}{random.integers(count)}" for name, count in kinds}
        tags = [f"tag{t}" for t in random.choice(100, 3, replace=False)]
        catalogue.put(Item(f"i{i}", {**attributes, "tags": tags}))
    fields = ("country", 40), ("device", 15), ("language", 20), ("gender", 3), ("age", 8)
    users = [{name: f"{name}{random.integers(count)}" for name, count in fields} for _ in range(USERS)]
    histories = [[f"i{int(i)}" for i in random.integers(0, ITEMS, 5)] for _ in range(USERS)]
    random = np.random.default_rng(seed)
    for n in range(pages):
        user = int(random.integers(USERS))
        shown = np.unique((ITEMS * random.random(4 * ITEMS_PER_PAGE) ** 2).astype(np.int64))
        names = [f"i{i}" for i in random.permutation(shown)[:ITEMS_PER_PAGE]]
        context = {"hour": f"{n // 300 % 24}", "weekday": f"{n // 7_200 % 7}", "slot": f"{random.integers(6)}"}
        columns = layout.user(f"u{user}", users[user], histories[user], context)
        words = build_page(layout, columns, catalogue, catalogue.rows(names))
        labels = [int(label) for label in random.random(ITEMS_PER_PAGE) < 0.1]
        reasons = [INSTALLED if label else WINDOW_CLOSED for label in labels]
        page = Impression(f"{seed}-{n}", 1_000_000 + n, f"u{user}", names, features=words.tobytes())
        ids = [example_id(page.request_id, p, reason, "") for p, reason in enumerate(reasons)]
        yield Examples(page, ids, list(range(ITEMS_PER_PAGE)), labels, [1.0] * len(ids), reasons, [n + 1] * len(ids))


def records_of(spec: Spec, pages: int, seed: int) -> list[list[Examples]]:
    """Some pages a record."""
    made = list(examples_of(spec, pages, seed))
    return [made[i : i + PAGES_PER_RECORD] for i in range(0, pages, PAGES_PER_RECORD)]


def raw_of(records: Sequence[Sequence[Examples]]) -> list[bytes]:
    """Their bytes."""
    return [encode_record(record) for record in records]


def names_of(keys: WideKeys) -> list[list[str]]:
    """Each example's features but the bias by names of 9 characters: the same ones for all peers."""
    cut = (keys.keys >> np.uint64(28)).tolist()
    ends = keys.offsets.tolist()
    return [[f"{key:09x}" for key in cut[a : b - 1]] for a, b in pairwise(ends)]


def write_text(path: Path, names: Sequence[Sequence[str]], labels: Sequence[float], times: int) -> None:
    """Vowpal Wabbit's text, repeated; its constant is the bias."""
    lines = [
        f"{1 if label > 0.5 else -1} |f {' '.join(example)}\n" for example, label in zip(names, labels, strict=True)
    ]
    with path.open("w") as file:
        for _ in range(times):
            file.writelines(lines)
