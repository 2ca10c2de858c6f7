"""Grants in a broker with an authorizer, and what its log says of who did what."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourcePattern, ResourceType

from stream.log.kafka_client import client_options
from stream.runtime.settings import Settings
from thalweg.views.acls import Grant

_LINE: Final = re.compile(
    r"Principal = User:(\S+) is (Allowed|Denied) operation = (\S+) .* on resource = (\w+):\w+:(\S+) for request = (\w+)"
)


class Decision(NamedTuple):
    """Something that a user was allowed or denied."""

    user: str
    operation: str  # as Kafka writes it: DESCRIBE_CONFIGS
    kind: str  # Topic, Group, Cluster
    name: str


def bindings(user: str, grants: Iterable[Grant]) -> list[ACL]:
    """The grants as Kafka's own."""
    return [
        ACL(
            f"User:{user}", "*", ACLOperation[operation_of(operation)], ACLPermissionType.ALLOW,
            ResourcePattern(
                ResourceType[grant.kind.upper()], grant.name,
                ACLResourcePatternType.PREFIXED if grant.prefixed else ACLResourcePatternType.LITERAL,
            ),
        )
        for grant in grants
        for operation in grant.operations
    ]  # fmt: skip


def operation_of(operation: str) -> str:
    """As Kafka writes it.

    >>> operation_of("DescribeConfigs")
    'DESCRIBE_CONFIGS'
    """
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", operation).upper()


def allow(admin_address: str, user: str, grants: Iterable[Grant]) -> None:
    """Add these, by the superuser."""
    with KafkaAdminClient(**client_options(Settings(kafka=admin_address))) as admin:
        done: Any = admin.create_acls(bindings(user, grants))
        assert not done["failed"], done


def decisions(log: Path, outcome: str) -> dict[Decision, str]:
    """Every decision of this outcome, Allowed or Denied, with a request for which it was made; not the superuser's."""
    found = (_LINE.search(line) for line in log.read_text().splitlines())
    return {
        Decision(one[1], one[3], one[4], one[5]): one[6]
        for one in found
        if one and one[2] == outcome and one[1] != "ANONYMOUS"
    }
