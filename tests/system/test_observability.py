"""Dashboards, rules and alerts on a real Prometheus that scrapes joiner, learner and ranker."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from uuid import uuid4

import pytest

from deploy.observability.panels import BOARDS, RATE
from producers.clock import Clock
from producers.replay import ReplayOptions, replay
from producers.store.rankers import LogRankers
from stream.log.kafka_log import KafkaLog
from tests.support.forked_services import Nest
from tests.support.prometheus import Prometheus, needs_prometheus, rules, scraping
from tests.support.waiting import wait_until
from tests.support.whole_system import SYSTEM_SPEC, House, world
from thalweg.client import Client, ClientError
from thalweg.demo.open_loop_client import OpenLoopClient
from thalweg.stack.stack import Stack
from thalweg.stack.status import Service

pytestmark = [pytest.mark.timeout(600), needs_prometheus]  # real processes, on a machine that may be busy

SLICES: Final = '[slices]\n"item.tags" = ["t0", "t1"]\n'
RANGE: Final = "15s"  # of rates: fifteen scrapes
NEEDS_AN_EVENT: Final = {  # panels whose series begin with what doesn't happen here
    "Alerts that fire",
    "Refused versions in 10 minutes",
    "Live model and anchor",
    "Difference and standard error",
    "Judge's window",
    "Events over HTTP",
    "AUC within pages and sessions",  # final after hours of event time
}


class Observed(NamedTuple):
    """Running rooms and who scrapes them."""

    house: House
    prometheus: Prometheus


def ask_over_http(house: House, stop: threading.Event) -> None:
    """A request each half second, whether a ranker answers or not."""
    service = None
    while not service and not stop.wait(0.1):
        service = Service.read(house.settings.local / "run" / "ranker-0.json")
    if service:
        with Client([service.http], deadline_ms=5_000) as client:
            while not stop.wait(0.5):
                with suppress(ClientError):
                    client.rank("u1", k=5)


@pytest.fixture(scope="module")
def observed(nest: Nest, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """All rooms with events and requests, and a Prometheus whose alerts wait for two seconds."""
    home: Path = tmp_path_factory.mktemp("observed")
    house = House(nest, stack, f"t{uuid4().hex[:8]}.", home)
    house.spec_file.write_text(SYSTEM_SPEC.replace('every = "100ms"', 'every = "1s"') + SLICES)
    house.settings = house.settings.model_copy(update={"ranker_http": "127.0.0.1:0", "checkpoint_every_ms": 2_000})
    log, stop = KafkaLog(house.settings, linger_ms=5), threading.Event()
    asker = OpenLoopClient(log, LogRankers(log), rps=5, k=5, sample_every=1_000_000)

    def play() -> None:
        options = ReplayOptions(40.0)
        replay(
            log, world(1_000_000, 5), spec=house.spec, options=options, clock=Clock(), notify=print, stop=stop.is_set
        )

    threads = [threading.Thread(target=play), threading.Thread(target=ask_over_http, args=(house, stop))]
    try:
        house.start("joiner", "learner", "ranker")
        asker.start()
        for thread in threads:
            thread.start()
        with scraping(house.settings.local / "targets", home / "prometheus", pending="2s") as prometheus:
            yield Observed(house, prometheus)
    finally:
        stop.set()
        asker.close()
        for thread in threads:
            if thread.ident:
                thread.join()
        house.end()
        log.close()


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_each_panel_has_series(observed: Observed, name: str) -> None:
    """Each query of a panel is valid and returns numbers, but where something must happen first."""
    wanted = {
        f"{panel.title}, {legend}": query.replace(RATE, RANGE)
        for panels in BOARDS[name].rows.values()
        for panel in panels
        for legend, query in panel.queries.items()
    }

    def lacking() -> set[str]:
        found = {title: observed.prometheus.values(query) for title, query in wanted.items()}
        return {title for title, values in found.items() if not any(value == value for value in values)}  # NaN isn't

    event = {title for title in wanted if title.split(", ")[0] in NEEDS_AN_EVENT}
    with suppress(AssertionError):
        wait_until(lambda: lacking() <= event, "numbers in every panel", every_s=1.0)
    assert lacking() - event == set()


def test_each_recorded_series_is_there(observed: Observed) -> None:
    """Each recording rule gives series; each alert's expression is valid."""
    for rule in rules():
        if "record" in rule:
            wait_until(lambda: observed.prometheus.values(rule["record"]), rule["record"], every_s=1.0)  # noqa: B023  # at once
        else:
            observed.prometheus.values(rule["expr"])


def test_a_room_that_is_killed_is_an_alert(observed: Observed) -> None:
    """After kill -9 the alert fires and names the room; once it runs again, the alert clears."""
    house, prometheus = observed

    def gone() -> list[str]:
        return [one["job"] for one in prometheus.firing() if one["alertname"] == "ThalwegRoomGone"]

    wait_until(lambda: not gone(), "all rooms to be seen", every_s=0.5)
    house.kill("ranker")
    wait_until(lambda: gone() == ["ranker"], "the alert", every_s=0.5)
    house.start("ranker")
    wait_until(lambda: not gone(), "the alert to clear", every_s=0.5)
