"""What tests of users' histories and attributes share."""

from collections.abc import Iterator
from contextlib import closing

import pytest
import redis

from stream.runtime.settings import Settings
from stream.snapshots.redis_client import connect


@pytest.fixture(params=["server", "cluster"])
def redis_url(request: pytest.FixtureRequest) -> str:
    """The run's Redis, and its cluster."""
    if request.param == "server":
        return str(request.getfixturevalue("stack").redis)
    return str(request.getfixturevalue("redis_cluster"))


@pytest.fixture
def cache(redis_url: str) -> Iterator[redis.Redis]:
    """A client of it."""
    with closing(connect(Settings(redis=redis_url))) as client:
        yield client
