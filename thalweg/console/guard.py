"""What every answer of the console says to a browser, and what no foreign page may ask."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from ranker.http.problems import UNSUPPORTED, HttpProblem, ProblemKind

App = Callable[[Any, Any, Any], Awaitable[None]]

FOREIGN_ORIGIN: Final = ProblemKind(
    "foreign_origin", 403, "The request comes from another site", "open the console by its own address"
)
# Nothing is loaded from elsewhere, nothing inline runs, and no text becomes markup or a script.
POLICY: Final = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'",
        "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)  # fmt: skip
HEADERS: Final = [
    (name.encode(), value.encode())
    for name, value in {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=()",
    }.items()
]
SAME_SITE: Final = (b"same-origin", b"none")  # `none`: a person typed the address


def with_headers(app: App) -> App:
    """The same app, with HEADERS in each answer."""

    async def answered(scope: Any, receive: Any, send: Any) -> None:
        async def adding(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = message | {"headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        await app(scope, receive, adding if scope["type"] == "http" else send)

    return answered


def same_origin(app: App) -> App:
    """The same app for pages of its own origin; the Host header was checked before. Raises HttpProblem.

    A request without an Origin doesn't come from a page's script. A body must be JSON: a form of another site can't
    send that without asking first.
    """

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            check_origin(dict(scope["headers"]), scope["method"])
        await app(scope, receive, send)

    return guarded


def check_origin(headers: dict[bytes, bytes], method: str) -> None:
    """Raises HttpProblem when the headers name another origin, or a POST isn't JSON."""
    origin = headers.get(b"origin")
    host = headers.get(b"host", b"").decode("latin-1").lower()
    if origin is not None and not is_own(origin.decode("latin-1"), host):
        raise HttpProblem(FOREIGN_ORIGIN, f"its origin is {origin[:100].decode('latin-1')!r}")
    site = headers.get(b"sec-fetch-site", b"none")
    if site not in SAME_SITE and not (method in ("GET", "HEAD") and headers.get(b"sec-fetch-mode") == b"navigate"):
        raise HttpProblem(FOREIGN_ORIGIN, f"the browser says that it is {site[:20].decode('latin-1')!r}")
    form = headers.get(b"content-type", b"").split(b";", 1)[0].strip().lower()
    if method == "POST" and form != b"application/json":
        raise HttpProblem(UNSUPPORTED, "the console takes JSON only", remedy="send application/json")


def is_own(origin: str, host: str) -> bool:
    """Whether an Origin header names the host that a request is for. `host`: the header, in lower case.

    >>> is_own("http://127.0.0.1:8088", "127.0.0.1:8088"), is_own("null", "127.0.0.1:8088")
    (True, False)
    >>> is_own("http://evil.example", "127.0.0.1:8088"), is_own("http://127.0.0.1:9", "127.0.0.1:8088")
    (False, False)
    """
    return origin.lower() in (f"http://{host}", f"https://{host}")
