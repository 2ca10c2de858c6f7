"""Dashboards, rules and alerts on a real Prometheus that scrapes running rooms; a kill as people see it."""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from uuid import uuid4

import pytest
from playwright.sync_api import expect

from deploy.observability.panels import BOARDS, RATE
from producers.clock import Clock
from producers.replay import ReplayOptions, replay
from producers.store.rankers import LogRankers
from stream.log.kafka_log import KafkaLog
from stream.runtime.settings import Settings
from tests.support.console import Watched, chromium, needs_chromium
from tests.support.event_flow import SOAK
from tests.support.forked_services import Nest
from tests.support.prometheus import Prometheus, needs_prometheus, rules, scraping
from tests.support.waiting import wait_until
from tests.support.whole_system import SYSTEM_SPEC, House, world
from thalweg.client import Client, ClientError
from thalweg.console.serve import ConsoleOptions, serving
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

NEEDS_AN_EVENT_IN_A_DEMO: Final = {  # `thalweg demo` asks over HTTP, and names candidates
    *NEEDS_AN_EVENT,
    "From Kafka read to reply",
    "Items shown, by source",
}
METRIC: Final = re.compile(r"[a-z:_]*thalweg_[a-z0-9:_]+")


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


def lacking(prometheus: Prometheus, board: str) -> set[str]:
    """Panels of a board, with their legends, whose query gives no number."""
    queries = {
        f"{panel.title}, {legend}": query.replace(RATE, RANGE)
        for panels in BOARDS[board].rows.values()
        for panel in panels
        for legend, query in panel.queries.items()
    }
    found = {title: prometheus.values(query) for title, query in queries.items()}
    return {title for title, values in found.items() if not any(value == value for value in values)}  # NaN isn't one


def but(titles: set[str], events: set[str]) -> set[str]:
    """Those that aren't of panels which need an event."""
    return {title for title in titles if not title.startswith(tuple(f"{event}, " for event in events))}


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_each_panel_has_series(observed: Observed, name: str) -> None:
    """Each query of a panel is valid and returns numbers, but where something must happen first."""
    with suppress(AssertionError):
        wait_until(
            lambda: not but(lacking(observed.prometheus, name), NEEDS_AN_EVENT), "numbers in every panel", every_s=1.0
        )
    assert but(lacking(observed.prometheus, name), NEEDS_AN_EVENT) == set()


def test_each_recorded_series_is_there(observed: Observed) -> None:
    """Each recording rule gives series; each alert's expression is valid."""
    for rule in rules():
        if "record" in rule:
            wait_until(lambda: observed.prometheus.values(rule["record"]), rule["record"], every_s=1.0)  # noqa: B023  # at once
        else:
            observed.prometheus.values(rule["expr"])


@needs_chromium
def test_a_room_that_is_killed_is_seen(observed: Observed) -> None:
    """After kill -9 the console's open page shows the ranker as gone and why, and the alert fires and names it; once it
    runs again, the page shows it as up, without a reload or an error, and the alert clears."""
    house, prometheus = observed

    def gone() -> list[str]:
        return [one["job"] for one in prometheus.firing() if one["alertname"] == "ThalwegRoomGone"]

    wait_until(lambda: not gone(), "all rooms to be seen", every_s=0.5)
    options = ConsoleOptions("127.0.0.1:0", house.spec.name)
    with serving(house.settings, options) as address, chromium() as browser:
        watched = Watched(browser.new_page())
        page, ranker = watched.page, watched.page.locator("#room-ranker")
        page.goto(f"http://{address}/")
        expect(ranker).to_have_class("room up")
        for figure in ("events", "learned", "fresh", "answer", "auc", "live"):
            expect(page.locator(f"#figure-{figure}")).to_have_text(re.compile(r"\d"), timeout=60_000)
        page.evaluate("window.isSamePage = true")
        pid = house.running["ranker"]
        house.kill("ranker")
        expect(ranker).to_have_class("room gone")
        expect(ranker).to_contain_text("gone")
        expect(page.locator("#gone li")).to_have_text(f"ranker 0: its process (pid {pid}) has ended")
        wait_until(lambda: gone() == ["ranker"], "the alert", every_s=0.5)
        expect(page.locator("#room-joiner")).to_have_class("room up")
        house.start("ranker")
        expect(ranker).to_have_class("room up")
        expect(page.locator("#gone li")).to_have_count(0)
        expect(page.locator("#connection")).to_have_text("live")
        wait_until(lambda: not gone(), "the alert to clear", every_s=0.5)
        assert page.evaluate("window.isSamePage") is True
        assert watched.errors == []


@pytest.fixture(scope="module")
def demo_scraped(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes the processes of `thalweg demo`, found by the files that they write."""
    home: Path = tmp_path_factory.mktemp("demo")
    settings = Settings(kafka=stack.kafka, redis=stack.redis, local=home)
    command = [sys.executable, "-m", "thalweg.cli.main", "demo", "--seconds", "1200"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, env=settings.environment(), stdout=log, stderr=log, cwd=home)
    try:
        with scraping(home / "demo" / "targets", home / "prometheus", pending="2s") as prometheus:
            yield prometheus
        assert process.poll() is None, (home / "log").read_text()[-3000:]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.mark.skipif(not SOAK, reason="it plays a demo for minutes: SOAK=1")
def test_each_query_has_numbers_beside_a_demo(demo_scraped: Prometheus) -> None:
    """Each panel, each recorded series and each metric of an alert, but what needs an event that the demo lacks."""
    metrics = {name for rule in rules() for name in [*METRIC.findall(rule["expr"]), rule.get("record", "up")]}

    def missing() -> set[str]:
        panels = set().union(*(lacking(demo_scraped, name) for name in BOARDS))
        return but(panels, NEEDS_AN_EVENT_IN_A_DEMO) | {name for name in metrics if not demo_scraped.values(name)}

    with suppress(AssertionError):
        wait_until(lambda: not missing(), "numbers everywhere", wait_s=300.0, every_s=5.0)
    assert missing() == set()
