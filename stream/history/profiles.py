"""A user's profile as a ranking request needs it: history and static attributes, read from Redis in one round trip."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from stream.events.codec import decode_entity
from stream.events.types import User, Value
from stream.history.histories import COMPLETE, history_key, log, marker_key
from stream.runtime.errors import BadEvent


class UserProfile(NamedTuple):
    """All installed items, newest last, and attributes; each None when unknown."""

    history: Sequence[str] | None
    attributes: Mapping[str, Value] | None


UNKNOWN: Final = UserProfile(None, None)

# KEYS: the marker, n users, n histories. Returns the values, and each history as one MessagePack array: parsed as a
# reply per item, a hundred users' histories would take 50 ms of the interpreter.
_READ: Final = """
local n, histories = (#KEYS - 1) / 2, {}
for k = 1, n do histories[k] = cmsgpack.pack(redis.call('ZRANGE', KEYS[1 + n + k], 0, -1)) end
return {redis.call('MGET', unpack(KEYS, 1, 1 + n)), histories}
"""
_history_decoder = msgspec.msgpack.Decoder(list[str])


def user_key(user: str, prefix: str = "") -> str:
    """The Redis key of a user's attributes, as a record of the topic `users`."""
    return f"{prefix}{{thalweg}}:user:{user}"


def read_profiles(client: Any, users: Sequence[str], prefix: str = "") -> dict[str, UserProfile]:
    """Profiles by user, in one round trip.

    `users` are at most 2,000, and distinct. A user without installs has an empty history only if the copy of histories
    is complete: in a Redis that was wiped and isn't rebuilt yet, it's None. `client` is a redis.Redis.

    Raises redis.RedisError.
    """
    keys = [marker_key(prefix), *(user_key(u, prefix) for u in users), *(history_key(u, prefix) for u in users)]
    (marker, *records), histories = client.register_script(_READ)(keys)
    return {
        user: UserProfile(_history(user, items, complete=marker == COMPLETE), _attributes(user, record))
        for user, record, items in zip(users, records, histories, strict=True)
    }


def _history(user: str, packed: bytes, *, complete: bool) -> list[str] | None:
    try:
        items = _history_decoder.decode(packed)
        return items if items or complete else None
    except (msgspec.MsgspecError, UnicodeDecodeError) as bad:
        log.warning("the history of user %s in Redis can't be read: %s", user, bad)
        return None


def _attributes(user: str, record: bytes | None) -> Mapping[str, Value] | None:
    if record is None:
        return None
    try:
        return decode_entity(record, User).attributes
    except BadEvent as bad:  # a later release may have written it
        log.warning("attributes of user %s in Redis can't be read: %s", user, bad)
        return None
