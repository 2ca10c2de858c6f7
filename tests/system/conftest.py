"""What the joiner's stories share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.event_flow import SOAK, Joiners
from tests.support.forked_services import Nest
from thalweg.stack.stack import Stack


@pytest.fixture
def joiners(
    nest: Nest, stack: Stack, topic_prefix: str, tmp_path: Path, seed: int,
    request: pytest.FixtureRequest,
) -> Iterator[Joiners]:  # fmt: skip
    """Workers on topics of this test's own; the story may have another policy or lateness."""
    made = Joiners(nest, stack, topic_prefix, tmp_path, **getattr(request, "param", {}))
    again = f"SEED={seed} .venv/bin/pytest '{request.node.nodeid.partition('[')[0]}'"
    print(f"run this again: {'SOAK=1 ' if SOAK else ''}{again}")  # pytest shows it when the test fails
    try:
        yield made
    finally:
        made.end()
