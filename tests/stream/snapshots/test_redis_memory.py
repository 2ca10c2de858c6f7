"""Whether a Redis has memory for a model's versions."""

from pathlib import Path

from stream.runtime.memory import MB
from stream.snapshots.part_sizes import base_bytes_of
from stream.snapshots.redis_client import RedisMemory
from stream.snapshots.redis_memory import BASES, redis_problem
from stream.spec.spec_file import load_spec

SPEC = load_spec(Path("specs/store.toml"))


def test_a_redis_that_evicts_is_found() -> None:
    """An evicted blob makes a version unreadable; without a limit nothing is evicted."""
    assert "set it to noeviction" in redis_problem(RedisMemory(0, 10**12, "allkeys-lru"), SPEC)
    assert redis_problem(RedisMemory(0, 0, "allkeys-lru"), SPEC) == ""


def test_a_redis_that_is_too_small_is_found() -> None:
    """It must have room for three bases at the spec's bounds."""
    wanted = BASES * base_bytes_of(SPEC)
    problem = redis_problem(RedisMemory(0, wanted - MB, "noeviction"), SPEC)
    assert f"maxmemory is {(wanted - MB) // MB} MB" in problem
    assert redis_problem(RedisMemory(0, wanted, "noeviction"), SPEC) == ""
    assert redis_problem(RedisMemory(0, MB, "noeviction")) == ""
