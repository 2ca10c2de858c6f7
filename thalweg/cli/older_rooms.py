"""Which rooms ran an earlier release when they were last seen: an upgrade isn't finalized under them."""

from contextlib import closing

from stream.events.topics import EVENTS
from stream.joiner.commit_metadata import decode_commit
from stream.log.kafka_groups import group_clients, group_commits
from stream.runtime.formats import CLIENT, LEVEL, is_earlier
from stream.runtime.settings import Settings
from stream.snapshots.manifest import BUILD_LEVEL
from stream.snapshots.redis_store import RedisStore
from thalweg.audit.committed_rules import GROUP


def older_rooms(settings: Settings) -> list[str]:
    """One text each; rooms of the models that joiners have named in their commits.

    A joiner of this release commits when it starts, a learner publishes, and a ranker is a member of its group: so it
    sees rooms on all machines, and what ran last where none runs. Without THALWEG_REDIS it doesn't see learners.
    Raises LogUnavailable, LogError, StoreUnavailable, BadSnapshot.
    """
    commits = {p: decode_commit(*stored) for p, stored in group_commits(settings, GROUP, EVENTS.name).items()}
    partitions = sorted(p for p, commit in commits.items() if is_earlier(commit.release))
    found = [f"the joiner of partitions {', '.join(map(str, partitions))} of events"] if partitions else []
    for model in sorted({commit.model for commit in commits.values()} - {""}):
        found += [f"the learner of {model}"] if _learner_is_older(settings, model) else []
        clients = group_clients(settings, f"ranker-{model}")
        if older := sum(not client.startswith(CLIENT) or is_earlier(client.removeprefix(CLIENT)) for client in clients):
            found.append(f"{older} of {len(clients)} rankers of {model}")
    return found


def _learner_is_older(settings: Settings, model: str) -> bool:
    if not settings.redis:
        return False
    with closing(RedisStore(settings, model)) as store:
        head = store.head()
        return head is not None and store.manifest(head.version).metrics.get(BUILD_LEVEL, 0.0) < LEVEL
