"""As much of S3 as a backup uses, in memory: put, get a range, delete, list a folder. Signatures aren't checked."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 3  # keys of one answer to a listing, so that there are several


class S3Server(ThreadingHTTPServer):
    """`objects` by path, the bucket first; whoever asks for a bucket that isn't `bucket` gets an error."""

    daemon_threads = True

    def __init__(self, bucket: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bucket, self.objects = bucket, dict[str, bytes]()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: S3Server
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        """Store an object."""
        body = self.rfile.read(int(self.headers["content-length"]))
        if self._is_allowed():
            self.server.objects[self._key] = body
            self._answer(200)

    def do_GET(self) -> None:
        """An object, or a range of it; or a list."""
        if not self._is_allowed():
            return
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self._list(query.get("prefix", [""])[0], int(query.get("continuation-token", ["0"])[0]))
        elif (found := self.server.objects.get(self._key)) is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            first, _, last = self.headers["range"].removeprefix("bytes=").partition("-")
            part = found[int(first) : int(last) + 1]
            self._answer(206, part, ("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(found)}"))

    def do_POST(self) -> None:
        """Delete the objects that the body names, whether they are there or not."""
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        if self._is_allowed():
            keys = re.findall("<Key>(.*?)</Key>", body)
            for key in keys:
                self.server.objects.pop(f"{self.server.bucket}/{key}", None)
            rows = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
            self._answer(200, f"<DeleteResult>{rows}</DeleteResult>".encode())

    @property
    def _key(self) -> str:
        return unquote(urlsplit(self.path).path)[1:]

    def _is_allowed(self) -> bool:
        if self._key.split("/")[0] == self.server.bucket and "AWS4-HMAC-SHA256" in self.headers["authorization"]:
            return True
        self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        return False

    def _list(self, prefix: str, begin: int) -> None:
        keys = sorted(key.partition("/")[2] for key in self.server.objects)
        keys = [key for key in keys if key.startswith(prefix) and "/" not in key[len(prefix) :]]
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.objects[f'{self.server.bucket}/{key}'])}</Size>"
            '<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>"0"</ETag></Contents>'
            for key in keys[begin : begin + PAGE]
        )
        end = begin + PAGE
        more = f"<NextContinuationToken>{end}</NextContinuationToken>" if end < len(keys) else ""
        body = f"<ListBucketResult><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}{rows}</ListBucketResult>"
        self._answer(200, body.encode())

    def _answer(self, status: int, body: bytes = b"", *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Length", str(len(body))), ("ETag", '"0"'), ("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT"),
            *headers,
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""


@contextmanager
def s3_server(bucket: str) -> Iterator[S3Server]:
    """A server that runs meanwhile."""
    server = S3Server(bucket)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
