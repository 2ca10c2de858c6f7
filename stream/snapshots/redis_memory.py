"""Whether a Redis has memory for a model's versions, and keeps what was written."""

from contextlib import closing
from typing import Final

from stream.runtime.errors import SettingsError, SnapshotError
from stream.runtime.memory import MB
from stream.runtime.settings import Settings
from stream.snapshots.part_sizes import base_bytes_of
from stream.snapshots.redis_client import RedisMemory, connect, key_prefix, memory_of
from stream.spec.spec import Spec

BASES: Final = 3  # full bases: the live one, the next one, and that of what is pinned
KEEPING: Final = "noeviction"


def redis_memory(settings: Settings, model: str) -> RedisMemory | None:
    """Of the Redis that has this model; None: it doesn't answer, or doesn't say."""
    try:
        with closing(connect(settings)) as client:
            return memory_of(client, key_prefix(settings, model))
    except (SettingsError, SnapshotError):
        return None


def redis_problem(memory: RedisMemory, spec: Spec | None = None) -> str:
    """What is wrong with it, and what to do; empty: nothing. Users and histories aren't counted."""
    if memory.most and memory.policy != KEEPING:
        return (
            f"maxmemory-policy is {memory.policy}: it may evict a blob of the live version, which rankers can't load "
            f"then; set it to {KEEPING}, old versions are dropped by the learner"
        )
    wanted = BASES * base_bytes_of(spec) if spec else 0
    if 0 < memory.most < wanted:
        return (
            f"maxmemory is {memory.most // MB} MB, and by the spec's bounds {BASES} bases of the model take "
            f"{wanted // MB}: raise it, or lower the bounds"
        )
    return ""
