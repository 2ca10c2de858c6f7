"""The joiner as a Faust app: a worker whose one service is the consumer loop."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream.events.types import Tick
from stream.joiner.faust_service import JoinerService, make_app
from stream.joiner.record_processor import JoinerOptions
from stream.runtime.errors import LogError
from stream.runtime.heartbeat import Heartbeat
from stream.runtime.settings import Settings
from tests.support.fake_kafka_clients import PARTITIONS, RULES, Paper, T, assign, message, page, take
from tests.support.waiting import wait_until

SET_UP = {
    "topic_disable_leader": True,
    "topic_allow_declare": False,
    "web_enabled": False,  # on by default, on all interfaces
}


def service_on(
    paper: Paper, tmp_path: Path, beat: Callable[[], None] = lambda: None, **shell: Any
) -> JoinerService:  # fmt: skip
    """A service whose Kafka is of paper."""
    settings = Settings(kafka="127.0.0.1:1", local=tmp_path, joiner_memory_mb=512)
    service = JoinerService(settings, RULES, JoinerOptions(**shell), PARTITIONS, None, beat=beat)

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


def test_faust_reads_no_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes sets some of its names, for Services `web` and `broker`."""
    for name, value in {"WEB_PORT": "tcp://10.0.0.1:80", "APP_DATADIR": "/", "BROKER_URL": "kafka://other"}.items():
        monkeypatch.setenv(name, value)
    conf = make_app(Settings(kafka="127.0.0.1:1", local=tmp_path)).conf
    assert (conf.datadir, str(conf.broker[0])) == (tmp_path / "joiner", "kafka://127.0.0.1:1")


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


def test_an_event_loop_that_hangs_is_not_live(tmp_path: Path) -> None:
    """What blocks the loop stops the beats of its timer and of the consumer loop; then they go on."""
    now_s, hanging, goes_on = 0.0, threading.Event(), threading.Event()
    event_loop, consumer_loop = (Heartbeat(name, 60.0, lambda: now_s) for name in ("the event loop", "the consumer"))
    service = service_on(Paper(), tmp_path, beat=event_loop.beat)
    service.loop.heart = consumer_loop

    async def hang() -> None:
        hanging.set()
        assert goes_on.wait(60.0)
        await asyncio.sleep(0.01)

    def watch() -> None:
        nonlocal now_s
        try:
            assert hanging.wait(60.0)
            now_s = 61.0
            for heart in event_loop, consumer_loop:
                assert not heart.live()[0]
        finally:
            goes_on.set()
        wait_until(lambda: event_loop.live()[0] and consumer_loop.live()[0])

    async def story() -> None:
        running = asyncio.create_task(service.run())
        try:
            await asyncio.to_thread(watch)
        finally:
            service.stop()
            await running

    service.loop._poll = hang  # type: ignore[method-assign]
    asyncio.run(story())
