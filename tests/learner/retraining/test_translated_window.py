"""The window under a changed spec: new statistics as of page time, new columns of what is known of users and items."""

import numpy as np
import pytest
from msgspec import structs

from learner.retraining.retraining import Retraining
from learner.retraining.translated_window import WindowTranslation
from learner.retraining.window import encoded_window
from learner.training.model import Model
from producers.features import FeatureBuilder
from stream.events.codec import decode_examples, encode_record
from stream.events.topics import EXAMPLES
from stream.events.types import Erase, Examples, Impression, Install, Item, Tick, User
from stream.features.page_features import Layout, id_of, statistics_of
from stream.features.page_translation import Attributes
from stream.features.user_rows import user_keys
from stream.log.protocol import Record
from stream.spec.spec import Spec
from stream.spec.spec_file import parse_spec

OLD = """
name = "shop"
[user]
id = "category"
[item]
id = "category"
tags = "categories"
[statistics]
rate = { kind = "rate", by = ["item.id"] }
[wide]
features = ["user.id", "item.id"]
[deep]
features = ["item.tags", "statistics.*"]
embedding_dim = 4
min_count = 2
hidden_units = [8]
[label]
policy = "POLICY"
window = "5s"
"""
ADDED = """
seen = { kind = "count", by = ["user.id"] }
last = { kind = "since", by = ["user.id"] }
taste = { kind = "residual", by = ["user.id", "item.tags"] }
alike = { kind = "likeness", by = ["user.id", "item.id"], neighbours = 5 }
"""


def spec_of(policy: str, *, added: bool, maker: bool = False) -> Spec:
    """The old spec, or one with more statistics and a column of items."""
    text = OLD.replace("POLICY", policy)
    if added:
        text = text.replace("[wide]", ADDED + "[wide]")
    if maker:
        text = text.replace('tags = "categories"', 'tags = "categories"\nmaker = "category"')
        text = text.replace('"item.id"]\n[deep]', '"item.id", "item.maker"]\n[deep]').replace(
            '["item.t', '["item.maker", "item.t'
        )
    return parse_spec(text)


def world(pages: int = 150) -> list[Impression | Install | Item | User | Tick]:
    """Pages of three items a second, installs up to four seconds later, then windows close."""
    random = np.random.default_rng(1)
    events: list[tuple[int, Impression | Install]] = []
    for n in range(pages):
        user, shown = f"u{random.integers(6)}", [f"i{i}" for i in random.choice(12, 3, replace=False)]
        time_ms = 1_000_000 + 1_000 * n
        events.append((time_ms, Impression(f"r{n}", time_ms, user, shown)))
        if random.random() < 0.6:
            late_ms = time_ms + int(random.integers(100, 4_000))
            events.append((late_ms, Install(user, shown[int(random.integers(3))], late_ms, f"n{n}", f"r{n}")))
    items = [Item(f"i{i}", {"tags": [f"t{i % 3}"], "maker": f"m{i % 4}"}) for i in range(12)]
    end = Tick(1_000_000 + 1_000 * pages + 60_000)
    return [*items, *(event for _, event in sorted(events, key=lambda of: of[0])), end]


def records_of(spec: Spec) -> list[Record]:
    """The world's records of examples, features built under this spec."""
    maker = FeatureBuilder(spec, 1)
    found = [maker.process(event).examples for event in world()]
    return [Record(EXAMPLES.name, 0, n, n, None, encode_record(one)) for n, one in enumerate(filter(None, found))]


def examples_of(records: list[Record]) -> list[Examples]:
    """All of them."""
    return [examples for record in records for examples in decode_examples(record.value or b"")[0]]


@pytest.mark.parametrize("policy", ["eager", "wait", "fake_negative"])
def test_new_statistics_are_those_that_would_have_been_logged(policy: str) -> None:
    """As of page time, from the labels emitted until then: nearly all are equal, and none knows its own labels.

    When a positive was emitted isn't in the log; so a page may lack what was emitted just before it was shown. And it
    has the windows that had closed by then, though the joiner noticed when the page came.
    """
    old, new = spec_of(policy, added=False), spec_of(policy, added=True)
    logged, wanted = records_of(old), records_of(new)
    live = Model(old)
    made = WindowTranslation(new, [old]).translate(logged, live)
    layout = Layout(new)
    pairs = [
        (statistics_of(layout, np.frombuffer(one.page.features, np.uint64)),
         statistics_of(layout, np.frombuffer(other.page.features, np.uint64)))
        for one, other in zip(examples_of(made), examples_of(wanted), strict=True)
    ]  # fmt: skip
    ours, theirs = (np.array([pair[k][1:] for pair in pairs]).reshape(-1, 5) for k in (0, 1))
    np.testing.assert_array_equal(ours[:, 0], theirs[:, 0])  # logged
    counts = np.expm1(ours[:, 1]).round(), np.expm1(theirs[:, 1]).round()
    assert (counts[0] == counts[1]).mean() > 0.7
    assert np.abs(counts[1] - counts[0]).max() <= 3, "one page's labels, which closed as this one was shown"
    for k in (2, 3, 4):
        same = np.isclose(ours[:, k], theirs[:, k], rtol=1e-5, equal_nan=True)
        assert same[counts[0] == counts[1]].mean() > 0.5, k
    for one in examples_of(made):
        first = next(e for e in examples_of(made) if e.page.request_id == one.page.request_id)
        assert one.page.features == first.page.features, "one page, one set of statistics"


def test_a_new_model_has_the_new_statistics_rows() -> None:
    """And those that the live one has; it reads pages of either spec."""
    old, new = spec_of("eager", added=False), spec_of("eager", added=True)
    logged = records_of(old)
    live = Model(old)
    for chunk in live.record_encoder.records(logged):
        for r in range(len(chunk)):
            live.learn_records(chunk, r, r + 1)
    translation = WindowTranslation(new, [old])
    retraining = Retraining.begin(
        live, new, lambda model: encoded_window(model, translation.translate(logged, live, model))
    )
    model, rows = retraining.new, live.statistics.table.rows()
    np.testing.assert_array_equal(model.statistics.table.rows_of(rows[:, 0].copy()), rows)
    assert len(model.statistics.table) > len(rows)
    assert len(model.statistics.likenesses) > 20
    before = model.examples
    for record in records_of(old)[-5:]:
        events = decode_examples(record.value or b"")[0]
        model.learn([structs.replace(e, ids=[i ^ 5 for i in e.ids]) for e in events], record.offset)
    assert model.examples > before
    assert model.rejected == []


def test_statistics_of_an_erased_user_do_not_come_back() -> None:
    """Those that a spec adds are replayed up to the erasure and from it on: others' rows are as without it."""
    old, new = spec_of("eager", added=False), spec_of("eager", added=True)
    logged, models = records_of(old), list[Model]()
    erasure = Record(EXAMPLES.name, 0, len(logged), 0, None, encode_record([Erase("u3", 1)]))
    for window in (logged, [*logged, erasure], [*logged[:80], erasure, *logged[80:]]):
        live, model = Model(old), Model(new, previous=[old])
        WindowTranslation(new, [old]).translate(window, live, model)
        models.append(model)
    whole, erased, back = models
    user_id = np.uint64(id_of(whole.layout.seeds["user.id"], "u3"))
    others = np.unique(np.concatenate([np.frombuffer(e.page.features, np.uint64) for e in examples_of(logged)]))
    keys = [keys for _, keys in user_keys(whole.statistics.program.crosses, whole.layout, user_id, others)]
    every = np.concatenate(keys)
    own = every[whole.statistics.table.contains(every)]
    assert len(own) > 3
    assert not erased.statistics.table.contains(own).any()
    assert back.statistics.table.contains(own).sum() > 0, "what came later is of a new user"
    rows = whole.statistics.table.rows()
    rest = rows[~np.isin(rows[:, 0], own)]
    np.testing.assert_array_equal(erased.statistics.table.rows_of(rest[:, 0].copy()), rest)
    assert len(whole.statistics.likenesses) > len(erased.statistics.likenesses) > 0


def test_a_new_column_comes_from_what_is_known_of_the_items() -> None:
    """Word by word the page that would have been logged."""
    old, new = spec_of("eager", added=False), spec_of("eager", added=False, maker=True)
    items = {event.item: event for event in world() if isinstance(event, Item)}
    known = Attributes(lambda user: {}, items.get)
    made = WindowTranslation(new, [old], known).translate(records_of(old), Model(old))
    assert [one.page.features for one in examples_of(made)] == [
        one.page.features for one in examples_of(records_of(new))
    ]


def test_an_unchanged_spec_needs_no_translation() -> None:
    """The records are the same ones; so are pages that are of the new layout already."""
    old = spec_of("eager", added=False)
    logged = records_of(old)
    assert WindowTranslation(old, []).translate(logged, Model(old)) == logged
    new = spec_of("eager", added=True)
    assert WindowTranslation(new, [old]).translate(records_of(new), Model(old)) == records_of(new)
