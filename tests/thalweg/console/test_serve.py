"""The whole console on a real Kafka and a real Redis, without rooms."""

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from stream.events.codec import encode
from stream.events.topics import DEAD_LETTERS, EVENTS
from stream.events.types import DeadLetter, Impression
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.log.kafka_log import KafkaLog
from stream.runtime.errors import SettingsError
from stream.runtime.settings import Settings
from stream.snapshots.redis_store import RedisStore
from tests.support.small_versions import put, version_of
from thalweg.console.serve import ConsoleOptions, serving
from thalweg.stack.stack import Stack
from thalweg.stack.status import statuses

TOKEN = "a-token-of-the-test"
OPTIONS = ConsoleOptions("127.0.0.1:0", "m")


@pytest.fixture
def settings(stack: Stack, topic_prefix: str, tmp_path: Path) -> Settings:
    """Settings with a token, topics and a folder of their own."""
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[anna]\ntoken = "{TOKEN}"\nscopes = ["admin"]\n')
    found = Settings(
        kafka=stack.kafka, redis=stack.redis, topic_prefix=topic_prefix, local=tmp_path, http_tokens=str(tokens)
    )
    apply_topics(found, plan_topics(found))
    return found


@pytest.fixture
def client(settings: Settings) -> Iterator[httpx.Client]:
    """A client of a console."""
    with serving(settings, OPTIONS) as address, httpx.Client(base_url=f"http://{address}", timeout=60.0) as found:
        yield found


def test_pinning_and_rolling_back_reach_rankers(client: httpx.Client, settings: Settings) -> None:
    """What is decided on the page is the decision that rankers read."""
    admin = {"authorization": f"Bearer {TOKEN}"}
    with closing(RedisStore(settings, "m")) as store:
        token = store.take_token()
        for version in (1, 2, 3):
            store.publish(version_of(version, version - 1, token, put(store, version)))
        assert client.post("/api/versions/roll-back", json={}, headers=admin).json() == {"served": 3, "pinned": 2}
        assert store.decision().version == 2
        assert client.post("/api/versions/pin", json={"version": 1}, headers=admin).json() == {"pinned": 1}
        assert store.decision().version == 1
        assert client.post("/api/versions/roll-back", json={}, headers=admin).status_code == 404
        assert client.post("/api/versions/pin", json={"version": 9}, headers=admin).status_code == 404
        assert client.post("/api/versions/pin", json={"version": 0}, headers=admin).status_code == 200
        assert store.decision().version == 0


def test_the_ends_of_topics(client: httpx.Client, settings: Settings) -> None:
    """Dead letters with their reasons, newest first; users of the newest pages."""
    with closing(KafkaLog(settings)) as log:
        for offset in (1, 2):
            letter = DeadLetter(b"\xc1", "BadEvent", f"byte {offset}", "events", 0, offset)
            log.send(DEAD_LETTERS["events"].name, 0, encode(letter))
            log.flush()
        log.send(EVENTS.name, 0, b"\x91" + encode(Impression("r1", 1_000, "ann", ["a"])))
        log.flush()
    found = client.get("/api/dead-letters").json()
    assert [one["message"] for one in found] == ["byte 2", "byte 1"]
    assert found[0]["source"] == "events 0:2"
    assert client.get("/api/users").json() == ["ann"]


def test_without_a_ranker_a_user_has_no_page(client: httpx.Client) -> None:
    """The answer says how to start one."""
    answer = client.get("/api/users/ann")
    assert answer.status_code == 503
    assert "--http" in answer.json()["remedy"]


def test_status_lists_it(client: httpx.Client, settings: Settings) -> None:
    """`thalweg status` shows a console as it shows rooms, with its address."""
    [found] = [one for one in statuses(settings.local) if one.name == "console 0"]
    assert found.state == "up"
    assert str(client.base_url) == f"http://{found.address}"


def test_it_leaves_nothing_behind(settings: Settings) -> None:
    """At its end its file is gone and its address is free."""
    with serving(settings, OPTIONS) as address:
        pass
    assert not list((settings.local / "run").glob("*"))
    host, port = address.split(":")
    with socket.create_server((host, int(port))):
        pass


def test_others_need_tokens(settings: Settings) -> None:
    """It doesn't listen for other machines without tokens, unless its port is published on loopback only."""
    settings = settings.model_copy(update={"http_tokens": ""})
    with pytest.raises(SettingsError, match="THALWEG_HTTP_TOKENS"), serving(settings, ConsoleOptions("0.0.0.0:0", "m")):
        pass
    with serving(settings, ConsoleOptions("0.0.0.0:0", "m", is_published_on_loopback=True)) as address:
        assert httpx.get(f"http://127.0.0.1:{address.split(':')[1]}/readyz").status_code == 200
