"""The joiner as a Faust app: a worker whose one service is the consumer loop."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stream.events.types import Tick
from stream.joiner.faust_service import JoinerService, make_app
from stream.joiner.record_processor import JoinerOptions
from stream.runtime.errors import LogError
from stream.runtime.settings import Settings
from tests.support.fake_kafka_clients import PARTITIONS, RULES, Paper, T, assign, message, page, take

SET_UP = {
    "topic_disable_leader": True,
    "topic_allow_declare": False,
    "web_enabled": False,  # on by default, on all interfaces
}


def service_on(paper: Paper, tmp_path: Path, **shell: Any) -> JoinerService:
    """A service whose Kafka is of paper."""
    settings = Settings(kafka="127.0.0.1:1", local=tmp_path, joiner_memory_mb=512)
    service = JoinerService(settings, RULES, JoinerOptions(**shell), PARTITIONS, None)

    async def connect() -> None:
        service.loop.consumer = service.loop.producer = service.loop.admin = paper

    async def disconnect() -> None:
        pass

    service.connect = connect  # type: ignore[method-assign]
    service.disconnect = disconnect  # type: ignore[method-assign]
    return service


@pytest.mark.parametrize(("name", "value"), SET_UP.items(), ids=list(SET_UP))
def test_faust_is_set_up_as_it_works(tmp_path: Path, name: str, value: object) -> None:
    """No topics of Faust's own, and no data for everyone on the network."""
    assert getattr(make_app(Settings(kafka="127.0.0.1:1", local=tmp_path)).conf, name) == value


def test_faust_starts_the_loop_and_no_kafka_client_of_its_own(tmp_path: Path) -> None:
    """With no broker at all the app starts, runs the loop and its timers, and stops in order."""

    async def story() -> None:
        paper = Paper()
        service = service_on(paper, tmp_path, commit_every_ms=20)
        running = asyncio.create_task(service.run())
        while not service.app.started:
            await asyncio.sleep(0.01)
        assert service.ready() == (False, "joining the group")
        await assign(service.loop, 0)
        assert service.ready() == (True, "1 partitions assigned")
        paper.batches.append({0: [message(0, page("r"), Tick(T + 5_000))]})
        while not paper.stored:
            await asyncio.sleep(0.01)
        assert [topic for topic, _ in paper.sent] == ["examples"]
        service.stop()
        await asyncio.wait_for(running, 20.0)
        assert service.app.should_stop

    asyncio.run(story())


@pytest.mark.parametrize("chore", ["_poll", "write_ticks", "commit"])
def test_whatever_breaks_ends_the_service(tmp_path: Path, chore: str) -> None:
    """Without reading, ticks or commits it must not go on: what broke is what `run` raises."""

    async def story() -> None:
        service = service_on(Paper(), tmp_path, commit_every_ms=20)

        async def broken(*_: object) -> None:
            raise LogError("broken")

        setattr(service.loop, chore, broken)
        with pytest.raises(LogError, match="broken"):
            await asyncio.wait_for(service.run(), 30.0)
        assert service.ready() == (False, "broken")

    asyncio.run(story())


def test_who_is_told_to_stop_does_not_wait_for_a_broker_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The last commit isn't stored, which is said; it's no failure."""
    monkeypatch.setattr("stream.joiner.faust_service.LAST_COMMIT_S", 0.05)
    paper = Paper(confirming=False)

    async def run() -> None:
        service = service_on(paper, tmp_path)
        await service.connect()
        await assign(service.loop, 0)
        await take(service.loop, message(0, page("r"), Tick(T + 5_000)))
        await service._commit_last()
        assert service.loop.failure is None

    asyncio.run(run())
    assert paper.stored == {}
    assert "the last commit isn't stored" in caplog.text
