"""Erasing a user and retiring an item by a file of events."""

import pytest

from producers.features import FeatureBuilder
from producers.json_lines import decode_line
from producers.source import SourceElement
from stream.events.topics import TOPICS
from stream.events.types import Erase, Impression, Install, Item, RetiredItem, User
from stream.log.memory_log import MemoryLog
from stream.runtime.errors import MissingTopic
from tests.producers.test_replay import PARTITIONS, memory, play, records, written
from tests.support.producer_worlds import tiny_spec

T = 1_700_000_000_000


def test_lines_erase_a_user_and_retire_an_item() -> None:
    """The event goes to the user's partition; both attributes become tombstones, behind what describes them."""
    lines = (
        b'{"type":"item","item":"tea"}', b'{"type":"user","user":"ann","attributes":{"age":34}}',
        b'{"type":"retire","item":"tea"}', b'{"type":"erase","user":"ann","time_ms":1700000000000}',
    )  # fmt: skip
    events: list[SourceElement] = [decode_line(line) for line in lines]
    assert events[2:] == [RetiredItem("tea"), Erase("ann", T)]
    log = memory()
    played = play(log, events).played
    assert (played.items, played.users, played.retired, played.erased, played.installs) == (1, 1, 1, 1, 0)
    assert [event for some in written(log).values() for event in some if isinstance(event, Erase)] == [Erase("ann", T)]
    for topic, key in (("items", b"tea"), ("users", b"ann")):
        assert [(record.key, bool(record.value)) for record in records(log, topic)] == [(key, True), (key, False)]


def test_nobody_is_erased_where_the_ledger_is_missing() -> None:
    """In a deployment that an earlier release made: the replay ends, and says what to do."""
    log = MemoryLog({topic.name: topic.partitions or PARTITIONS for topic in TOPICS if topic.level == 1}, lambda: 7)
    with pytest.raises(MissingTopic, match="--finalize"):
        play(log, [Install("u", "a", T, "1"), Erase("u", T + 1)])
    assert not [event for some in written(log).values() for event in some if isinstance(event, Erase)]


def test_pages_after_an_erasure_have_no_history_or_attributes() -> None:
    """As a ranker would log them: but of what the user installed later."""
    features = FeatureBuilder(tiny_spec(), PARTITIONS)
    fresh = FeatureBuilder(tiny_spec(), PARTITIONS)
    for event in (User("u", {"age": 40.0}), Install("u", "a", T, "1"), Erase("u", T + 1)):
        features.process(event)
    for builder in (features, fresh):
        builder.process(Install("u", "b", T + 5, "2"))
    page = Impression("r", T + 9, "u", ["a", "c"])
    assert features.process(page).event == fresh.process(page).event


def test_pages_after_a_retirement_do_not_know_the_item() -> None:
    """As a ranker would log them: of an item with a tombstone there is the id alone."""
    pages = [Impression("r", T, "u", ["tea", "milk"]), Impression("s", T + 9, "u", ["tea", "milk"])]
    item = Item("tea", {"genres": ["x", "y"]})
    logs = [memory() for _ in range(2)]
    play(logs[0], [item, pages[0], RetiredItem("tea"), pages[1]])
    play(logs[1], [pages[1]])
    last = [
        next(event.features for some in written(log).values() for event in some if isinstance(event, Impression)
             and event.request_id == "s")
        for log in logs
    ]  # fmt: skip
    assert last[0] == last[1]
    assert last[0]
