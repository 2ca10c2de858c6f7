"""What a caller can do wrong: each is a ClientError that names it, of both clients."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any, Final

import pytest

from tests.support.http_ranker import http_ranker
from thalweg.client import AsyncClient, Client, ClientError, Install, InvalidRequest, Unreachable

HALF: Final = "half of a surrogate pair"


async def _ask(addresses: str | Sequence[str], name: str, argument: Any) -> Any:
    async with AsyncClient(addresses) as client:
        return await getattr(client, name)(argument)


def errors(address: str, name: str, argument: Any) -> list[ClientError]:
    """What a call raises, by Client and by AsyncClient."""
    with Client(address) as client, pytest.raises(ClientError) as first:
        getattr(client, name)(argument)
    with pytest.raises(ClientError) as second:
        asyncio.run(_ask(address, name, argument))
    return [first.value, second.value]


@pytest.mark.parametrize(("name", "argument"), [("rank", "\ud800"), ("send", [Install(user="a", item="\ud800")])])
def test_half_of_a_surrogate_pair_is_invalid(name: str, argument: Any) -> None:
    """It can't be sent at all."""
    for error in errors("127.0.0.1:1", name, argument):
        assert isinstance(error, InvalidRequest)
        assert HALF in str(error)


def test_a_name_that_does_not_resolve_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It isn't said to have refused a connection."""

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for error in errors("ranker.invalid:80", "rank", "ann"):
        assert isinstance(error, Unreachable)
        assert "http://ranker.invalid:80 has a name that doesn't resolve" in str(error)


def test_an_install_without_an_item_is_told_so() -> None:
    """Its id is made, so it isn't what lacks."""
    with http_ranker() as ranker, Client(f"127.0.0.1:{ranker.server.port}") as client:
        (result,) = client.send([Install(user="a", item="")]).results
    assert (result.status, result.reason) == ("invalid", "item is empty")
