"""What a person decides about which version is served, beside pinning one by its number."""

from stream.runtime.errors import BadSnapshot
from stream.snapshots.redis_store import RedisStore


def roll_back(store: RedisStore) -> tuple[int, int]:
    """Pin the version before the one that is served; returns both, the one that was served first.

    Raises BadSnapshot when there is none before it, StoreUnavailable.
    """
    served = store.decision().version
    if not served:
        head = store.head()
        served = head.version if head else 0
    if not served:
        raise BadSnapshot(f"nothing of {store.model} is published yet")
    older = [version for version in store.versions() if version < served]
    if not older:
        raise BadSnapshot(f"nothing older than version {served} is kept: `thalweg snapshots ls` lists what is")
    store.pin(older[-1])
    return served, older[-1]
