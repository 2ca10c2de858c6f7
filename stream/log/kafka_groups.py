"""Consumer groups as Kafka knows them: their commits and members."""

import time
from collections.abc import Callable
from typing import Any, Final

from kafka import errors

from stream.log.kafka_client import REQUEST_S, admin_client
from stream.runtime.settings import Settings

ELECTING: Final = (
    errors.NotCoordinatorError, errors.CoordinatorNotAvailableError, errors.CoordinatorLoadInProgressError,
)  # fmt: skip


def group_commits(settings: Settings, group: str, topic: str) -> dict[int, tuple[int, str]]:
    """The commits of a consumer group in a topic: offset and metadata by partition; empty if there are none.

    Names without prefix. Raises LogUnavailable, LogError.
    """
    with admin_client(settings, f"asking for the commits of {group}") as admin:
        found = _elected(lambda: admin.list_group_offsets([settings.topic(group)]))
    return {
        at.partition: (stored.offset, stored.metadata or "")
        for of_group in found.values()
        for at, stored in of_group.items()
        if at.topic == settings.topic(topic) and stored.offset >= 0
    }


def group_clients(settings: Settings, group: str) -> list[str]:
    """The client ids of a group's members. The name is without prefix. Raises LogUnavailable, LogError."""
    name = settings.topic(group)
    with admin_client(settings, f"asking for the members of {group}") as admin:
        found = _elected(lambda: admin.describe_groups([name]))
    return [member["client_id"] for member in found[name]["members"]]


def _elected(ask: Callable[[], Any]) -> Any:
    """The answer of a group's coordinator, once there's one: a broker has just started, or it's the first group."""
    give_up_s = time.monotonic() + REQUEST_S
    while True:
        try:
            return ask()
        except ELECTING:
            if time.monotonic() > give_up_s:
                raise
            time.sleep(0.1)
