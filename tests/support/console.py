"""A console whose rooms are made up, the whole server; and a real Chromium to look at it."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from ranker.http.connection import Bounds
from ranker.http.server import HttpServer
from ranker.http.tokens import Tokens
from stream.events.named_explanations import DeepTerm, Explanation, ItemExplanation, WideTerm
from stream.runtime.errors import BadSnapshot
from thalweg.client.errors import InvalidRequest, Unreachable
from thalweg.console.app import Served, console_app
from thalweg.console.board import Board

TOKEN = "a-token-of-the-test"
NOW_MS = 1_780_000_000_000
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: sudo apt-get install -y chromium")
expect.set_options(timeout=30_000)


def item(name: str, rank: int) -> dict[str, Any]:
    """An item of a page, explained."""
    parts = {"bias": -1.0, "wide": 0.5 + rank / 10, "deep": -0.25}
    return {
        "item": name, "title": f"{name} {HOSTILE}", "rank": rank, "on_page": True, "score": 0.3, "wide_fired": 1,
        "logit": sum(parts.values()), **parts, "wide_terms": [WideTerm(f"item.id={HOSTILE}", 0.5)],
        "deep_terms": [DeepTerm("item.year", "1997", -0.2)], "deep_columns": 1, "source": "popular",
        "source_rank": rank, "boosts": {"fresh": 0.1},
    }  # fmt: skip


def published(version: int, time_ms: int = NOW_MS) -> dict[str, Any]:
    """A version's entry in the timeline."""
    return {
        "kind": "published", "version": version, "time_ms": time_ms, "examples": 1000 + version, "installs": 2,
        "auc": 0.71, "log_loss": 0.4,
    }  # fmt: skip


SECTIONS: Mapping[str, Any] = {
    "config": {"model": "store", "demo": True, "context": {"device": "phone"}},
    "rooms": [[room, "0", "up", "ok"] for room in ("joiner", "learner", "ranker")],
    "rates": {"events": 120.0, "examples": 1000.0, "learned": 990.0, "versions": 3.9, "replies": 100.0},
    "delays": {"wide": [180.0, 400.0], "deep": [600.0, 1200.0], "answer": [3.0, 12.0]},
    "lags": {"joiner": 0.0, "learner": 0.2, "ranker": 0.0},
    "model": {
        "examples": 12_345, "auc": 0.71, "log_loss": 0.4, "calibration": 1.01, "base_rate": 0.07, "staleness_s": 0.4,
    },
    "live": [7],
    "slices": [["all", "recent", 2000, 0.71, 0.4, 1.01, 0.07], ["device=phone", "recent", 900, 0.7, 0.41, 1.0, 0.07]],
    "dead": 1,
    "versions": {"head": 7, "pinned": 0},
}  # fmt: skip


class FakeConsole:
    """The server with what it was asked: `calls`. `items` are the page of each user; `client` a plain HTTP client."""

    def __init__(self, folder: Path, *, has_tokens: bool = True, is_demo: bool = True) -> None:
        file = folder / "tokens.toml"
        file.write_text(
            f'[anna]\ntoken = "{TOKEN}"\nscopes = ["admin"]\n[app]\ntoken = "{TOKEN[::-1]}"\nscopes = ["rank"]\n'
        )
        self.board = Board()
        self.calls: list[tuple[Any, ...]] = []
        self.items = ["chess", "go", "tea"]
        self.history = ["old one"]
        install = self._install if is_demo else None
        served = Served(
            self.board, self._page, lambda: ["ann", "bob"], self._letters, self._pin, self._roll_back, install
        )
        app = console_app(served, Tokens(file if has_tokens else None, lambda: 0.0), ["console.example"])
        self.server = HttpServer(app, "127.0.0.1", 0, Bounds(100))
        self.url = f"http://127.0.0.1:{self.server.port}"
        self.client = httpx.Client(base_url=self.url, timeout=30.0)
        times = range(NOW_MS - 20_000, NOW_MS, 1000)
        points = [[time_ms, 100.0 + i, 150.0, 300.0 + i, 500.0, 900.0, 3.0, 9.0] for i, time_ms in enumerate(times)]
        refused = {
            "kind": "refused", "cause": "spread", "count": 2, "reason": f"too wide {HOSTILE}", "time_ms": NOW_MS - 1,
        }  # fmt: skip
        self.board.update(SECTIONS, points, [published(5), published(6), refused, published(7)])

    def _page(self, user: str, k: int, context: Mapping[str, str]) -> dict[str, Any]:
        self.calls.append(("page", user, k, dict(context)))
        if user == "nobody":
            raise Unreachable("No answer", "it is gone", "start one", type="unreachable")
        if context.get("hour") == "never":
            raise InvalidRequest("It is invalid", "hour isn't a number", "correct it", type="invalid", status=400)
        items = [item(name, i + 1) for i, name in enumerate(self.items)]
        page = {
            "user": user, "model": "store", "time_ms": NOW_MS, "version": 7, "version_age_ms": 400,
            "newest_event_ms": 1, "staleness_ms": 300, "examples": 1000, "scored": 100, "items": items,
            "removed": {"installed": 2}, "notes": [],
            "history": [{"item": one, "title": HOSTILE} for one in self.history],
        }  # fmt: skip
        assert {*page} - {"history"} <= {*Explanation.__struct_fields__}
        assert all({*one} <= {*ItemExplanation.__struct_fields__} for one in items)
        return page

    def _letters(self) -> list[dict[str, Any]]:
        self.calls.append(("dead letters",))
        return [{
            "topic": "events", "number": 1, "time_ms": NOW_MS, "error": "BadEvent", "message": HOSTILE,
            "source": "events 0:17", "kind": "BadEvent: N", "replayed": False,
        }]  # fmt: skip

    def _pin(self, version: int) -> dict[str, int]:
        self.calls.append(("pin", version))
        if version > 7:
            raise BadSnapshot(f"there is no version {version} of store")
        self.board.update({"versions": {"head": 7, "pinned": version}})
        return {"pinned": version}

    def _roll_back(self) -> dict[str, int]:
        self.calls.append(("roll back",))
        return {"served": 7, "pinned": 6}

    def _install(self, user: str, item: str, k: int, context: Mapping[str, str]) -> dict[str, Any]:
        self.calls.append(("install", user, item))
        self.items = [one for one in self.items[::-1] if one != item]
        self.history.append(item)
        return {"served_ms": 123, "version": 8, "items": self.items}

    def close(self) -> None:
        """End client and server."""
        self.client.close()
        self.board.stop_all()
        self.server.close()


@contextmanager
def fake_console(folder: Path, **options: bool) -> Iterator[FakeConsole]:
    """A FakeConsole, closed at the end."""
    console = FakeConsole(folder, **options)
    try:
        yield console
    finally:
        console.close()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium. As root it has no sandbox."""
    import os

    with sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page of a browser, and what went wrong on it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("console", self._on_message)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("requestfailed", lambda request: self.errors.append(f"{request.url}: {request.failure}"))

    def _on_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)
