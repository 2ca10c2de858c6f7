"""Who may call what: tokens and hosts."""

import logging
from pathlib import Path
from urllib.parse import quote

import pytest

from ranker.http.tokens import SCOPES, Tokens, check_exposure
from stream.events.codec import decode_events
from stream.events.types import Erase
from stream.runtime.errors import SettingsError
from tests.support.http_ranker import http_ranker, problem_of

ONE, OTHER, ALL = "one-token-of-the-shop", "another-token-of-it", "a-token-for-everything"
CALLS = {"rank": ("POST", "/v1/rank"), "catalogue": ("GET", "/v1/items/i1"), "admin": ("GET", "/metrics")}


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        """Now."""
        return self.s


def write(file: Path, **tokens: tuple[str, list[str]]) -> Path:
    """A file of tokens by name."""
    file.write_text("\n".join(f"[{name}]\ntoken = {t!r}\nscopes = {scopes}" for name, (t, scopes) in tokens.items()))
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two tokens to rank with, as during a rotation, and one for everything."""
    return write(tmp_path / "tokens.toml", old=(ONE, ["rank"]), new=(OTHER, ["rank"]), ops=(ALL, list(SCOPES)))


def bearer(token: str) -> dict[str, str]:
    """The header of a token."""
    return {"Authorization": f"Bearer {token}"}


def test_each_call_needs_a_token_with_its_scope(file: Path) -> None:
    """401 without a valid token, 403 without the scope; several tokens are valid at once."""
    with http_ranker(file) as ranker:
        for scope, (method, path) in CALLS.items():

            def call(headers: dict[str, str], method: str = method, path: str = path) -> int:
                content = b'{"user":"u"}' if method == "POST" else None
                form = {"content-type": "application/json"}
                response = ranker.client.request(method, path, content=content, headers=headers | form)
                if response.status_code != 200:
                    problem_of(response)
                return response.status_code

            assert call({}) == call(bearer("guessed-token-of-theirs")) == call({"Authorization": f"Basic {ONE}"}) == 401
            assert call(bearer(ALL)) == 200
            assert call(bearer(ONE)) == call(bearer(OTHER)) == (200 if scope == "rank" else 403)
        refused = ranker.rank()
        assert refused.headers["www-authenticate"] == "Bearer"
        assert ranker.client.get("/livez").status_code == ranker.client.get("/docs").status_code == 200


def test_without_tokens_all_but_admin_is_open() -> None:
    """That is for one machine: beyond loopback the ranker doesn't start."""
    with http_ranker() as ranker:
        assert ranker.rank().status_code == ranker.client.get("/v1/items/i1").status_code == 200
        refused = ranker.client.get("/metrics")
        assert refused.status_code == 403
        assert "THALWEG_HTTP_TOKENS" in problem_of(refused)["remedy"]


def test_a_user_is_erased_by_an_admin_only(tmp_path: Path) -> None:
    """Over either way: an event, a tombstone of the attributes, and the profile that was read lately is dropped."""
    file = tmp_path / "tokens.toml"
    write(file, app=(ONE, ["rank", "events", "catalogue"]), ops=(OTHER, ["admin", "events"]))
    with http_ranker(file) as ranker:
        path, erase = "/v1/users/ann%2Fb", {"type": "erase", "user": "bob"}
        assert ranker.client.delete(path, headers=bearer(ONE)).status_code == 403
        posted = ranker.client.post("/v1/events", json=[erase], headers=bearer(ONE))
        assert posted.json()["results"][0]["status"] == "forbidden"
        assert not ranker.log.records("events")
        answer = ranker.client.delete(path, headers=bearer(OTHER))
        assert (answer.status_code, answer.json()["user"], ranker.dropped) == (202, "ann/b", ["ann/b"])
        assert {"place", "data", "removed"} == set(answer.json()["places"][0])
        assert ranker.client.post("/v1/events", json=[erase], headers=bearer(OTHER)).json()["written"] == 1
        found = [event for record in ranker.log.records("events") for event in decode_events(record.value or b"")[0]]
        assert {event.user for event in found if isinstance(event, Erase)} == {"ann/b", "bob"}
        tombstones = {record.key: record.value for record in ranker.log.records("users")}
        assert tombstones == {b"ann/b": None, b"bob": None}
        refused = ["x" * 300, "%FF", "ann?b", ""]
        codes = [ranker.client.delete(f"/v1/users/{one}", headers=bearer(OTHER)).status_code for one in refused]
        assert codes == [400, 400, 400, 404]
        assert len(ranker.dropped) == 1


def test_an_id_in_a_path_is_taken_to_the_byte(tmp_path: Path) -> None:
    """With slashes at its ends, and whatever else: another user than the one who is named is never erased."""
    file = write(tmp_path / "tokens.toml", ops=(ONE, ["admin", "catalogue"]))
    ids = ["ann/", "/ann", "a//b", "a?b", "a%2Fb", " ", "x" * 256, "\N{GRINNING FACE}"]
    with http_ranker(file) as ranker:
        for one in ids:
            answer = ranker.client.delete(f"/v1/users/{quote(one, safe='')}", headers=bearer(ONE))
            assert answer.json()["user"] == one
        assert ranker.dropped == ids
        item = ranker.client.get("/v1/items/with%2Fslash%2F", headers=bearer(ONE))
        assert item.json()["item"] == "with/slash/"
        assert ranker.client.delete("//v1/users/ann", headers=bearer(ONE)).status_code == 404


def test_nobody_is_erased_where_the_ledger_is_missing(tmp_path: Path) -> None:
    """In a deployment that an earlier release made; other events of the list are written."""
    file = write(tmp_path / "tokens.toml", ops=(ONE, ["admin", "events"]))
    with http_ranker(file) as ranker:
        del ranker.log._topics["erased"]
        events = [{"type": "erase", "user": "bob"}, {"type": "install", "user": "bob", "item": "i"}]
        answer = ranker.client.post("/v1/events", json=events, headers=bearer(ONE)).json()
        assert [one["status"] for one in answer["results"]] == ["invalid", "written"]
        refused = ranker.client.delete("/v1/users/bob", headers=bearer(ONE))
        assert refused.status_code == 500
        for why in (answer["results"][0]["reason"], problem_of(refused)["detail"]):
            assert "--finalize" in why
        assert not ranker.log.records("users")
        assert ranker.dropped == []


def test_without_tokens_it_does_not_listen_beyond_loopback(file: Path, tmp_path: Path) -> None:
    """An empty file is as good as none."""
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    for tokens in (Tokens(None, Clock()), Tokens(empty, Clock())):
        for host in ("0.0.0.0", "::", "10.0.0.1", "ranker.example"):
            with pytest.raises(SettingsError, match="THALWEG_HTTP_TOKENS"):
                check_exposure(host, tokens)
        check_exposure("127.0.0.1", tokens)
    check_exposure("0.0.0.0", Tokens(file, Clock()))


def test_the_file_is_read_again_when_it_changes(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A rotation needs no restart; a broken or missing file changes nothing, and no log shows a token."""
    clock = Clock()
    with caplog.at_level(logging.INFO), http_ranker(file, now_s=clock) as ranker:

        def status(token: str) -> int:
            clock.s += 10
            return ranker.rank(**bearer(token)).status_code

        assert (status(ONE), status(OTHER)) == (200, 200)
        write(file, new=(OTHER, ["rank"]))
        assert (status(ONE), status(OTHER)) == (401, 200)
        for broken in (f"token = {ONE}", f'[x]\ntoken = "{ONE}"\nscopes = ["everything"]', '[x]\ntoken = "short"'):
            file.write_text(broken)
            assert (status(ONE), status(OTHER)) == (401, 200)
        reads = caplog.text.count("was read again")
        file.write_text("# all are revoked")
        assert status(OTHER) == 200
        assert "names no token any more" in caplog.text
        assert caplog.text.count("was read again") == reads
        file.unlink()
        assert status(OTHER) == 200
        write(file, old=(ONE, ["rank"]))
        assert (status(ONE), status(OTHER)) == (200, 401)
    assert "stay as they were" in caplog.text
    assert "was read again" in caplog.text
    assert not [token for token in (ONE, OTHER, "short") if token in caplog.text]


@pytest.mark.parametrize("text", ["[", "[a]\ntoken = 7\nscopes = ['rank']", "[a]\ntoken = 'long-enough-for-it'"])
def test_a_ranker_does_not_start_with_invalid_tokens(tmp_path: Path, text: str) -> None:
    """The error names the file and the form that it should have."""
    file = tmp_path / "tokens.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"tokens\.toml.*write a table for each token"):
        Tokens(file, Clock())
    with pytest.raises(SettingsError, match="can't be read"):
        Tokens(tmp_path / "missing.toml", Clock())


def test_a_foreign_host_is_refused() -> None:
    """Else a page of another site could call a ranker on loopback by a name that resolves to it."""
    with http_ranker(hosts=["ranker.example"]) as ranker:
        for host, status in {
            "localhost": 200,
            "localhost:1": 200,
            "127.0.0.1": 200,
            "[::1]:80": 200,
            "Ranker.Example:80": 200,
            "evil.example": 421,
            "ranker.example.evil": 421,
            "10.0.0.1": 421,
            "": 421,
        }.items():
            response = ranker.client.get("/livez", headers={"Host": host})
            assert response.status_code == status, host
        assert "THALWEG_HTTP_HOSTS" in problem_of(ranker.client.get("/livez", headers={"Host": "a.b"}))["remedy"]


def test_head_answers_as_get_without_the_body() -> None:
    """Load balancers ask by HEAD; what changes something stays POST."""
    with http_ranker() as ranker:
        for path, status in {
            "/livez": 200,
            "/readyz": 200,
            "/v1/models": 200,
            "/nothing": 404,
            "/v1/rank": 405,
        }.items():
            response = ranker.client.head(path)
            assert (response.status_code, response.content) == (status, b""), path


def test_no_answer_lets_another_site_read_it(file: Path) -> None:
    """CORS is off: no answer has an Access-Control header, whatever Origin asks, and preflights get no consent."""
    with http_ranker(file) as ranker:
        for method, path in (
            ("OPTIONS", "/v1/rank"),
            ("OPTIONS", "/v1/models"),
            ("GET", "/livez"),
            ("POST", "/v1/rank"),
        ):
            asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
            response = ranker.client.request(method, path, headers=asked | bearer(ALL))
            assert not [name for name in response.headers if name.startswith("access-control")]
