"""Bodies of requests, bounded before and after decompression, and the two forms that they and answers have."""

import zlib
from collections.abc import Mapping
from typing import Any, Final

from ranker.http.problems import INVALID, NOT_ACCEPTABLE, TOO_LARGE, UNSUPPORTED, HttpProblem

BODY_BYTES_MAX: Final = 256 * 1024  # counted after gzip
JSON, MSGPACK = b"application/json", b"application/msgpack"
FORMS: Final = (JSON, MSGPACK)
GZIP_WBITS: Final = 31  # zlib: a gzip stream
CLOSE: Final = ((b"connection", b"close"),)  # what the client still sends isn't read

Receive = Any  # ASGI's callables: untyped dicts
Send = Any
Headers = Mapping[bytes, bytes]


def form_of(headers: Headers) -> bytes:
    """The form of the body, of FORMS. Raises HttpProblem (415)."""
    named = headers.get(b"content-type", b"").split(b";", 1)[0].strip().lower()
    if named not in FORMS:
        shown = named[:100].decode("latin-1") or "nothing"
        raise HttpProblem(UNSUPPORTED, f"Content-Type says {shown}")
    return named


def answer_form(headers: Headers, form: bytes) -> bytes:
    """The form of the answer: what Accept names first, else that of the request. Raises HttpProblem (406)."""
    accept = headers.get(b"accept")
    if accept is None or accept == b"*/*":
        return form
    for part in accept.split(b","):
        media, *parameters = [piece.strip().lower() for piece in part.split(b";")]
        if b"q=0" in parameters:
            continue
        if media in FORMS:
            return media
        if media in (b"*/*", b"application/*"):
            return form
    raise HttpProblem(NOT_ACCEPTABLE, f"Accept names neither of {JSON.decode()} and {MSGPACK.decode()}")


async def read_body(headers: Headers, receive: Receive) -> bytes:
    """The whole body, decompressed. Raises HttpProblem (400, 413, 415) without reading more than BODY_BYTES_MAX."""
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"identity", b"gzip", b"x-gzip"):
        raise HttpProblem(UNSUPPORTED, f"Content-Encoding {encoding[:100].decode('latin-1')}", headers=CLOSE)
    declared = headers.get(b"content-length", b"0")
    if len(declared) > 12 or int(declared) > BODY_BYTES_MAX:  # httptools lets digits pass only
        raise too_large()
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        body = await _rest(body, receive)
    elif message["type"] == "http.disconnect":
        raise disconnected()
    if len(body) > BODY_BYTES_MAX:
        raise too_large()
    return body if encoding == b"identity" else gunzip(body)


async def _rest(first: bytes, receive: Receive) -> bytes:
    parts, size = [first], len(first)
    while size <= BODY_BYTES_MAX:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise disconnected()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if not message.get("more_body"):
            break
    return b"".join(parts)


def gunzip(raw: bytes) -> bytes:
    """The content of a gzip stream. Raises HttpProblem when it's invalid, truncated, or too large."""
    stream = zlib.decompressobj(GZIP_WBITS)
    try:
        body = stream.decompress(raw, BODY_BYTES_MAX + 1)
    except zlib.error:
        raise HttpProblem(INVALID, "the body isn't gzip, though Content-Encoding says so") from None
    if len(body) > BODY_BYTES_MAX:
        raise too_large()
    if not stream.eof:
        raise HttpProblem(INVALID, "the body's gzip stream is truncated")
    if stream.unused_data:
        raise HttpProblem(INVALID, "something follows the body's gzip stream")
    return body


def too_large() -> HttpProblem:
    """The problem of a body over the limit."""
    return HttpProblem(TOO_LARGE, f"a body has at most {BODY_BYTES_MAX} bytes, counted after gzip", headers=CLOSE)


def disconnected() -> HttpProblem:
    """Nobody reads this one."""
    return HttpProblem(INVALID, "the client left before the body was complete")


async def send_answer(send: Send, status: int, form: bytes, body: bytes) -> None:
    """Answer with a body in one of FORMS."""
    headers = [(b"content-type", form), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
