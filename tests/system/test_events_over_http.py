"""Two rankers take events over HTTP, on real Kafka and Redis."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from stream.events.codec import decode_events
from stream.events.topics import EVENTS
from stream.events.types import Impression
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import START, partition_of
from stream.runtime.health import run_file
from tests.support.forked_services import ForkedProcess, Nest
from tests.support.ranker_world import World, toy, write_items
from tests.support.stack_faults import stop_server
from tests.support.waiting import wait_until
from thalweg.stack.stack import Stack, up

pytestmark = pytest.mark.timeout(400)  # real processes, on a machine that may be busy

PARTITIONS = 2


@pytest.fixture
def world(nest: Nest, stack: Stack, topic_prefix: str, tmp_path: Path) -> Iterator[World]:
    """Items and a version."""
    made = World(nest, stack, topic_prefix, tmp_path, partitions=PARTITIONS)
    write_items(made.log)
    toy().publish(made.store)
    yield made
    made.close()


def client_of(world: World, worker: str) -> httpx.Client:
    """A client of a ranker that answers requests by a version."""
    settings = world.settings.model_copy(update={"worker": worker})
    wait_until(lambda: world.health("readyz", worker).startswith("ready (version"), f"ranker {worker} to be ready")
    address = json.loads(run_file(settings, "ranker").read_text())["http"]
    return httpx.Client(base_url=f"http://{address}", timeout=60.0)


def start(world: World, nest: Nest, worker: str) -> ForkedProcess:
    """`thalweg run ranker --http`."""
    given = world.settings.model_dump(include={"kafka", "redis", "topic_prefix", "local"}) | {"worker": worker}
    log = world.settings.local / f"ranker-{worker}.log"
    return nest.run("thalweg", ["run", "ranker", "--model", "m", "--http", "127.0.0.1:0"], given, log)


def ids_of(world: World) -> list[str]:
    """Ids of all events in the topic, each in the partition of its user, by user and offset."""
    found: list[tuple[str, str]] = []
    log = KafkaLog(world.settings)  # a new one: the broker may have been started again
    ends = log.ends(EVENTS.name)
    reader = log.reader(EVENTS.name, dict.fromkeys(range(PARTITIONS), START))
    while any(offset < ends[p] for p, offset in reader.positions().items() if ends[p]):
        for record in reader.poll(0.1):
            events, bad = decode_events(record.value or b"")
            assert not bad
            for event in events:
                user: Any = event.user  # type: ignore[union-attr]  # no tick was sent
                assert record.partition == partition_of(user, PARTITIONS)
                found.append((user, event.request_id if isinstance(event, Impression) else event.install_id))  # type: ignore[union-attr]
    reader.close()
    log.close()
    return [event_id for _, event_id in sorted(found, key=lambda one: one[0])]


def test_without_kafka_events_are_503_and_a_retry_writes_them(stack: Stack, world: World, nest: Nest) -> None:
    """Lists are ranked meanwhile; once the broker is back, the same call is taken, and its ids are in the topic."""
    ranker = start(world, nest, "a")
    try:
        with client_of(world, "a") as client:

            def call() -> httpx.Response:
                installs = [{"type": "install", "user": f"u{n}", "item": "i1"} for n in range(10)]
                return client.post("/v1/events", json=installs, headers={"Idempotency-Key": "7d10"})

            assert client.post("/v1/events", json=[{"type": "user", "user": "u0"}]).status_code == 200
            stop_server(stack.root, "broker", kill=True)
            refused = call()
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1"), refused.text
            assert refused.json()["type"] == "urn:thalweg:problem:log_unavailable"
            ranked = client.post("/v1/rank", json={"user": "u1", "k": 3, "deadline_ms": 60_000})
            assert ranked.status_code == 200, ranked.text
            up(stack.root)
            wait_until(lambda: call().status_code == 200, "Kafka to have them")
            assert {result["id"] for result in call().json()["results"]} <= set(ids_of(world))
    finally:
        up(stack.root)
        ranker.kill()
        ranker.wait()


def test_a_call_that_is_sent_again_to_another_ranker_writes_the_same_ids(world: World, nest: Nest) -> None:
    """A page as ranked, and installs; then kill -9 of the ranker that took them, and the same call to the other."""
    rankers = {worker: start(world, nest, worker) for worker in "ab"}
    try:
        with client_of(world, "a") as first, client_of(world, "b") as second:
            page = first.post("/v1/rank", json={"user": "u1", "k": 3, "deadline_ms": 60_000}).json()
            assert page["version"] == 1
            sent: list[dict[str, Any]] = [
                {"type": "item", "item": "new", "title": "New"},
                {"type": "impression", **{name: page[name] for name in ("user", "items", "version", "features")}},
                {"type": "install", "user": "u1", "item": page["items"][0]},
                {"type": "install", "user": "u2", "item": page["items"][1]},
                {"type": "install", "user": "u2"},
            ]
            key = {"Idempotency-Key": "3f2a"}
            answer = first.post("/v1/events", json=sent, headers=key)
            assert answer.status_code == 207, answer.text
            assert [result["status"] for result in answer.json()["results"]] == ["written"] * 4 + ["invalid"]
            written = ids_of(world)
            assert written == [result["id"] for result in answer.json()["results"][1:4]]
            rankers["a"].kill()
            rankers["a"].wait(60)
            again = second.post("/v1/events", json=sent, headers=key)
            assert again.json() == answer.json()
            assert ids_of(world) == written[:2] * 2 + written[2:] * 2
            wait_until(lambda: second.get("/v1/items/new").status_code == 200, "the ranker to read the item")
    finally:
        for process in rankers.values():
            process.kill()
            process.wait()
