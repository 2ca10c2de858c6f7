"""Erasing users on real Kafka and Redis: joiner, learner and two rankers, each a process."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from producers.clock import Clock
from producers.replay import ReplayOptions, replay
from producers.source import WorldEvent
from stream.events.types import Impression, Install
from stream.history.histories import history_key
from stream.history.profiles import user_key
from stream.log.kafka_log import KafkaLog
from stream.runtime.health import run_file
from stream.snapshots.redis_client import connect
from tests.support.forked_services import ForkedProcess, Nest
from tests.support.stack_faults import stop_server
from tests.support.waiting import wait_until
from tests.support.whole_system import House, world
from thalweg.stack.stack import Stack, up

pytestmark = pytest.mark.timeout(400)  # real processes, on a machine that may be busy

TOKEN = "0123456789abcdef0123456789abcdef"  # of this test's rankers
SHOWN = [f"i{k}" for k in range(30)]
T_MS = 1_700_000_100_000  # of every page: features have its time
STRANGER = "nobody"
Ranked = tuple[int, dict[str, float], list[str]]  # version, score by item, notes


class Rankers:
    """A house with two rankers, which have learned some pages of its users."""

    def __init__(self, house: House, nest: Nest) -> None:
        self.house, self._nest = house, nest
        tokens = house.home / "tokens.toml"
        tokens.write_text(f'[ops]\ntoken = "{TOKEN}"\nscopes = ["rank", "events", "catalogue", "admin"]\n')
        tokens.chmod(0o600)
        names = ("kafka", "redis", "topic_prefix", "local")
        self.told = {name: getattr(house.settings, name) for name in names} | {"http_tokens": str(tokens)}
        house.start("joiner", "learner")
        self.log = KafkaLog(house.settings, linger_ms=5)
        self.processes = [self._ranker(worker) for worker in "ab"]
        self.play(300, 0)
        self.clients = [self._client(worker) for worker in "ab"]

    def _ranker(self, worker: str) -> ForkedProcess:
        arguments = ["run", "ranker", "--spec", str(self.house.spec_file), "--http", "127.0.0.1:0"]
        log = self.house.home / f"ranker-{worker}.log"
        return self._nest.run("thalweg", arguments, self.told | {"worker": worker}, log)

    def _client(self, worker: str) -> httpx.Client:
        file = run_file(self.house.settings.model_copy(update={"worker": worker}), "ranker")
        wait_until(file.exists, f"ranker {worker} to start")
        client = httpx.Client(
            base_url=f"http://{json.loads(file.read_text())['http']}", timeout=60.0,
            headers={"Authorization": f"Bearer {TOKEN}"},
        )  # fmt: skip
        wait_until(lambda: client.get("/readyz").status_code == 200, f"ranker {worker} to be ready")
        return client

    def play(self, pages: int, hour: int) -> None:
        """Pages of the world in this hour, learned."""
        before = self.house.metric("learner", "thalweg_learner_examples_total")
        events = (at_hour(event, hour) for event in world(pages, 5))
        options = ReplayOptions(400.0)
        played = replay(self.log, events, spec=self.house.spec, options=options, clock=Clock(), notify=print).played
        wait_until(
            lambda: self.house.metric("learner", "thalweg_learner_examples_total") >= before + played.examples,
            f"{played.examples} examples to be learned",
        )

    def command(self, *arguments: str) -> str:
        """What a command prints."""
        log = self.house.home / f"{arguments[0]}-{time.monotonic_ns()}.log"
        process = self._nest.run("thalweg", arguments, self.told, log)
        assert process.wait(60.0) == 0, log.read_text()
        return log.read_text()

    def end(self) -> None:
        """End all processes."""
        for process in self.processes:
            process.kill()
            process.wait()
        for client in self.clients:
            client.close()
        self.house.end()
        self.log.close()


def at_hour(event: WorldEvent, hour: int) -> WorldEvent:
    """The event in this hour, under ids of its own."""
    if not isinstance(event, Impression | Install):
        return event
    moved = replace(event, time_ms=event.time_ms + 3_600_000 * hour, request_id=f"{hour}-{event.request_id}")
    return replace(moved, install_id=f"{hour}-{moved.install_id}") if isinstance(moved, Install) else moved


@pytest.fixture
def rankers(nest: Nest, stack: Stack, topic_prefix: str, tmp_path: Path) -> Iterator[Rankers]:
    """Ready to rank."""
    made = Rankers(House(nest, stack, topic_prefix, tmp_path), nest)
    try:
        yield made
    finally:
        up(stack.root)
        made.end()


def ranked(client: httpx.Client, user: str) -> Ranked:
    """All items, for this user."""
    body = {"user": user, "candidates": SHOWN, "k": len(SHOWN), "time_ms": T_MS, "deadline_ms": 60_000}
    answer = client.post("/v1/rank", json=body)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page["version"], dict(zip(page["items"], page["scores"], strict=True)), page["notes"]


def is_known(client: httpx.Client, user: str) -> bool:
    """Whether the user's list differs from a stranger's by the same version: by history, attributes or own rows."""
    while True:
        version, scores, notes = ranked(client, user)
        other, wanted, expected = ranked(client, STRANGER)
        if version == other > 0:
            return (scores, notes) != (wanted, expected)


def erased_after_s(rankers: Rankers, user: str) -> list[float]:
    """Until each ranker ranks the user as a stranger."""
    begun_s, found = time.monotonic(), list[float]()
    for client in rankers.clients:
        wait_until(lambda: not is_known(client, user), f"{user} to be erased")  # noqa: B023  # at once
        found.append(time.monotonic() - begun_s)
    return found


def test_an_erased_user_is_a_stranger_to_every_ranker(rankers: Rankers, stack: Stack) -> None:
    """By HTTP and by the command: history, attributes and personal rows are gone, also after kill -9 of joiner and
    learner; and while Redis is away no ranker remembers the profile."""
    client, house = rankers.clients[0], rankers.house
    for user in ("u1", "u2", "u3"):
        assert all(is_known(one, user) for one in rankers.clients), "else nothing is to be erased"
    answer = client.delete("/v1/users/u1")
    assert answer.status_code == 202, answer.text
    over_http = erased_after_s(rankers, "u1")
    receipt = rankers.command("erase", "u2", "--spec", str(house.spec_file), "--json", str(house.home / "receipt.json"))
    by_command = erased_after_s(rankers, "u2")
    figures = json.loads((house.home / "receipt.json").read_text())
    print(receipt, f"seconds, by ranker: over HTTP {over_http}, after the command {by_command}; {figures}")
    for room in ("joiner", "learner"):
        house.kill(room)
    house.start("joiner", "learner")
    rankers.play(60, 1)  # of the same users: they are back, and new
    with connect(house.settings) as redis:
        prefix = house.settings.topic_prefix
        assert redis.exists(user_key("u4", prefix))
    assert all(is_known(one, "u3") for one in rankers.clients)
    assert client.delete("/v1/users/u3").status_code == 202
    erased_after_s(rankers, "u3")
    wait_until(lambda: not redis.exists(history_key("u3", prefix)))
    stop_server(stack.root, "cache")
    for one in rankers.clients:
        wait_until(lambda: "no_user" in ranked(one, "u3")[2], "the profile to be dropped", 30.0)  # noqa: B023
