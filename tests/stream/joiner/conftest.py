"""What the joiner's tests on a real Kafka share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.forked_services import Nest
from tests.support.kafka_joiner import World
from thalweg.stack.stack import Stack


@pytest.fixture
def world(nest: Nest, stack: Stack, topic_prefix: str, tmp_path: Path) -> Iterator[World]:
    """Topics and a log of this test's own."""
    made = World(nest, stack, topic_prefix, tmp_path)
    yield made
    made.log.close()
