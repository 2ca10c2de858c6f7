"""Tokens for OAUTHBEARER: asked for once, renewed in time, never sent in clear; errors say what to mend."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.log.oauth_token import TokenSource
from stream.runtime.errors import LogError, LogUnavailable, SettingsError
from tests.support.token_server import TokenServer


@pytest.fixture
def server() -> Iterator[TokenServer]:
    """One that runs."""
    made = TokenServer()
    yield made
    made.close()


def test_a_token_serves_for_four_fifths_of_its_life(server: TokenServer) -> None:
    """Then it's asked for again; login and scope go along."""
    server.answers = [{"access_token": name, "expires_in": 100} for name in ("first", "second")]
    now = [0.0]
    source = TokenSource(server.url, ("me", "a:b"), "kafka", "", lambda: now[0])
    for now[0], token in ((0.0, "first"), (79.0, "first"), (80.0, "second"), (159.0, "second")):
        assert source.token() == token
    assert server.asked == [("me:a%3Ab", "grant_type=client_credentials&scope=kafka")] * 2


def test_a_login_that_is_refused_is_no_outage(server: TokenServer) -> None:
    """The error names client and settings, without the secret."""
    server.answers = [401]
    with pytest.raises(LogError, match=r"refuses client 'me' .*THALWEG_KAFKA_PASSWORD") as said:
        TokenSource(server.url, ("me", "hush"), "", "").token()
    assert not isinstance(said.value, LogUnavailable)
    assert "hush" not in str(said.value)


@pytest.mark.parametrize("answer", [503, {"no": "token"}, [1], {"access_token": "x", "expires_in": "soon"}])
def test_an_answer_without_a_token_is_an_outage(server: TokenServer, answer: object) -> None:
    """It may be another one next time."""
    server.answers = [answer, {"access_token": "later"}]
    source = TokenSource(server.url, ("me", "hush"), "", "")
    with pytest.raises(LogUnavailable, match="no token for Kafka"):
        source.token()
    assert source.token() == "later"


def test_a_server_that_is_away() -> None:
    """Likewise."""
    with pytest.raises(LogUnavailable, match=r"no token for Kafka from http://127\.0\.0\.1:1/"):
        TokenSource("http://127.0.0.1:1/", ("me", "hush"), "", "").token()


def test_a_file_is_read_each_time(tmp_path: Path) -> None:
    """Others renew it."""
    file = tmp_path / "token"
    source = TokenSource(file.as_uri(), ("", ""), "", "")
    with pytest.raises(LogUnavailable, match="can't be read"):
        source.token()
    for token in ("one", "two"):
        file.write_text(f"{token}\n")
        assert source.token() == token


@pytest.mark.parametrize("url", ["", "http://else.where/token", "file://host/token", "ftp://127.0.0.1/x", "token"])
def test_addresses_that_are_refused(url: str) -> None:
    """A secret is sent over TLS, or on this machine."""
    with pytest.raises(SettingsError, match="THALWEG_KAFKA_OAUTH_URL"):
        TokenSource(url, ("me", "hush"), "", "")
