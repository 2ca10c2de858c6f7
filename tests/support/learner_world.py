"""A small made-up world for the learner's tests: a spec that uses everything, and records of examples."""

import numpy as np

from stream.events.codec import example_id
from stream.events.types import INSTALLED, WINDOW_CLOSED, Examples, Impression, Item, Value
from stream.features.page_features import Catalogue, Layout, build_page
from stream.features.statistics import Statistics, StatisticsProgram
from stream.spec.spec import Spec
from stream.spec.spec_file import parse_spec

SPEC = """
name = "small"
[user]
id = "category"
age = { type = "number", bands = [20, 40] }
history = { of = "item.id", last = 5 }
[item]
id = "category"
tags = "categories"
price = "number"
[context]
position = { type = "number", serve_as = 1 }
[statistics]
rate = { kind = "rate", by = ["item.id"] }
seen = { kind = "count", by = ["user.id"] }
last = { kind = "since", by = ["user.id"] }
taste = { kind = "residual", by = ["user.id", "item.tags"], half_life = "1h" }
alike = { kind = "affinity", of = "item.id", to = "user.history" }
[wide]
alpha = 0.1
l1 = 0.1
features = ["user.id", "item.id"]
crosses = [["user.history", "item.id"], { of = ["user.age_band", "item.tags"], alpha = 0.2 }]
[deep]
features = ["user.id", "user.history", "item.id", "item.tags", "user.age", "item.price",
            "context.position", "statistics.*"]
embedding_dim = 4
min_count = 2
quantiles = 8
hidden_units = [8, 4]
micro_batch = 4
warm_start = { every = 300, window = 200 }
[label]
window = "2s"
[publish]
gate = { holdout = 0.0 }
"""


def small_spec(**changes: str) -> Spec:
    """The small spec; each change replaces a text in it."""
    text = SPEC
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return parse_spec(text)


def records(spec: Spec, pages: int, seed: int = 0, per_record: int = 3, items: int = 3) -> list[list[Examples]]:
    """`pages` pages of `items` items by 20 users over 30 items, labels that depend on user and item."""
    random = np.random.default_rng(seed)
    layout = Layout(spec)
    catalogue = Catalogue(layout)
    for i in range(30):
        tags = [f"t{i % 3}", f"t{3 + i % 2}"][: 1 + i % 2]
        catalogue.put(Item(f"i{i}", {"tags": tags, "price": float(i)} if i % 7 else {"tags": tags}))
    statistics = Statistics(StatisticsProgram(spec, layout))
    everything = np.array(
        [[0, 0, 0, 0]], np.uint64
    )  # the base rate is known, 7 of 20: pages of before any label are few
    everything[0, 0], everything.view(np.float64)[0, 1:] = statistics.program.base_key, (18.0, 6.0, 1.0)
    statistics.table.put(everything)
    made: list[Examples] = []
    for n in range(pages):
        user = int(random.integers(20))
        shown = [int(i) for i in random.choice(30, items, replace=False)]
        time_ms = 1_000_000 + 10_000 * n
        names = [f"i{i}" for i in shown]
        context: dict[str, Value] = {"device": f"d{n % 3}", "hour": float(7 * n % 24)}
        history = [f"i{(user * k) % 30}" for k in range(user % 7)]
        columns = layout.user(f"u{user}", {"age": 15.0 + 2 * user}, history, context)
        words = build_page(layout, columns, catalogue, catalogue.rows(names))
        statistics.fill(words, time_ms)
        page = Impression(f"r{n}", time_ms, f"u{user}", names, features=words.tobytes())
        labels = [int(random.random() < 0.15 + 0.6 * ((i + user) % 3 == 0)) for i in shown]
        reasons = [INSTALLED if label else WINDOW_CLOSED for label in labels]
        ids = [example_id(f"r{n}", p, reasons[p], "") for p in range(items)]
        made.append(Examples(page, ids, list(range(items)), labels, [1.0] * items, reasons, [time_ms + 5] * items))
    return [made[i : i + per_record] for i in range(0, pages, per_record)]
