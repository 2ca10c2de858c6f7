"""Who may ask the console for what: hosts, origins, tokens."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.console import TOKEN, FakeConsole, fake_console
from thalweg.console.app import ASSETS, BODY_BYTES_MAX
from thalweg.console.board import PAGES_MAX, Board
from thalweg.console.guard import HEADERS

ADMIN = {"authorization": f"Bearer {TOKEN}"}
DECISIONS = {"/api/versions/pin": {"version": 6}, "/api/versions/roll-back": {}}


@pytest.fixture
def console(tmp_path: Path) -> Iterator[FakeConsole]:
    """A server with made-up rooms."""
    with fake_console(tmp_path) as found:
        yield found


def decided(console: FakeConsole) -> bool:
    """Whether a decision got through."""
    return any(call[0] in ("pin", "roll back") for call in console.calls)


@pytest.mark.parametrize("path", DECISIONS)
def test_decisions_need_an_admin_token(console: FakeConsole, path: str) -> None:
    """401 without a token or with an unknown one, 403 with one of another scope, 200 with one of `admin`."""
    for token, status in (("", 401), ("Bearer nonsense-nonsense", 401), (f"Bearer {TOKEN[::-1]}", 403)):
        headers = {"authorization": token} if token else {}
        assert console.client.post(path, json=DECISIONS[path], headers=headers).status_code == status
    assert not decided(console)
    assert console.client.post(path, json=DECISIONS[path], headers=ADMIN).status_code == 200
    assert decided(console)


def test_a_token_travels_in_the_header_alone(console: FakeConsole) -> None:
    """A token in a cookie or in the URL is no token, and no answer sets a cookie."""
    for path, cookies in ((f"/api/versions/pin?token={TOKEN}", {}), ("/api/versions/pin", {"authorization": TOKEN})):
        console.client.cookies.update(cookies)
        answer = console.client.post(path, json={"version": 6})
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
    assert not decided(console)


def test_without_tokens_it_only_reads(tmp_path: Path) -> None:
    """Where no tokens are set nobody decides, and the answer says how to set some."""
    with fake_console(tmp_path, has_tokens=False) as console:
        answer = console.client.post("/api/versions/pin", json={"version": 6}, headers=ADMIN)
        assert answer.status_code == 403
        assert "THALWEG_HTTP_TOKENS" in answer.json()["remedy"]
        assert console.client.get("/").status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://console.example.evil", "http://[", ""]
)
def test_a_foreign_origin_is_refused(console: FakeConsole, origin: str) -> None:
    """A page of another site neither decides, installs, nor reads; it's 403 whatever token it has."""
    headers = {"origin": origin, **ADMIN}
    assert console.client.post("/api/versions/pin", json={"version": 6}, headers=headers).status_code == 403
    body = {"user": "ann", "item": "chess"}
    assert console.client.post("/api/install", json=body, headers=headers).status_code == 403
    answer = console.client.get("/api/users/ann", headers=headers)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    assert console.calls == []


def test_its_own_origin_passes(console: FakeConsole) -> None:
    """The page's own requests name the host that they are for."""
    headers = {"origin": console.url, "sec-fetch-site": "same-origin", **ADMIN}
    assert console.client.post("/api/versions/pin", json={"version": 6}, headers=headers).status_code == 200


def test_browsers_say_who_asks(console: FakeConsole) -> None:
    """A request from another site that has no Origin, such as an image, is refused; a link to the page isn't."""
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert console.client.get("/api/users/ann", headers=headers).status_code == 403
    assert console.client.get("/", headers=headers | {"sec-fetch-mode": "navigate"}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_a_rebound_host_is_refused(console: FakeConsole, host: str) -> None:
    """A name that resolves to this address, and isn't this console's, gets 421."""
    for path in ("/", "/assets/app.js", "/api/users/ann"):
        assert console.client.get(path, headers={"host": host}).status_code == 421
    assert console.calls == []


def test_named_hosts_pass(console: FakeConsole) -> None:
    """THALWEG_HTTP_HOSTS names others."""
    assert console.client.get("/", headers={"host": "console.example:8080"}).status_code == 200


@pytest.mark.parametrize("form", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_is_json(console: FakeConsole, form: str) -> None:
    """What a form of another site could send isn't taken."""
    headers = {"content-type": form, **ADMIN}
    assert console.client.post("/api/versions/pin", content=b'{"version":6}', headers=headers).status_code == 415
    assert not decided(console)


@pytest.mark.parametrize("body", [b"{", b'{"version":-1}', b'{"version":6,"more":1}', b"[]", b"[" * 9999])
def test_a_bad_body_is_refused(console: FakeConsole, body: bytes) -> None:
    """400, and nothing is decided."""
    headers = {"content-type": "application/json", **ADMIN}
    assert console.client.post("/api/versions/pin", content=body, headers=headers).status_code == 400
    assert not decided(console)


def test_a_body_is_bounded(console: FakeConsole) -> None:
    """A body over the bound isn't read to its end."""
    body = b'{"version":6' + b" " * BODY_BYTES_MAX + b"}"
    answer = console.client.post(
        "/api/versions/pin", content=body, headers={"content-type": "application/json"} | ADMIN
    )
    assert answer.status_code == 413
    assert not decided(console)


def test_a_version_that_is_unknown(console: FakeConsole, caplog: pytest.LogCaptureFixture) -> None:
    """404 with the store's own words; the log doesn't say that it was pinned."""
    answer = console.client.post("/api/versions/pin", json={"version": 99}, headers=ADMIN)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert "version 99" in answer.json()["detail"]
    assert "pinned" not in caplog.text
    console.client.post("/api/versions/pin", json={"version": 6}, headers=ADMIN)
    assert "pinned" in caplog.text


def test_what_a_ranker_calls_invalid_is_invalid(console: FakeConsole) -> None:
    """400, not that it doesn't answer."""
    answer = console.client.get("/api/users/ann?context.hour=never")
    assert answer.status_code == 400
    assert "hour" in answer.json()["detail"]


def test_installs_are_for_demos(tmp_path: Path) -> None:
    """Without --demo nobody can make one."""
    with fake_console(tmp_path, is_demo=False) as console:
        assert console.client.post("/api/install", json={"user": "ann", "item": "chess"}).status_code == 404
        assert console.calls == []


@pytest.mark.parametrize("path", ["/", "/assets/app.js", "/api/users/ann", "/none", "/api/users/nobody"])
def test_every_answer_has_the_policy(console: FakeConsole, path: str) -> None:
    """Pages, data and problems all carry the same headers."""
    answer = console.client.get(path)
    for name, value in HEADERS:
        assert answer.headers.get_list(name.decode()) == [value.decode()]
    assert "'unsafe" not in answer.headers["content-security-policy"]


def test_the_page_has_nothing_inline(console: FakeConsole) -> None:
    """No script, style or handler stands in the page itself, and nothing is loaded from elsewhere."""
    page = console.client.get("/").text
    assert [one for one in ("<script>", "<style", " style=", " onclick=", "http://", "https://") if one in page] == []


def test_the_page_is_small(console: FakeConsole) -> None:
    """All of its files have at most 200 kB together, and each is sent with its type."""
    answers = [console.client.get(f"/assets/{file.name}") for file in ASSETS.iterdir() if file.suffix != ".html"]
    types = {one.headers["content-type"].partition(";")[0] for one in answers}
    assert types == {"text/css", "text/javascript", "image/svg+xml"}
    assert len(console.client.get("/").content) + sum(len(one.content) for one in answers) <= 200_000


def test_pages_are_bounded(console: FakeConsole, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number of open pages a stream is refused, and says when to try again."""
    monkeypatch.setattr(Board, "pages", PAGES_MAX)
    answer = console.client.get("/api/stream")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"


@pytest.mark.parametrize("user", ["a/b/", "ü?x=1", " "])
def test_any_id_can_be_asked_for(console: FakeConsole, user: str) -> None:
    """A user's id is what the path says, to the byte."""
    assert console.client.get(f"/api/users/{quote(user, safe='')}").status_code == 200
    assert console.calls == [("page", user, 10, {})]
