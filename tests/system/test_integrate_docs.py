"""docs/integrate.md shows what its examples print: they are run against a ranker, on real Kafka and Redis."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from stream.events.codec import encode
from stream.events.topics import ITEMS, Topic
from stream.events.types import Item, User, Value
from stream.history.histories import rebuild_histories
from stream.history.profiles import user_key
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.runtime.clock import now_ms
from stream.runtime.health import run_file
from stream.snapshots.redis_client import connect
from tests.support.doc_examples import Example, examples, program_of, run, shape
from tests.support.forked_services import Nest
from tests.support.ranker_world import World, toy
from tests.support.waiting import wait_until
from thalweg.stack.stack import Stack

pytestmark = pytest.mark.timeout(400)  # real processes, on a machine that may be busy

TOKEN = "a-token-of-the-shop-0123456789"
REPLIES = "shop.replies"


class Served(NamedTuple):
    """What stands for the page's addresses and topics, and a folder for its programs."""

    names: dict[str, str]
    folder: Path


@pytest.fixture(scope="module")
def served(nest: Nest, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A ranker of the model "m", with a token, three items, a user, and a topic of the shop's own."""
    folder, prefix = tmp_path_factory.mktemp("integrate"), "integrate."
    world = World(nest, stack, prefix, folder)
    apply_topics(world.settings, plan_topics(world.settings, (Topic(REPLIES, partitions=1),)))
    for year, item in enumerate(("tea", "mug", "kettle"), 2010):
        attributes: dict[str, Value] = {"tags": ["a", "b", "c"][: year - 2009], "year": float(year)}
        world.log.send(ITEMS.name, 0, encode(Item(item, attributes)), item.encode())
    world.log.flush()
    with closing(connect(world.settings)) as client:  # what joiners do
        rebuild_histories(client, world.log, prefix, wait=lambda: None)
        client.set(user_key("ann", prefix), encode(User("ann", {"age": 34.0})))
    toy().publish(world.store, learned_ms=now_ms(), watermark_ms=now_ms())
    tokens = folder / "tokens.toml"
    tokens.write_text(f'[shop]\ntoken = "{TOKEN}"\nscopes = ["rank", "events"]\n')
    given = world.settings.model_dump(include={"kafka", "redis", "topic_prefix", "local"})
    given |= {"http_tokens": str(tokens), "reply_topics": REPLIES}
    arguments = ["run", "ranker", "--model", "m", "--http", "127.0.0.1:0"]
    ranker = nest.run("thalweg", arguments, given, folder / "ranker.log")
    try:
        wait_until(lambda: world.health("readyz").startswith("ready (version"), "the ranker to be ready", 120.0)
        address = json.loads(run_file(world.settings, "ranker").read_text())["http"]
        names = {"127.0.0.1:8080": address, "127.0.0.1:9092": stack.kafka}
        for call in ('send("rank.requests', f'TopicPartition("{REPLIES}'):
            names[call] = call.replace('"', f'"{prefix}')
        yield Served(names, folder)
    finally:
        ranker.kill()
        ranker.wait()
        world.close()


def test_the_page_has_its_examples() -> None:
    """Every way in has one."""
    assert {example.section for example in examples()} == {"curl", "Python", "JavaScript", "Java", "Kafka"}


@pytest.mark.parametrize(
    "example", examples(), ids=[f"{example.section}-{number}" for number, example in enumerate(examples())]
)
def test_an_example_prints_what_the_page_shows(example: Example, served: Served) -> None:
    """But for numbers, bytes and the order of items."""
    if program_of(example.language) is None:
        pytest.skip(f"nothing here runs {example.language}")
    assert shape(run(example, TOKEN, served.names, served.folder)) == shape(example.printed)
