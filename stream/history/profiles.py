"""A user's profile as a ranking request needs it: history and static attributes, read from Redis in one round trip."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from stream.events.codec import decode_entity
from stream.events.types import User, Value
from stream.history.histories import COMPLETE, history_key, log, marker_key
from stream.runtime.errors import BadEvent


class UserProfile(NamedTuple):
    """All installed items, newest last, and attributes; each None when unknown."""

    history: Sequence[str] | None
    attributes: Mapping[str, Value] | None


UNKNOWN: Final = UserProfile(None, None)


def user_key(user: str, prefix: str = "") -> str:
    """The Redis key of a user's attributes, as a record of the topic `users`."""
    return f"{prefix}{{thalweg}}:user:{user}"


def read_profiles(client: Any, users: Sequence[str], prefix: str = "") -> dict[str, UserProfile]:
    """Profiles by user, in one round trip.

    A user without installs has an empty history only if the copy of histories is complete: in a Redis that was wiped
    and isn't rebuilt yet, it's None. `client` is a redis.Redis. Raises redis.RedisError.
    """
    with client.pipeline(transaction=False) as pipe:
        pipe.mget([marker_key(prefix), *(user_key(user, prefix) for user in users)])
        for user in users:
            pipe.zrange(history_key(user, prefix), 0, -1)
        (marker, *records), *histories = pipe.execute()
    absent: list[str] | None = [] if marker == COMPLETE else None
    return {
        user: UserProfile([item.decode("utf-8", "replace") for item in items] or absent, _attributes(user, record))
        for user, record, items in zip(users, records, histories, strict=True)
    }


def _attributes(user: str, record: bytes | None) -> Mapping[str, Value] | None:
    if record is None:
        return None
    try:
        return decode_entity(record, User).attributes
    except BadEvent as bad:  # a later release may have written it
        log.warning("attributes of user %s in Redis can't be read: %s", user, bad)
        return None
