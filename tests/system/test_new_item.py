"""A new item is retrieved by a ranker on real Kafka and Redis before any model has learned of it."""

import time
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from stream.events.codec import encode
from stream.events.topics import ITEMS
from stream.events.types import Item
from stream.spec.retrieval import Retrieval
from tests.support.forked_services import Nest
from tests.support.random_models import ToyModel, some_spec
from tests.support.ranker_world import World, write_items
from tests.support.waiting import wait_until
from thalweg.client import Client
from thalweg.stack.stack import Stack

pytestmark = pytest.mark.timeout(400)  # real processes, on a machine that may be busy

RETRIEVAL = Retrieval(count=12, new=3)


def test_a_new_item_is_retrieved(nest: Nest, stack: Stack, topic_prefix: str, tmp_path: Path) -> None:
    """Written to the topic `items`, it's a candidate by the quota of new items, though it's the least popular of all;
    deleted there, it's none."""
    world = World(nest, stack, topic_prefix, tmp_path)
    with closing(world):
        write_items(world.log)
        spec = some_spec(np.random.default_rng(5), ["wide", "deep"])
        ToyModel(msgspec.structs.replace(spec, retrieval=RETRIEVAL), 5).publish(world.store)
        ranker = world.ranker()
        try:
            wait_until(lambda: world.health("readyz").startswith("ready (version"), "the ranker to be ready", 120.0)
            with Client([world.run_file()["http"]], deadline_ms=10_000) as client:

                def source(item: str) -> str:
                    """What retrieves it for a visitor; empty: nothing."""
                    page = client.rank("visitor", k=RETRIEVAL.count, history=[], attributes={})
                    assert len(page.items) == RETRIEVAL.count
                    return dict(zip(page.items, page.sources, strict=True)).get(item, "")

                assert source("launch") == ""
                world.log.send(ITEMS.name, 0, encode(Item("launch", {}, "Launch", -1.0)), b"launch")
                world.log.flush()
                written_s = time.monotonic()
                assert wait_until(lambda: source("launch"), "the item to be retrieved") == "new"
                print(f"retrieved {time.monotonic() - written_s:.3f} s after its record was written")
                world.log.send(ITEMS.name, 0, None, b"launch")
                world.log.flush()
                wait_until(lambda: not source("launch"), "the deleted item to be gone")
        finally:
            ranker.kill()
            ranker.wait()
