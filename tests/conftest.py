"""What all tests share: one Kafka and one Redis a run, a topic prefix of its own for each test."""

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import settings

from tests.support.forked_services import Nest, nesting
from tests.support.redis_servers import running_cluster
from tests.support.secured_broker import SecuredBroker, running_secured_broker
from thalweg.stack.stack import Stack, down, up

# On shared machines a slow example says nothing about the code.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What collecting imports stays: no garbage collection visits it, not then and not later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that start servers or processes come first: they take longest, and while they wait others compute."""
    slow = {item.path for item in items if {"system", "demo"} & {*item.path.parts} or "stack" in fixtures_of(item)}
    items.sort(key=lambda item: item.path not in slow)


def fixtures_of(item: pytest.Item) -> list[str]:
    """Names of those that a test asks for, directly or not; doctests have none."""
    return getattr(item, "fixturenames", [])


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A real Kafka and a real Redis, started by the first test that asks and ended with the run."""
    root = tmp_path_factory.mktemp("stack")
    try:
        yield up(root)
    finally:
        down(root)


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real Redis Cluster of three nodes, of which it names two."""
    with running_cluster(tmp_path_factory.mktemp("redis-cluster")) as nodes:
        yield "redis+cluster://" + ",".join(node.address for node in nodes[:2])


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    """A Kafka with an authorizer; nobody has a grant."""
    with running_secured_broker(tmp_path_factory.mktemp("secured") / "kafka") as made:
        yield made


@pytest.fixture(scope="session")
def nest() -> Iterator[Nest]:
    """Where rooms come from, without their imports."""
    with nesting() as made:
        yield made


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for topics, groups and models that no other test has."""
    return f"t{uuid4().hex[:8]}."


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment without any THALWEG_ variable but THALWEG_LOCAL, an empty folder."""
    for name in [name for name in os.environ if name.startswith("THALWEG_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("THALWEG_LOCAL", str(tmp_path))
    return tmp_path
