"""Erasing users on real Kafka and Redis: joiner, learner and two rankers, each a process."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from producers.clock import Clock
from producers.replay import ReplayOptions, replay
from producers.source import WorldEvent
from stream.events.topics import HISTORIES, USERS
from stream.events.types import Impression, Install
from stream.history.histories import decode_changes, history_key
from stream.history.profiles import user_key
from stream.joiner.labels import HistoryChange
from stream.joiner.output_records import history_record
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import START, partition_of
from stream.runtime.health import run_file
from stream.snapshots.redis_client import connect
from stream.snapshots.redis_store import RedisStore
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
REMOVED = "attributes", "installs", "wide", "statistics", "embeddings", "pages"
Ranked = tuple[int, dict[str, float], list[str]]  # version, score by item, notes


class Rankers:
    """A house with two rankers, which have learned some pages of its users."""

    def __init__(self, house: House, nest: Nest) -> None:
        self.house, self._nest = house, nest
        tokens = house.home / "tokens.toml"
        tokens.write_text(f'[ops]\ntoken = "{TOKEN}"\nscopes = ["rank", "events", "catalogue", "admin"]\n')
        tokens.chmod(0o600)
        names = ("kafka", "redis", "topic_prefix", "local")
        self.settings = {name: getattr(house.settings, name) for name in names} | {"http_tokens": str(tokens)}
        house.start("joiner", "learner")
        self.log = KafkaLog(house.settings, linger_ms=5)
        self.processes = [self._ranker(worker) for worker in "ab"]
        self.play(300, 0)
        self.clients = [self._client(worker) for worker in "ab"]

    def _ranker(self, worker: str) -> ForkedProcess:
        arguments = ["run", "ranker", "--spec", str(self.house.spec_file), "--http", "127.0.0.1:0"]
        log = self.house.home / f"ranker-{worker}.log"
        return self._nest.run("thalweg", arguments, self.settings | {"worker": worker}, log)

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
        process = self._nest.run("thalweg", arguments, self.settings, log)
        assert process.wait(60.0) == 0, log.read_text()
        return log.read_text()

    def erase(self, user: str) -> dict[str, Any]:
        """The receipt of the command."""
        file = self.house.home / f"{user}.json"
        self.command("erase", user, "--spec", str(self.house.spec_file), "--json", str(file))
        return dict(json.loads(file.read_text()))

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
    receipt = rankers.erase("u2")
    by_command = erased_after_s(rankers, "u2")
    removed = {name: receipt["removed"][name] for name in REMOVED}
    assert all(removed.values()), removed
    print(f"seconds, by ranker: over HTTP {over_http}, after the command {by_command}; {receipt}")
    with closing(RedisStore(house.settings, "small")) as store:
        store.pin(receipt["version"])
        assert rankers.erase("u5")["pinned"] == receipt["version"]
        assert all(is_known(one, "u5") for one in rankers.clients), "by the pinned version's rows"
        store.pin(0)
    erased_after_s(rankers, "u5")
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


def test_a_restored_backup_is_erased_again(rankers: Rankers) -> None:
    """Redis, topics and checkpoint of before the erasure come back, and with the ledger everything goes once more."""
    house, user = rankers.house, "u1"
    prefix, checkpoints = house.settings.topic_prefix, house.settings.local / "checkpoints"
    wait_until(lambda: house.metric("learner", "thalweg_learner_offset") > 0)
    house.end("learner")  # its last checkpoint has all that was learned
    shutil.copytree(checkpoints, house.home / "backup")
    house.start("learner")
    with connect(house.settings) as redis:
        keys = user_key(user, prefix), history_key(user, prefix)
        attributes, installs = redis.get(keys[0]), redis.zrange(keys[1], 0, -1, withscores=True)
        assert attributes
        assert installs
        rankers.erase(user)
        erased_after_s(rankers, user)
        for room in ("joiner", "learner"):
            house.kill(room)
        shutil.rmtree(checkpoints)
        shutil.copytree(house.home / "backup", checkpoints)
        partition = partition_of(user, 2)
        rankers.log.send(USERS.name, partition, attributes, user.encode())
        for item, time_ms in installs:
            change = HistoryChange(user, item.decode(), int(time_ms))
            rankers.log.send(*history_record(change, 2))
        rankers.log.flush()
        redis.set(keys[0], attributes)
        redis.zadd(keys[1], dict(installs))
        house.start("joiner", "learner")
        wait_until(lambda: redis.get(keys[0]), "the attributes to be back")
        assert "users are erased again" in rankers.command("erase", "--again")
        wait_until(lambda: not redis.exists(*keys), "Redis to be erased again")
    erased_after_s(rankers, user)
    changes = read_changes(rankers.log)
    assert not {item for (of, item), time_ms in changes.items() if of == user and time_ms is not None}


def read_changes(log: KafkaLog) -> dict[tuple[str, str], int | None]:
    """The newest of each key in `histories`."""
    ends, found = log.ends(HISTORIES.name), dict[tuple[str, str], int | None]()
    with closing(log.reader(HISTORIES.name, dict.fromkeys(ends, START))) as reader:
        while any(at < ends[p] for p, at in reader.positions().items()):
            found |= decode_changes(reader.poll(0.1))
    return found
