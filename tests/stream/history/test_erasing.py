"""Erased users' installs: gone from the topic and from Redis, also after a restart or a restored backup."""

import math
from collections.abc import Iterator

import pytest
import redis

from stream.events.codec import decode_entity, encode
from stream.events.topics import ERASED, HISTORIES, NAMES, USERS, USERS_DLQ
from stream.events.types import Erase, FeatureName, User
from stream.features.new_values import USER_ID, NewValues, name_key
from stream.features.page_features import Layout
from stream.history.erasing import erase_in_topic, erase_names_and_dead_letters, read_erased
from stream.history.histories import COMPLETE, decode_changes, history_key, marker_key
from stream.history.history_writer import HistoryWriter
from stream.joiner.labels import HistoryChange
from stream.joiner.output_records import history_record, ledger_record
from stream.log.dead_letters import dead_letter
from stream.log.memory_log import MemoryLog
from stream.log.protocol import START, Record
from stream.spec.spec_file import parse_spec
from tests.support.redis_histories import read_histories
from tests.support.waiting import wait_until

NAMED = """
name = "m"
user = { id = "category", plan = "category" }
item = { id = "category" }
context = { device = "category" }
wide.features = ["user.id", "user.plan", "context.device"]
deep.features = ["context.device"]
"""


@pytest.fixture
def log() -> MemoryLog:
    """Of two partitions: u has a, b and c; v has a."""
    made = MemoryLog({HISTORIES.name: 2, ERASED.name: 1, USERS_DLQ.name: 1}, lambda: 1)
    for user, item, time_ms in (("u", "a", 1), ("v", "a", 1), ("u", "b", 5), ("u", "c", 9), ("u", "a", 2)):
        made.send(*history_record(HistoryChange(user, item, time_ms), 2))
    return made


def living(log: MemoryLog) -> dict[tuple[str, str], int | None]:
    """The newest record of each key, as compaction leaves it."""
    return decode_changes(log.reader(HISTORIES.name, {0: START, 1: START}).poll(0.0, 1_000))


def test_installs_up_to_the_time_become_tombstones(log: MemoryLog) -> None:
    """Later ones and other users' stay; to do it again changes nothing."""
    for written in (2, 0):
        assert erase_in_topic(log, {"u": 5, "nobody": 9}) == written
        assert living(log) == {("u", "a"): None, ("u", "b"): None, ("u", "c"): 9, ("v", "a"): 1}


def test_who_installed_the_item_again_keeps_it(log: MemoryLog) -> None:
    """An old record before the new one isn't reason enough for a tombstone."""
    log.send(*history_record(HistoryChange("u", "a", 20), 2))
    erase_in_topic(log, {"u": 5})
    assert living(log)["u", "a"] == 20


def test_the_ledger_has_the_latest_time_of_each_user(log: MemoryLog) -> None:
    """Its records are those of the joiner, none of which replaces another time's; invalid ones are passed over, an
    older stack has none."""
    written = [ledger_record(Erase(user, time_ms)) for user, time_ms in (("u", 5), ("v", 7), ("u", 3))]
    assert len({one.key for one in written}) == 3
    for one in written:
        log.send(*one)
    log.send(ERASED.name, 0, b"\xc1", b"k")
    assert read_erased(log) == {"u": 5, "v": 7}
    assert read_erased(MemoryLog({HISTORIES.name: 1}, lambda: 1)) == {}


def test_dead_letters_of_users_become_tombstones() -> None:
    """They don't expire. Those of others, and bytes that aren't a user's, stay; to do it again changes nothing."""
    now, dlq = [1], MemoryLog({USERS_DLQ.name: 1}, lambda: now[0])
    dead_letters = [
        encode(User("u", {"age": math.nan})),
        encode(User("v", {"age": math.nan})),
        b"\xc1u",
        b"\x93\x08\xa1u\xc1",
    ]
    for offset, raw in enumerate([*dead_letters, dead_letters[0]]):
        now[0] = 9 * (offset == 4) + 1
        made = dead_letter(raw, "BadEvent", "why", Record(USERS.name, 0, offset, 1, None, b""))
        dlq.send(made.topic, made.partition, made.value, made.key)
    for written in (2, 0):
        assert erase_names_and_dead_letters(dlq, {"u": 5, "nobody": 9}) == written
        records = dlq.reader(USERS_DLQ.name, {0: START}).poll(0.0, 100)
        assert {record.key for record in records if record.value is None} == {b"0/0", b"0/3"}


def test_an_id_that_requests_named_becomes_a_tombstone() -> None:
    """Of a user whom nobody described; what others are called, and values that only look like the id, stay."""
    now = [1]
    values, log = NewValues(lambda: now[0]), MemoryLog({NAMES.name: 1, USERS_DLQ.name: 1}, lambda: now[0])
    layout = Layout(parse_spec(NAMED))
    for user in ("u", "v", "back"):
        values.note(layout, {"device": "u"}, {"plan": "u"}, user)
    for key, value in values.take():
        log.send(NAMES.name, 0, value, key)
    now[0] = 6  # a ranker had noted it before, and writes it now
    log.send(NAMES.name, 0, encode(FeatureName(USER_ID, "u")), name_key(USER_ID, "u"))
    now[0] = 20_000
    log.send(NAMES.name, 0, encode(FeatureName(USER_ID, "back")), name_key(USER_ID, "back"))
    for written in (1, 0):
        assert erase_names_and_dead_letters(log, {"u": 5, "back": 5}) == written
    newest = {record.key: record.value for record in log.reader(NAMES.name, {0: START}).poll(0.0, 100)}
    found = [decode_entity(value, FeatureName) for value in newest.values() if value is not None]
    assert {(one.column, one.text) for one in found} == {
        ("context.device", "u"), ("user.plan", "u"), ("user.id", "v"), ("user.id", "back")
    }  # fmt: skip


@pytest.fixture
def writer(cache: redis.Redis, topic_prefix: str, log: MemoryLog) -> Iterator[HistoryWriter]:
    """One that has copied the log."""
    made = HistoryWriter(cache, topic_prefix, lambda: log)
    wait_until(lambda: cache.get(marker_key(topic_prefix)) == COMPLETE)
    yield made
    made.close(10)


def test_redis_and_the_topic_are_erased_while_a_joiner_runs(
    cache: redis.Redis, topic_prefix: str, log: MemoryLog, writer: HistoryWriter
) -> None:
    """Also what waits to be written."""
    writer.put("u", "d", 4)
    writer.erase("u", 5)
    wait_until(lambda: living(log)["u", "b"] is None)
    wait_until(lambda: read_histories(cache, ["u", "v"], 9, topic_prefix) == {"u": ["c"], "v": ["a"]})


def test_a_start_erases_what_the_ledger_says(cache: redis.Redis, topic_prefix: str, log: MemoryLog) -> None:
    """A process was killed before it did, or a backup brought topic and Redis back."""
    cache.zadd(history_key("u", topic_prefix), {"a": 1, "b": 5})
    log.send(ERASED.name, 0, encode(Erase("u", 5)), b"u")
    writer = HistoryWriter(cache, topic_prefix, lambda: log)
    wait_until(lambda: living(log)["u", "a"] is None)
    writer.close(10)
    assert read_histories(cache, ["u", "v"], 9, topic_prefix) == {"u": ["c"], "v": ["a"]}
    assert living(log) == {("u", "a"): None, ("u", "b"): None, ("u", "c"): 9, ("v", "a"): 1}
