"""The console as people have it open, beside a running demo: first paint, bytes, CPU of its server and of a browser.

`thalweg demo` runs at its own pace, with a Kafka and a Redis of its own, so both cores of a small machine are busy.
Chromium is Debian's, headless, driven by Playwright as in the tests. CPU is what /proc counts over WATCH_S: of the
console's process, and of all processes of the browser, less what they take with as many blank pages in the same run.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console
from rich.table import Table

from benchmarks.machine import cpu_s
from stream.runtime.errors import StackError
from stream.runtime.settings import Settings
from thalweg.stack.status import Service

DEMO_S: Final = "3600"  # it is ended before
START_S: Final = 300.0
IS_LEARNED: Final = "thalweg_ranker_freshness_seconds_count"
LOADS: Final = 7
OPEN_PAGES: Final = (1, 10)
SETTLE_S: Final = 15.0  # a page that was just opened compiles and collects
WATCH_S: Final = 30.0
QUICK_S: Final = 20.0
FIRST_PAINT: Final = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
IS_LIVE: Final = """() => document.visibilityState === "visible" && document.querySelector("#connection.live") !== null
    && document.querySelectorAll("#timeline li").length > 0"""
GOALS: Final = {"first_paint_ms": "1,000", "page_kb": "200"} | {
    f"{whose}_core_percent{suffix}": "1" for whose in ("server", "browser") for suffix in ("", "_10")
}
MEANINGS: Final = {
    "first_paint_ms": f"first contentful paint, ms, median of {LOADS} loads without a cache",
    "page_kb": "all that a page loads until it shows everything, as transferred, kB",
    "server_core_percent_0": "the server, no page open, % of a core",
    "server_core_percent": "the server, 1 open page",
    "server_core_percent_10": "the server, 10 open pages, for each",
    "browser_core_percent": "the browser above one with blank pages, 1 open page",
    "browser_core_percent_10": "the same, 10 open pages, for each",
}


@contextmanager
def demo(folder: Path) -> Iterator[Service]:
    """The console of a demo whose ranker has served what was learned; the demo ends with the block."""
    settings = Settings(kafka="", redis="", local=folder)  # a stack of its own
    command = [sys.executable, "-m", "thalweg.cli.main", "demo", "--seconds", DEMO_S]
    log = folder / "log"
    with log.open("wb") as written:
        process = subprocess.Popen(command, env=settings.environment(), stdout=written, stderr=written)
    try:
        until_s = time.monotonic() + START_S
        while not _metric(folder, "ranker", IS_LEARNED):
            if process.poll() is not None or time.monotonic() > until_s:
                raise StackError(f"the demo doesn't serve what it learned: {log.read_text()[-2_000:]}")
            time.sleep(0.5)
        found = _service(folder, "console")
        assert found is not None, "it started before the first page"
        yield found
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _service(folder: Path, name: str) -> Service | None:
    return Service.read(folder / "demo" / "run" / f"{name}-0.json")


def _metric(folder: Path, room: str, name: str) -> float:
    service = _service(folder, room)
    return service.metrics().get(name, 0.0) if service else 0.0


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium; as root it has no sandbox. Raises StackError without one."""
    found = shutil.which("chromium")
    if found is None:
        raise StackError("this benchmark needs Chromium, and there is none: sudo apt-get install -y chromium")
    with sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=found, args=options)
        try:
            yield browser
        finally:
            browser.close()


def pids_of(browser: Browser) -> list[int]:
    """All processes of the browser."""
    session = browser.new_browser_cdp_session()
    try:
        return [one["id"] for one in session.send("SystemInfo.getProcessInfo")["processInfo"]]
    finally:
        session.detach()


def load(browser: Browser, url: str) -> tuple[float, float]:
    """First contentful paint in ms, and kB transferred, of a page in a context of its own: its cache is empty."""
    context = browser.new_context()
    page = context.new_page()
    session = context.new_cdp_session(page)
    transferred: dict[str, float] = {}  # bytes by request

    def finished(event: dict[str, Any]) -> None:
        transferred[event["requestId"]] = event["encodedDataLength"]

    def received(event: dict[str, Any]) -> None:  # the stream never finishes
        name = event["requestId"]
        transferred[name] = transferred.get(name, 0.0) + event["dataLength"]

    session.on("Network.dataReceived", received)
    session.on("Network.loadingFinished", finished)
    session.send("Network.enable")
    show(page, url)
    paint_ms = page.evaluate(FIRST_PAINT)
    context.close()
    return float(paint_ms), sum(transferred.values()) / 1e3


def show(page: Page, url: str) -> None:
    """Open the console there, and wait until it shows the loop and versions."""
    page.goto(url)
    page.wait_for_function(IS_LIVE)


def core_percent(browser: Browser, server: int, seconds: float) -> tuple[float, float]:
    """% of a core that the server and the browser take over this time."""

    def taken_s(pids: Sequence[int]) -> dict[int, float]:
        return {pid: cpu_s(pid) for pid in pids}

    before, server_s, begun_s = taken_s(pids_of(browser)), cpu_s(server), time.monotonic()
    time.sleep(seconds)
    after, server_s, took_s = taken_s(pids_of(browser)), cpu_s(server) - server_s, time.monotonic() - begun_s
    browser_s = sum(now_s - before.get(pid, 0.0) for pid, now_s in after.items())
    return 100 * server_s / took_s, 100 * browser_s / took_s


def costs(browser: Browser, url: str, server: int, seconds: float, console: Console) -> dict[str, float]:
    """CPU of server and browser by open pages, for each of them. Each has a context, and so connections, of its own."""
    pages = [browser.new_context().new_page() for _ in range(max(OPEN_PAGES))]
    time.sleep(SETTLE_S)
    idle, blank = core_percent(browser, server, seconds)
    console.print(f"no page: server {idle:.2f} %; browser with {len(pages)} blank pages {blank:.2f} %")
    figures, shown = {"server_core_percent_0": idle}, 0
    for count in OPEN_PAGES:
        for page in pages[shown:count]:
            show(page, url)
        shown = count
        time.sleep(SETTLE_S)
        serving, showing = core_percent(browser, server, seconds)
        console.print(f"{count} open: server {serving:.2f} %, browser {showing:.2f} %")
        are_live = [page.evaluate(IS_LIVE) for page in pages[:count]]
        assert all(are_live), "a page has lost its stream"
        suffix = f"_{count}" if count > 1 else ""
        figures |= {
            f"server_core_percent{suffix}": serving / count,
            f"browser_core_percent{suffix}": (showing - blank) / count,
        }
    return figures


def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
    """The table and its figures."""
    console = Console(stderr=True)
    with TemporaryDirectory(prefix="thalweg-console-") as folder:
        console.print("starting a demo; its past is learned first")
        with demo(Path(folder)) as server, chromium() as browser:
            url = f"http://{server.http}/"
            loads = [load(browser, url) for _ in range(LOADS)]
            figures = {
                "first_paint_ms": median(paint_ms for paint_ms, _ in loads),
                "page_kb": max(kb for _, kb in loads),
            }
            console.print("first paints, ms: " + ", ".join(f"{paint_ms:.0f}" for paint_ms, _ in loads))
            figures |= costs(browser, url, server.pid, QUICK_S if quick else WATCH_S, console)
    return _table(figures), figures


def _table(figures: dict[str, float]) -> Table:
    table = Table("what", "figure", "goal, at most", title="the console beside a demo")
    for name, what in MEANINGS.items():
        table.add_row(
            what, f"{figures[name]:,.{0 if name in ('first_paint_ms', 'page_kb') else 2}f}", GOALS.get(name, "")
        )
    return table
