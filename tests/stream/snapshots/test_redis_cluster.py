"""A Redis Cluster: what differs from one server. That it keeps the stores' contract, test_store.py checks."""

import contextlib
import signal
from pathlib import Path
from typing import cast

import pytest
import redis

from stream.runtime.errors import SnapshotError, StoreUnavailable
from stream.runtime.settings import Settings
from stream.snapshots.redis_client import LazyCluster, connect, key_prefix
from stream.snapshots.redis_memory import redis_memory
from stream.snapshots.redis_store import RedisStore
from tests.support.redis_servers import redis_server, running_cluster, until
from tests.support.small_versions import publish, values
from thalweg.stack.server import LOOPBACK, end_process, free_port
from thalweg.stack.stack import Stack


def test_nothing_connects_before_it_must() -> None:
    """A client of a cluster that doesn't answer is made, and its commands raise what a caller waits for."""
    settings = Settings(redis=f"redis+cluster://:hush@{LOOPBACK}:{free_port()}")
    with contextlib.closing(RedisStore(settings, "m")) as store:
        with pytest.raises(StoreUnavailable, match=r"no Redis answers at 127\.0\.0\.1:\d+ \(.*correct THALWEG_REDIS"):
            store.head()
        store.wait(0.01)


def test_a_server_that_is_no_cluster(stack: Stack) -> None:
    """The error names the form of THALWEG_REDIS that is meant; likewise for a node of a cluster as a server."""
    settings = Settings(redis=stack.redis.replace("redis://", "redis+cluster://").removesuffix("/0"))
    with (
        contextlib.closing(RedisStore(settings, "m")) as store,
        pytest.raises(SnapshotError, match=r"isn't a cluster: set THALWEG_REDIS to redis://"),
    ):
        store.head()


def test_a_node_that_is_taken_for_a_server(redis_cluster: str) -> None:
    """The error names the form of THALWEG_REDIS that is meant."""
    node = redis_cluster.removeprefix("redis+cluster://").split(",")[0]
    with contextlib.closing(connect(Settings(redis=f"redis://{node}"))) as client:
        elsewhere = next(model for model in "abcdefgh" if _is_moved(client, key_prefix(Settings(), model)))
    with (
        contextlib.closing(RedisStore(Settings(redis=f"redis://{node}"), elsewhere)) as store,
        pytest.raises(SnapshotError, match=r"a node of a cluster .*: set THALWEG_REDIS to redis\+cluster://"),
    ):
        store.head()


def _is_moved(client: redis.Redis, key: str) -> bool:
    try:
        client.get(key)
    except redis.exceptions.MovedError:
        return True
    return False


def test_memory_is_that_of_the_node_with_the_model(redis_cluster: str, topic_prefix: str) -> None:
    """What rules how many versions are retained: other nodes may be full."""
    settings = Settings(redis=redis_cluster, topic_prefix=topic_prefix)
    with contextlib.closing(RedisStore(settings, "m")) as store, contextlib.closing(connect(settings)) as cluster:
        assert isinstance(cluster, LazyCluster)
        node = cluster.get_node_from_key(store.prefix)
        with redis.Redis(port=node.port) as client:
            client.config_set("maxmemory", 123_000_000)
            assert store.memory().limit == 123_000_000
            found = redis_memory(settings, "m")
            assert found is not None
            assert found.most == 123_000_000
            client.config_set("maxmemory", 0)


def test_a_node_that_is_lost(tmp_path: Path) -> None:
    """A model whose node is there goes on; one whose node is gone is unavailable until the node is back."""
    with running_cluster(tmp_path) as nodes, contextlib.ExitStack() as opened:
        for node in nodes:
            with redis.Redis(port=node.port) as client:
                client.config_set("cluster-require-full-coverage", "no")
        url = f"redis+cluster://{nodes[0].address},{nodes[1].address}"
        stores: dict[int, RedisStore] = {}  # by their nodes' ports
        cluster = cast("LazyCluster", opened.enter_context(contextlib.closing(connect(Settings(redis=url)))))
        for prefix in "abcdefgh":
            settings = Settings(redis=url, topic_prefix=prefix)
            port = cluster.get_node_from_key(key_prefix(settings, "m")).port
            if port not in stores:
                stores[port] = opened.enter_context(contextlib.closing(RedisStore(settings, "m")))
        lost, *others = nodes
        with redis.Redis(port=lost.port) as client:
            lost_port = ("--cluster-port", client.config_get("cluster-port")["cluster-port"])
        for store in stores.values():
            publish(store, 1, 0, store.take_token())
        end_process(lost, signal.SIGKILL, 10)
        with pytest.raises(StoreUnavailable):
            stores[lost.port].head()
        for node in others:
            publish(stores[node.port], 2, 1, stores[node.port].take_token())
            assert values(stores[node.port], 2) == [2]
        nodes.append(redis_server(tmp_path, "--cluster-enabled", "yes", *lost_port, port=lost.port))
        until(lambda: stores[lost.port].head() is None, StoreUnavailable)
        publish(stores[lost.port], 2, 0, stores[lost.port].take_token())
