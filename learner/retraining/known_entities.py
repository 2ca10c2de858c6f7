"""What the compacted topics say of users and items now: the values of columns that a changed spec adds."""

from collections.abc import Iterator

from stream.events.codec import decode_entity
from stream.events.topics import ITEMS, USERS
from stream.events.types import Item, User, Value
from stream.features.page_translation import Attributes
from stream.log.log_scan import read_range
from stream.log.protocol import START, Log, Record
from stream.runtime.errors import BadEvent


def read_attributes(log: Log) -> Attributes:
    """Read both topics to their ends, as of now. What is invalid there is skipped, as rankers skip it."""
    items, users = dict[str, Item](), dict[str, dict[str, Value]]()
    for record in _all_records(log, ITEMS.name):
        if record.value is None:
            items.pop((record.key or b"").decode(errors="replace"), None)
            continue
        try:
            item = decode_entity(record.value, Item)
        except BadEvent:
            continue
        items[item.item] = item
    for record in _all_records(log, USERS.name):
        if record.value is None:
            users.pop((record.key or b"").decode(errors="replace"), None)
            continue
        try:
            user = decode_entity(record.value, User)
        except BadEvent:
            continue
        users[user.user] = user.attributes
    return Attributes(lambda name: users.get(name, {}), items.get)


def _all_records(log: Log, topic: str) -> Iterator[Record]:
    ends = log.ends(topic)
    return read_range(log, topic, dict.fromkeys(ends, START), ends)
