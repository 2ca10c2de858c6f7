"""Redis behind Sentinels: a real one fails over from a master that is killed to its replica."""

import contextlib
import signal
from pathlib import Path

import pytest
import redis

from stream.runtime.errors import StoreUnavailable
from stream.runtime.settings import Settings
from stream.snapshots.manifest import Head
from stream.snapshots.redis_store import RedisStore
from tests.support.redis_servers import running_sentinel, until
from tests.support.small_versions import publish, values
from thalweg.stack.server import LOOPBACK, end_process, free_port


def test_a_failover(tmp_path: Path) -> None:
    """The same store goes on at the new master; in between it's unavailable. One of the Sentinels may be gone."""
    with running_sentinel(tmp_path, "main") as (sentinel, master, replica):
        gone = f"{LOOPBACK}:{free_port()}"
        settings = Settings(redis=f"redis+sentinel://{gone},{sentinel.address}/main/0")
        with contextlib.closing(RedisStore(settings, "m")) as store:
            token = store.take_token()
            publish(store, 1, 0, token)
            store.wait(0.01)
            until(lambda: replicated(replica.port))
            end_process(master, signal.SIGKILL, 10)
            with pytest.raises(StoreUnavailable, match=f"{sentinel.address},{gone}/main"):
                publish(store, 2, 1, token)
            until(lambda: published(store, 2, token), StoreUnavailable)
            assert store.head() == Head(2, token)
            assert values(store, 2) == [2]
            store.wait(0.01)


def published(store: RedisStore, version: int, token: int) -> bool:
    """Publish the version after the one before it; repeated, it changes nothing."""
    publish(store, version, version - 1, token)
    return True


def replicated(port: int) -> bool:
    """Whether the replica has the head."""
    with contextlib.closing(RedisStore(Settings(redis=f"redis://{LOOPBACK}:{port}"), "m")) as store:
        return store.head() is not None


def test_a_master_that_became_a_replica(tmp_path: Path) -> None:
    """Its connections are given up at the first write, which the new master takes."""
    with running_sentinel(tmp_path, "main") as (sentinel, master, replica):
        settings = Settings(redis=f"redis+sentinel://{sentinel.address}/main")
        with contextlib.closing(RedisStore(settings, "m")) as store:
            token = store.take_token()
            publish(store, 1, 0, token)
            until(lambda: replicated(replica.port))
            fail_over(sentinel.port, "main", away_from=master.port)
            until(lambda: published(store, 2, token), StoreUnavailable)
            assert values(store, 2) == [2]


def fail_over(port: int, name: str, away_from: int) -> None:
    """Ask the Sentinel for a failover, and wait until it's over."""
    with redis.Redis(port=port) as client:
        until(lambda: client.execute_command("SENTINEL", "FAILOVER", name), redis.ResponseError)
        until(lambda: client.sentinel_get_master_addr_by_name(name) != (LOOPBACK, away_from))


def test_a_name_that_no_sentinel_knows(tmp_path: Path) -> None:
    """The error names it."""
    with running_sentinel(tmp_path, "main") as (sentinel, _, _), contextlib.ExitStack() as opened:
        settings = Settings(redis=f"redis+sentinel://{sentinel.address}/other")
        store = opened.enter_context(contextlib.closing(RedisStore(settings, "m")))
        with pytest.raises(StoreUnavailable, match="No master found for 'other'"):
            store.head()
