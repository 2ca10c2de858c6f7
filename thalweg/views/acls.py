"""Kafka's grants by role: `thalweg acls` prints them as commands, `python -m thalweg.views.acls` writes docs/acls.md.

A test applies them to a broker with an authorizer, and runs each room with its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from stream.events.topics import (
    ERASED,
    EVENTS,
    EVENTS_DLQ,
    EXAMPLES,
    EXAMPLES_DLQ,
    FORMATS,
    HISTORIES,
    ITEMS,
    ITEMS_DLQ,
    NAMES,
    ORGANIC,
    REPLIES,
    REQUESTS,
    REQUESTS_DLQ,
    USERS,
    USERS_DLQ,
    Topic,
)
from stream.runtime.errors import SettingsError
from stream.runtime.settings import Settings

Operation = Literal["Read", "Write", "Create", "Delete", "Alter", "Describe", "DescribeConfigs", "AlterConfigs"]
ALL: Final = "*"
CLUSTER: Final = "kafka-cluster"  # its name in Kafka's own table
MODEL: Final = "MODEL"  # in names of groups


@dataclass(frozen=True)
class Role:
    """What a room, or a program that talks to rooms, does in Kafka. Read and Write include Describe.

    `described`: topics whose groups' offsets it looks at; `groups` it joins, or stores offsets for; `seen` it looks at.
    """

    what: str
    reads: tuple[Topic, ...] = ()
    writes: tuple[Topic, ...] = ()
    configs: tuple[Topic, ...] = ()
    described: tuple[Topic, ...] = ()
    groups: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    everything: bool = False


class Grant(NamedTuple):
    """Operations on one topic or group, on all whose names begin so (`prefixed`), or on the cluster."""

    kind: Literal["topic", "group", "cluster"]
    name: str
    operations: tuple[Operation, ...]
    prefixed: bool = False


ROLES: Final = {
    "joiner": Role(
        "`thalweg run joiner`",
        reads=(EVENTS, USERS, HISTORIES, ERASED, NAMES, USERS_DLQ),
        writes=(EVENTS, EXAMPLES, ORGANIC, HISTORIES, ERASED, NAMES, EVENTS_DLQ, USERS_DLQ),
        configs=(EVENTS,),
        groups=("joiner", "joiner-progress"),
    ),
    "learner": Role(
        "`thalweg run learner`, `retrain`, `evolve`",
        reads=(EXAMPLES, FORMATS, ITEMS, USERS),
        writes=(EXAMPLES_DLQ, ERASED),
        described=(EVENTS,),
        groups=(f"learner-{MODEL}",),
        seen=("joiner",),
    ),
    "ranker": Role(
        "`thalweg run ranker`, also over HTTP; topics of THALWEG_REPLY_TOPICS are written, too",
        reads=(REQUESTS, ITEMS, ERASED),
        writes=(REPLIES, NAMES, REQUESTS_DLQ, ITEMS_DLQ, EVENTS, ITEMS, USERS),
        groups=(f"ranker-{MODEL}",),
    ),
    "producer": Role(
        "who shows pages: writes what happened; `thalweg replay`, `send-install`",
        writes=(EVENTS, ITEMS, USERS, NAMES),
        described=(ERASED,),
    ),
    "caller": Role("who asks for rankings over Kafka: `thalweg rank`", reads=(REPLIES,), writes=(REQUESTS,)),
    "operator": Role(
        "`thalweg apply-topics`, `status`, `console`, `audit`, `trace`, `dlq`, `erase`, `rebuild`, `export`",
        everything=True,
    ),
}


def grants(role: str, settings: Settings, model: str) -> list[Grant]:
    """What a role needs. Raises SettingsError where there's no such role."""
    if role not in ROLES:
        raise SettingsError(f"there is no role {role!r}: {', '.join(ROLES)} are the roles")
    needs = ROLES[role]
    if needs.everything:
        operations: tuple[Operation, ...] = (
            "Read", "Write", "Create", "Delete", "Alter", "Describe", "DescribeConfigs", "AlterConfigs",
        )  # fmt: skip
        name, prefixed = settings.topic_prefix or ALL, bool(settings.topic_prefix)
        return [
            Grant("cluster", CLUSTER, ("Describe",)),  # how many brokers there are
            Grant("topic", name, operations, prefixed),
            Grant("group", name, ("Read", "Describe"), prefixed),
        ]
    topics: dict[str, list[Operation]] = {}
    operations_of: tuple[tuple[Operation, tuple[Topic, ...]], ...] = (
        ("Read", needs.reads), ("Write", needs.writes), ("DescribeConfigs", needs.configs),
        ("Describe", needs.described),
    )  # fmt: skip
    for operation, some in operations_of:
        for topic in some:
            topics.setdefault(settings.topic(topic.name), []).append(operation)
    found = [Grant("topic", name, tuple(topics[name])) for name in sorted(topics)]
    for operation, groups in (("Read", needs.groups), ("Describe", needs.seen)):
        found += [Grant("group", settings.topic(group.replace(MODEL, model)), (operation,)) for group in groups]
    return found


def commands(role: str, settings: Settings, model: str, principal: str) -> Iterator[str]:
    """A role's grants as lines of kafka-acls. Raises SettingsError."""
    for grant in grants(role, settings, model):
        operations = " ".join(f"--operation {operation}" for operation in grant.operations)
        resource = "--cluster" if grant.kind == "cluster" else f"--{grant.kind} '{grant.name}'"
        pattern = " --resource-pattern-type prefixed" if grant.prefixed else ""
        yield (
            f"kafka-acls --bootstrap-server {settings.brokers()[0]} --add --allow-principal '{principal}' "
            f"{operations} {resource}{pattern}"
        )


HEAD: Final = """# Who may do what in Kafka
What each room needs on a broker with an authorizer (`StandardAuthorizer`, `allow.everyone.if.no.acl.found=false`), and
no more: a test runs each with its own row, and looks in the broker's log for what was denied, and which grants weren't
used (a learner's `items` and `users`, which only `thalweg evolve` reads). `thalweg acls joiner` prints a row as
`kafka-acls` commands, with the topic prefix and the model's name of the settings, for `User:joiner` or another
`--principal`. Read and Write include Describe. Nobody uses transactional ids, and idempotent producers need no grant
but Write. How rooms log in: [clusters.md](clusters.md). This page is written by
`python -m thalweg.views.acls > docs/acls.md`.

"""


def page() -> str:
    """docs/acls.md."""
    parts = [HEAD]
    settings = Settings(topic_prefix="")
    for role, needs in ROLES.items():
        parts.append(f"## {role}\n{needs.what}.\n\n| | name | operations |\n|---|---|---|\n")
        for grant in grants(role, settings, MODEL):
            name = "all, or those that begin with THALWEG_TOPIC_PREFIX" if grant.name == ALL else f"`{grant.name}`"
            parts.append(f"| {grant.kind} | {name} | {', '.join(grant.operations)} |\n")
        parts.append("\n")
    return "".join(parts).rstrip("\n") + "\n"


if __name__ == "__main__":
    print(page(), end="")
