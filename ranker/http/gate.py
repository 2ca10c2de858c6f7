"""What every request passes first: is it for this host, and who calls. Errors become problem details here."""

import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from ranker import metrics
from ranker.http.bodies import Headers, Receive, Send
from ranker.http.problems import FAILED, FOREIGN_HOST, NOT_ALLOWED, HttpProblem
from ranker.http.routes import route_of
from ranker.http.tokens import Caller, Scope, Tokens, require

HTTP_HOSTS: Final = ("localhost", "127.0.0.1", "::1")

log = logging.getLogger(__name__)

ASGIScope = dict[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]
Endpoint = Callable[[Caller, Headers, Receive, Send], Awaitable[None]]


class Gate:
    """An ASGI app around `app`. `posts` are answered before it: the paths where each microsecond counts.
    Each is for callers with one of its scopes.

    `hosts` are the names by which this ranker may be called, beside the address that a request came in by.
    """

    def __init__(
        self, app: App, posts: Mapping[str, tuple[Sequence[Scope], Endpoint]], tokens: Tokens, hosts: Iterable[str] = ()
    ) -> None:
        self._app, self._posts, self._tokens = app, posts, tokens
        self._hosts = frozenset(host.strip().lower() for host in (*HTTP_HOSTS, *hosts) if host.strip())

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Any) -> None:
        """One request, or the server's start and end."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s, status = time.monotonic(), 0

        async def watched(message: dict[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._answer(scope, receive, watched)
        except HttpProblem as problem:
            await send_problem(problem, watched)
        except Exception as error:
            log.exception("a request to %s failed", route_of(scope["path"]))
            if status:
                raise
            await send_problem(HttpProblem(FAILED, f"{type(error).__name__}: the ranker's log says more"), watched)
        finally:
            observe(scope["path"], status, time.monotonic() - started_s)

    async def _answer(self, scope: ASGIScope, receive: Receive, send: Any) -> None:
        self._check_host(scope)
        post = self._posts.get(scope["path"])
        if post is None:
            # uvicorn leaves the body out of an answer to HEAD.
            await self._app(scope | {"method": "GET"} if scope["method"] == "HEAD" else scope, receive, send)
            return
        if scope["method"] != "POST":
            raise HttpProblem(NOT_ALLOWED, f"{scope['path']} takes POST only", headers=[(b"allow", b"POST")])
        scopes, endpoint = post
        headers = dict(scope["headers"])
        caller = self._tokens.caller(headers.get(b"authorization"))
        require(caller, *scopes)
        await endpoint(caller, headers, receive, send)

    def _check_host(self, scope: ASGIScope) -> None:
        """A page of another site that has its name resolve to this address sends that name, and is refused."""
        named = [value for name, value in scope["headers"] if name == b"host"]
        if len(named) == 1:
            host = host_of(named[0].decode("latin-1"))
            if host in self._hosts or is_address(host, scope["server"]):
                return
        shown = named[0][:100].decode("latin-1") if named else ""
        raise HttpProblem(FOREIGN_HOST, f"the header Host says {shown!r}" if len(named) < 2 else "two Host headers")


def observe(path: str, status: int, seconds: float) -> None:
    """Count an answer."""
    route = route_of(path)
    metrics.HTTP_REQUESTS.labels(route, status).inc()
    metrics.HTTP_SECONDS.labels(route).observe(seconds)


def overload_of(path: str, problem: Callable[[], HttpProblem | None]) -> Callable[[bytes, bytes], HttpProblem | None]:
    """What `Bounds.overload` asks: POSTs to `path` have this problem, whoever sends them."""
    method, raw_path = b"POST", path.encode()

    def overload(asked_method: bytes, asked_path: bytes) -> HttpProblem | None:
        found = problem() if asked_path == raw_path and asked_method == method else None
        if found is not None:
            observe(path, found.kind.status, 0.0)
        return found

    return overload


def host_of(header: str) -> str:
    """The host of a Host header, without its port, in lower case.

    >>> host_of("Ranker.example:8080"), host_of("[::1]:80"), host_of("10.0.0.1")
    ('ranker.example', '::1', '10.0.0.1')
    """
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower() if ":" in header else header.lower()


def is_address(host: str, server: tuple[str, int] | None) -> bool:
    """Whether `host` is the very address at which the connection arrived. An address can't be rebound as a name can.

    >>> is_address("10.0.0.1", ("::ffff:10.0.0.1", 80)), is_address("10.0.0.1", ("10.0.0.2", 80))
    (True, False)
    """
    if server is None:
        return False
    try:
        return _address(host) == _address(server[0])
    except ValueError:
        return False


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address; an IPv4 one that came in by a socket of IPv6 (::ffff:10.0.0.1) is that IPv4 one."""
    address = ipaddress.ip_address(text)
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


async def send_problem(problem: HttpProblem, send: Any) -> None:
    """Answer with a problem."""
    await send({"type": "http.response.start", "status": problem.kind.status, "headers": problem.headers})
    await send({"type": "http.response.body", "body": problem.body})
