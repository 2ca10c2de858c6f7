"""Users' histories as Redis has them."""

from collections.abc import Sequence
from typing import Any

from stream.history.histories import history_key


def read_histories(client: Any, users: Sequence[str], last: int, prefix: str = "") -> dict[str, list[str]]:
    """The `last` newest items of each user, newest last, in one round trip; users without any have an empty list.

    `client` is a redis.Redis. Raises redis.RedisError.
    """
    if not users or last <= 0:
        return {user: [] for user in users}
    with client.pipeline(transaction=False) as pipe:
        for user in users:
            pipe.zrange(history_key(user, prefix), -last, -1)
        found = pipe.execute()
    return {user: [item.decode("utf-8", "replace") for item in items] for user, items in zip(users, found, strict=True)}
