"""The console's page in a real Chromium: what people see, and what nobody can make it do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.support.console import (
    HOSTILE,
    NOW_MS,
    TOKEN,
    FakeConsole,
    Watched,
    chromium,
    fake_console,
    needs_chromium,
    published,
)

pytestmark = needs_chromium

DASH = "\N{EN DASH}"
TABS = ("Versions", "Users", "Slices", "Dead letters")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all of these tests."""
    with chromium() as found:
        yield found


@pytest.fixture
def console(tmp_path: Path) -> Iterator[FakeConsole]:
    """A server with made-up rooms."""
    with fake_console(tmp_path) as found:
        yield found


@pytest.fixture
def page(browser: Browser, console: FakeConsole) -> Iterator[Page]:
    """The page, loaded; at the end nothing was logged as an error."""
    context = browser.new_context(reduced_motion="reduce")
    watched = Watched(context.new_page())
    watched.page.goto(console.url)
    expect(watched.page.locator("#connection")).to_have_text("live")
    yield watched.page
    assert watched.errors == []
    context.close()


def unlock(page: Page) -> None:
    """Give the page the admin token."""
    page.get_by_role("button", name="Read-only").click()
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Unlock").click()
    expect(page.get_by_role("button", name="Lock", exact=True)).to_be_visible()


def find(page: Page, user: str) -> None:
    """Search for a user."""
    page.get_by_role("tab", name="Users").click()
    page.get_by_label("User", exact=True).fill(user)
    page.get_by_role("button", name="Show the page").click()


def test_it_shows_the_loop(page: Page) -> None:
    """Rates stand on the arrows, figures below, and a plot has a line for each percentile."""
    expect(page.locator("#loop")).to_contain_text("120events/sKafka")
    expect(page.locator("#loop")).to_contain_text("3.9versions/sRedis")
    expect(page.locator("#figure-fresh")).to_have_text("180 ms")
    expect(page.locator("#figure-learned")).to_have_text("12,345")
    assert page.locator("#plot-wide path.line").count() == 2
    assert len(page.locator("#plot-wide path.line").first.get_attribute("d") or "") > 100


def test_it_follows_the_stream(page: Page, console: FakeConsole) -> None:
    """What changes appears by itself: rates, a room that is gone, a new version."""
    rooms = [
        ["joiner", "0", "up", "ok"],
        ["learner", "0", "up", "ok"],
        ["ranker", "0", "gone", "its process has ended"],
    ]
    console.board.update({"rates": {"events": 77.0}, "rooms": rooms}, [], [published(8)])
    expect(page.locator("#loop")).to_contain_text("77events/s")
    expect(page.locator("#room-ranker")).to_have_class("room gone")
    expect(page.locator("#gone")).to_contain_text("its process has ended")
    expect(page.locator("#timeline li").first).to_contain_text("version 8 published")


def test_what_is_not_known_is_a_dash(page: Page, console: FakeConsole) -> None:
    """Figures and delays that rooms don't export yet break nothing."""
    model = {"examples": 1, "auc": None, "log_loss": None, "calibration": None, "base_rate": None, "staleness_s": 0.0}
    delays = {"wide": [None, None], "deep": [None, None], "answer": [None, None]}
    slices = [["all", "2000", None, None, None, None, None]]
    console.board.update({"model": model, "delays": delays, "slices": slices}, [[NOW_MS, 0.0, *[None] * 6]])
    for figure in ("fresh", "answer", "auc", "calibration", "stale"):
        expect(page.locator(f"#figure-{figure}")).to_have_text(DASH)
    page.get_by_role("tab", name="Slices").click()
    expect(page.locator("#panel-slices tbody")).to_have_text("all2000" + 5 * DASH)


def test_the_timeline_says_what_was_refused_and_what_is_live(page: Page) -> None:
    """A refused version has its reason; the live one has a mark."""
    expect(page.locator("#timeline li.refused")).to_contain_text("refused 2 times: spread too wide")
    expect(page.locator("#timeline li", has_text="version 7")).to_contain_text("live")
    expect(page.locator("#timeline li", has_text="version 6")).not_to_contain_text("live")


def test_pinning_takes_a_token_and_a_confirmation(page: Page, console: FakeConsole) -> None:
    """Without a token nothing is asked; with one a dialog is; Cancel does nothing."""
    pin = page.get_by_role("button", name="Pin version 6")
    pin.click()
    expect(page.locator("#said")).to_contain_text("token")
    unlock(page)
    pin.click()
    page.get_by_role("button", name="Cancel").click()
    pin.click()
    expect(page.locator("#confirm")).to_contain_text("Pin version 6?")
    page.get_by_role("button", name="Pin it").click()
    expect(page.locator("#serving")).to_have_text("Version 6 is pinned; the newest is 7.")
    expect(page.locator("#timeline li", has_text="version 6")).to_contain_text("pinned")
    assert [call for call in console.calls if call[0] == "pin"] == [("pin", 6)]
    page.get_by_role("button", name="Roll back…").click()
    page.get_by_role("button", name="Roll back", exact=True).click()
    expect(page.locator("#said")).to_have_text("Rolled back.")
    assert ("roll back",) in console.calls


def test_a_token_that_is_none_locks_again(browser: Browser, console: FakeConsole) -> None:
    """Enter takes what was typed; once the server says that it's no token, another can be entered."""
    opened = browser.new_page()
    opened.goto(console.url)
    opened.get_by_role("button", name="Read-only").click()
    opened.get_by_label("Token").fill("mistyped-mistyped")
    opened.keyboard.press("Enter")
    expect(opened.get_by_role("button", name="Lock", exact=True)).to_be_visible()
    opened.get_by_role("button", name="Roll back…").click()
    opened.get_by_role("button", name="Roll back", exact=True).click()
    expect(opened.locator("#said")).to_contain_text("No valid token")
    expect(opened.get_by_role("button", name="Read-only")).to_be_visible()
    assert console.calls == []
    unlock(opened)
    opened.close()


def test_a_user_s_page_is_explained(page: Page, console: FakeConsole) -> None:
    """Titles, probabilities, sources, boosts, parts of the logit, terms; the history; what rules removed."""
    find(page, "ann/1 ü")
    first = page.locator("ol.page > li").first
    expect(first).to_contain_text("p 0.300 · by popular (1) · boosts fresh +0.10")
    parts = "logit -0.65: bias -1.00, wide +0.60, deep -0.25".replace("-", "\N{MINUS SIGN}")
    expect(first.get_by_role("img")).to_have_attribute("aria-label", parts)
    first.locator("summary").click()
    expect(first.locator("tbody tr")).to_have_count(2)
    expect(page.locator("ol.history li")).to_have_count(1)
    expect(page.locator("#user-page")).to_contain_text("rules removed: installed 2")
    assert ("page", "ann/1 ü", 10, {"device": "phone"}) in console.calls


def test_an_install_of_the_demo_changes_the_page(page: Page, console: FakeConsole) -> None:
    """Its time is shown, what moved is marked, and the item is in the history."""
    find(page, "ann")
    page.get_by_role("button", name="Install chess").click()
    expect(page.locator("#user-status")).to_contain_text("123 ms later version 8")
    expect(page.locator("ol.page > li").first).to_contain_text("▲ 2")
    expect(page.locator("ol.page > li")).to_have_count(2)
    expect(page.locator("ol.history li")).to_have_count(2)


def test_a_ranker_that_is_gone_is_said(browser: Browser, console: FakeConsole) -> None:
    """The page says what is wrong and what to do."""
    opened = browser.new_page()
    opened.goto(console.url)
    find(opened, "nobody")
    expect(opened.locator("#user-status")).to_contain_text("No answer: it is gone: start one")
    opened.close()


def test_slices_and_dead_letters(page: Page, console: FakeConsole) -> None:
    """Slices are a table; dead letters are read only once their tab is open, and again when there are more."""
    page.get_by_role("tab", name="Slices").click()
    expect(page.locator("#panel-slices tbody tr")).to_have_count(2)
    assert ("dead letters",) not in console.calls
    page.get_by_role("tab", name="Dead letters 1").click()
    expect(page.locator("#panel-dead")).to_contain_text("events 0:17")
    console.board.update({"dead": 2})
    expect(page.locator("#dead-count")).to_have_text("2")
    page.wait_for_function("() => performance.getEntriesByName(location.origin + '/api/dead-letters').length === 2")


def test_no_text_becomes_a_script(page: Page, console: FakeConsole) -> None:
    """Script and markup in titles, terms, reasons and messages stay text."""
    find(page, "ann")
    expect(page.locator("ol.page > li").first).to_contain_text(HOSTILE)
    page.get_by_role("tab", name="Dead letters").click()
    expect(page.locator("#panel-dead")).to_contain_text(HOSTILE)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 1, "the logo, and none from a title"


def test_the_policy_stops_what_escaping_would_miss(browser: Browser, console: FakeConsole) -> None:
    """An inline script that got in wouldn't run, and nothing is loaded from another host."""
    opened = browser.new_page()
    opened.goto(console.url)
    violated = opened.evaluate("""async () => {
        const violated = new Set();
        document.addEventListener("securitypolicyviolation", (event) => violated.add(event.effectiveDirective));
        const tried = async (act) => { try { await act(); } catch { /* refused at once */ } };
        await tried(() => { document.body.lastElementChild.innerHTML = "<b>x</b>"; });
        await tried(() => document.body.setAttribute("onclick", "window.hacked=1"));
        document.body.click();
        await tried(() => fetch("http://localhost:1/"));
        const image = document.createElement("img");
        image.src = "http://localhost:1/x.png";
        const style = document.createElement("style");
        style.textContent = "body { color: red }";
        document.body.append(image, style);
        for (let i = 0; violated.size < 4 && i < 500; i++) await new Promise((done) => setTimeout(done, 20));
        return [...violated].sort();
    }""")
    assert violated == ["connect-src", "img-src", "require-trusted-types-for", "style-src-elem"]
    assert opened.evaluate("window.hacked") is None
    opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, console: FakeConsole, scheme: Any) -> None:
    """axe-core has no serious or critical finding, on any tab, nor in the dialogs."""
    context = browser.new_context(color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.goto(console.url)
    expect(page.locator("#connection")).to_have_text("live")
    console.board.update(
        {"rooms": [["joiner", "0", "starting", "x"], ["learner", "0", "up", "x"], ["ranker", "0", "gone", "x"]]}
    )
    expect(page.locator("#gone")).to_contain_text("ranker")
    serious: list[tuple[str, ...]] = []

    def look(where: str) -> None:
        found = Axe().run(page).response["violations"]
        serious.extend(
            (where, one["id"], one["nodes"][0]["html"][:200])
            for one in found
            if one["impact"] in ("serious", "critical")
        )

    for tab in TABS:
        page.get_by_role("tab", name=tab).click()
        if tab == "Users":
            find(page, "ann")
            page.get_by_role("button", name="Install chess").click()
            expect(page.locator("ol.page li.moved").first).to_be_visible()
        look(tab)
    page.get_by_role("button", name="Read-only").click()
    look("token")
    unlock_in_dialog = page.locator("#token-dialog")
    unlock_in_dialog.get_by_label("Token").fill(TOKEN)
    unlock_in_dialog.get_by_role("button", name="Unlock").click()
    page.get_by_role("tab", name="Versions").click()
    page.get_by_role("button", name="Pin version 6").click()
    look("confirmation")
    assert serious == []
    context.close()


def test_a_keyboard_is_enough(page: Page, console: FakeConsole) -> None:
    """Tab, arrows and Enter unlock, choose a tab, search, install, pin and confirm; focus is visible and returns."""
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the loop"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.type(TOKEN)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Lock", exact=True)).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Users")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.type("ann")
    page.keyboard.press("Enter")
    expect(page.locator("ol.page > li")).to_have_count(3)
    page.get_by_role("button", name="Install chess").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#user-status")).to_contain_text("123 ms")
    page.get_by_role("tab", name="Users").focus()
    page.keyboard.press("Home")
    for _ in range(2):
        page.keyboard.press("Tab")
    while not (page.evaluate("document.activeElement.getAttribute('aria-label')") or "").startswith("Pin version 7"):
        page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#serving")).to_contain_text("Version 7 is pinned")
    expect(page.get_by_role("button", name="Pin version 7")).to_be_focused()


def test_light_and_dark(page: Page) -> None:
    """The button switches the scheme that the browser prefers."""
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Switch between light and dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_it_connects_again(browser: Browser, console: FakeConsole) -> None:
    """A page that lost its stream says so, and goes on once the server answers."""
    opened = browser.new_page()
    opened.goto(console.url)
    expect(opened.locator("#connection")).to_have_text("live")
    opened.context.set_offline(True)
    console.board.stop_all()
    expect(opened.locator("#connection")).to_have_text("connection lost")
    opened.context.set_offline(False)
    expect(opened.locator("#connection")).to_have_text("live")
    opened.close()
