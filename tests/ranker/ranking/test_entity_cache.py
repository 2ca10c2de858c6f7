"""Items in memory, read from their compacted topic."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from prometheus_client import REGISTRY

from ranker.ranking import entity_cache
from ranker.ranking.entity_cache import EntityCache, ItemConsumer
from ranker.retrieval.sweep import PoolBuilder
from stream.events.codec import decode_entity, encode
from stream.events.topics import ITEMS, ITEMS_DLQ
from stream.events.types import DeadLetter, Item, User
from stream.features.page_features import Layout
from stream.log.memory_log import MemoryLog
from stream.log.protocol import START
from stream.runtime.errors import LogUnavailable
from tests.support.random_models import items, some_spec
from thalweg.views.dead_letters import read_dead_letters


@pytest.fixture
def log() -> MemoryLog:
    """The topic, empty."""
    return MemoryLog({ITEMS.name: 2}, lambda: 1)


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    """Set when the test ends."""
    event = threading.Event()
    yield event
    event.set()


def put(log: MemoryLog, *items: Item) -> None:
    """Write items as producers do."""
    for n, item in enumerate(items):
        log.send(ITEMS.name, n % 2, encode(item), item.item.encode())


def layout() -> Layout:
    """The layout of a toy spec."""
    return Layout(some_spec(np.random.default_rng(5), ["wide"]))


def test_the_newest_of_each_entity_is_known_when_ready(log: MemoryLog, stop: threading.Event) -> None:
    """`ready` means read to the end as of start: replaced entities are replaced, taken-back ones are gone."""
    put(log, Item("a"), Item("b"), Item("c"))
    log.send(ITEMS.name, 0, encode(Item("a", title="new")), b"a")
    log.send(ITEMS.name, 1, None, b"b")
    cache = EntityCache()
    consumer = ItemConsumer(log, [cache])
    threading.Thread(target=consumer.run, args=(stop,), daemon=True).start()
    assert consumer.ready.wait(20)
    assert {name: item.title for name, item in cache.items.items()} == {"a": "new", "c": ""}


def test_models_share_the_items(log: MemoryLog, stop: threading.Event) -> None:
    """The topic is read and decoded once, however many models rank its items."""
    put(log, Item("a"), Item("b"))
    log.send(ITEMS.name, 1, None, b"b")
    caches = [EntityCache(), EntityCache()]
    consumer = ItemConsumer(log, caches)
    threading.Thread(target=consumer.run, args=(stop,), daemon=True).start()
    assert consumer.ready.wait(20)
    assert [list(cache.items) for cache in caches] == [["a"], ["a"]]
    assert caches[0].items["a"] is caches[1].items["a"]


def by_popularity(cache: EntityCache) -> list[str]:
    """Known items in the order in which they're retrieved without a model."""
    return [*PoolBuilder().rebuild(None, cache.columns).orders["popular"]]


def test_items_that_were_only_shown_come_last() -> None:
    """Described ones first, statically most popular first; of those that were shown, what nobody described, once."""
    cache = EntityCache()
    for item in (Item("a", popularity=1.0), Item("b", popularity=2.0)):
        cache.put(item.item, item)
    cache.set_shown(("a", "x", "y"))
    assert by_popularity(cache) == ["b", "a", "x", "y"]
    cache.put("x", Item("x", popularity=3.0))
    assert by_popularity(cache) == ["x", "b", "a", "y"]
    cache.set_shown(("z",))
    assert by_popularity(cache) == ["x", "b", "a", "z"]


def test_what_was_taken_back_isnt_known_though_it_was_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where it was never described, until it's described again. The last names are remembered, no others."""
    monkeypatch.setattr(entity_cache, "TOMBSTONES_MAX", 2)
    cache = EntityCache()
    cache.put("a", Item("a"))
    cache.set_shown(("a", "x"))
    for name in ("a", "x"):
        cache.put(name, None)
    assert (by_popularity(cache), cache.is_deleted("a"), cache.is_deleted("x")) == ([], True, True)
    cache.put("a", Item("a"))
    assert (by_popularity(cache), cache.is_deleted("a")) == (["a"], False)
    for name in ("x", "b", "c"):
        cache.put(name, None)
    assert [cache.is_deleted(name) for name in ("x", "b", "c")] == [False, True, True]


class Shaky(MemoryLog):
    """A log that is unavailable the first two times that it is opened."""

    opened = 0

    def again(self) -> "Shaky":
        """Open it."""
        self.opened += 1
        if self.opened < 3:
            raise LogUnavailable("no broker")
        return self


def test_bad_records_become_dead_letters(stop: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Undecodable bytes and wrong types, each with its reason and offset; valid records are cached."""
    monkeypatch.setattr(entity_cache, "RETRY_S", 0.01)
    shaky = Shaky({ITEMS.name: 2, ITEMS_DLQ.name: 1}, lambda: 1)
    put(shaky, Item("a"), Item("b"))
    shaky.send(ITEMS.name, 1, b"\xc1", b"x")
    shaky.send(ITEMS.name, 0, encode(User("u")), b"y")
    shaky.send(ITEMS.name, 0, None, b"\xff")
    shaky.send(ITEMS.name, 0, encode(Item("c")), b"c")
    cache = EntityCache()
    consumer = ItemConsumer(shaky, [cache], shaky.again)
    threading.Thread(target=consumer.run, args=(stop,), daemon=True).start()
    assert consumer.ready.wait(20)
    end = time.monotonic() + 20
    while shaky.ends(ITEMS_DLQ.name) != {0: 3}:
        assert time.monotonic() < end
        time.sleep(0.01)
    records = shaky.reader(ITEMS_DLQ.name, {0: 0}).poll(0)
    dead_letters = {record.key: decode_entity(record.value or b"", DeadLetter) for record in records}
    assert {key: (one.original, one.topic) for key, one in dead_letters.items()} == {
        b"1/1": (b"\xc1", "items"), b"0/1": (encode(User("u")), "items"), b"0/2": (b"", "items"),
    }  # fmt: skip
    assert "not a Item" in dead_letters[b"1/1"].message
    assert set(cache.items) == {"a", "b", "c"}


def test_dead_letters_of_several_rankers_are_one(stop: threading.Event) -> None:
    """Two rankers, one of them started twice, meet the same bad record: copies have one key, and count once."""
    log = MemoryLog({ITEMS.name: 2, ITEMS_DLQ.name: 1}, lambda: 1)
    log.send(ITEMS.name, 1, b"\xc1", b"x")
    for copies in (1, 2, 3):
        threading.Thread(target=ItemConsumer(log, [EntityCache()], lambda: log).run, args=(stop,), daemon=True).start()
        end = time.monotonic() + 20
        while log.ends(ITEMS_DLQ.name) != {0: copies}:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert {record.key for record in log.reader(ITEMS_DLQ.name, {0: 0}).poll(0)} == {b"1/0"}
    assert len(read_dead_letters(log, ITEMS.name)) == 1


def test_dead_letters_that_cannot_be_written_stop_nothing(log: MemoryLog, stop: threading.Event) -> None:
    """Without a topic for dead letters (no `thalweg apply-topics` since) the rest is read on."""
    log.send(ITEMS.name, 1, b"\xc1", b"x")
    cache = EntityCache()
    consumer = ItemConsumer(log, [cache], lambda: log)
    threading.Thread(target=consumer.run, args=(stop,), daemon=True).start()
    assert consumer.ready.wait(20)
    put(log, Item("a"))
    end = time.monotonic() + 20
    while "a" not in cache.items:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_empty_topics_are_read_at_once(log: MemoryLog, stop: threading.Event) -> None:
    """A topic without records doesn't keep a ranker from being ready."""
    consumer = ItemConsumer(log, [EntityCache()])
    threading.Thread(target=consumer.run, args=(stop,), daemon=True).start()
    assert consumer.ready.wait(20)


def test_a_catalogue_is_kept_up_to_date() -> None:
    """Items put or taken back after a catalogue was made are so in it; the same layout gets the same catalogue."""
    cache = EntityCache()
    for item in items(3):
        cache.put(item.item, item)
    catalogue = cache.catalogue(layout())
    cache.put("x", Item("x"))
    cache.put("i1", None)
    assert cache.catalogue(layout()) is catalogue
    assert set(catalogue.row) == {"i0", "i2", "x"}


def test_rows_that_nobody_needs_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaced items don't fill memory for ever: the catalogue is rebuilt without them."""
    monkeypatch.setattr(entity_cache, "STALE_ROWS_MAX", 10)
    cache = EntityCache()
    for item in items(3):
        cache.put(item.item, item)
    first = cache.catalogue(layout())
    for n in range(20):
        cache.put("i1", Item("i1", title=f"title {n}"))
    second = cache.catalogue(layout())
    assert second is not first
    assert set(second.row) == {"i0", "i1", "i2"}


def test_items_read_again_cost_nothing() -> None:
    """An item that is written as it was keeps its row."""
    cache = EntityCache()
    cache.put("a", Item("a", {"year": 1.0}))
    catalogue = cache.catalogue(layout())
    row = catalogue.row["a"]
    cache.put("a", Item("a", {"year": 1.0}))
    assert catalogue.row["a"] == row
    cache.put("a", Item("a", {"year": 2.0}))
    assert catalogue.row["a"] != row


def test_the_lag_of_items_is_known() -> None:
    """Records that aren't read yet, and how old the oldest of them is at most; 0 once all are read."""
    first, second = 70, 71  # of these no other test's consumer, which may still run, sets the gauges
    log = MemoryLog({ITEMS.name: 72}, lambda: 1)

    def put_into(partition: int, *names: str) -> None:
        for name in names:
            log.send(ITEMS.name, partition, encode(Item(name)), name.encode())

    put_into(first, "a", "c")
    put_into(second, "b")
    now_ms = 10_000
    consumer = ItemConsumer(log, [EntityCache()], now_ms=lambda: now_ms)
    reader = log.reader(ITEMS.name, {first: START, second: START})

    def lag(unit: str) -> list[float | None]:
        consumer._observe_lag(reader)
        name = f"thalweg_ranker_item_lag_{unit}"
        return [REGISTRY.get_sample_value(name, {"partition": str(partition)}) for partition in (first, second)]

    now_ms = 14_000
    assert (lag("records"), lag("seconds")) == ([2, 1], [4, 4])
    consumer._poll(reader, {first: 2, second: 1})
    assert (lag("records"), lag("seconds")) == ([0, 0], [0, 0])
    now_ms = 20_000
    put_into(first, "d")
    assert (lag("records"), lag("seconds")) == ([1, 0], [6, 0])
