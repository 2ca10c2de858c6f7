"""What the compacted topics say of users and items, for columns that a changed spec adds."""

from learner.retraining.known_entities import read_attributes
from stream.events.codec import encode
from stream.events.topics import ITEMS, USERS
from stream.events.types import Item, User
from stream.log.memory_log import MemoryLog


def test_the_newest_record_counts_and_a_tombstone_removes() -> None:
    """Whether compaction has been there or not: an erased user's attributes don't come back."""
    log = MemoryLog({ITEMS.name: 1, USERS.name: 1}, lambda: 1)
    for age in (30.0, 31.0):
        for user in "uv":
            log.send(USERS.name, 0, encode(User(user, {"age": age})), user.encode())
    log.send(USERS.name, 0, b"\xc1", b"w")
    log.send(USERS.name, 0, None, b"u")
    for item in "ij":
        log.send(ITEMS.name, 0, encode(Item(item, {"price": 1.0})), item.encode())
    log.send(ITEMS.name, 0, None, b"i")
    found = read_attributes(log)
    assert [found.user(user) for user in "uvw"] == [{}, {"age": 31.0}, {}]
    assert [found.item(item) for item in "ij"] == [None, Item("j", {"price": 1.0})]
