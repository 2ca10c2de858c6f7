"""The ranker as a process on real Kafka and Redis."""

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis

from ranker.versions.model import score_features
from ranker.versions.version_loader import VersionLoader
from stream.history.histories import history_key
from tests.support.forked_services import Nest
from tests.support.ranker_world import Caller, World, toy, write_items
from tests.support.waiting import wait_until
from thalweg.stack.stack import Stack


@pytest.fixture
def world(nest: Nest, stack: Stack, topic_prefix: str, tmp_path: Path) -> Iterator[World]:
    """A world on the shared stack."""
    made = World(nest, stack, topic_prefix, tmp_path)
    yield made
    made.close()


def test_on_real_kafka_and_redis(world: World) -> None:
    """Under swaps each reply is of one version that recomputes it, less what the user has; SIGTERM ends it."""
    model = toy()
    write_items(world.log)
    with redis.Redis.from_url(world.settings.redis) as client:
        client.zadd(history_key("u3", world.settings.topic_prefix), {"i7": 1.0, "i8": 2.0})
    model.publish(world.store)
    process = world.ranker()
    try:
        wait_until(lambda: world.health("readyz").startswith("ready (version"))
        caller = Caller(world.log)
        for n in range(20):
            caller.ask(25)
            model.learn()
            newest = model.publish(world.store).version
            if n % 5 == 4:  # whoever asks from now on is answered by this one or a later one
                wait_until(lambda: f"(version {newest}" in world.health("readyz"))  # noqa: B023  # called at once
        wait_until(caller.answered)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, (world.settings.local / "ranker-0.log").read_text()
    finally:
        process.kill()
        process.wait()
    assert len(caller.replies) == 500
    assert len({r.version for r in caller.replies}) > 3
    loader = VersionLoader(world.store, "m")
    versions = {number: loader.load(number) for number in {r.version for r in caller.replies}}
    for reply in caller.replies:
        assert (reply.error, reply.items == []) == ("", False)
        scores = score_features(versions[reply.version], reply.features, len(reply.items))
        assert np.abs(scores - reply.scores).max() <= 1e-5
    known = [r for r in caller.replies if r.user == "u3" and "no_history" not in r.notes]
    assert known
    assert not any({"i7", "i8"} & set(reply.items) for reply in known)
