"""An OAuth 2 server, as far as clients of Kafka need one."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class TokenServer:
    """An OAuth 2 server's token endpoint. `answers`: bodies that it sends in turns, or codes of errors."""

    def __init__(self) -> None:
        self.answers: list[object] = []
        self.asked: list[tuple[str, str]] = []  # login and body
        handler = self._handler()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                login = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                owner.asked.append((login, body))
                answer = owner.answers[min(len(owner.asked), len(owner.answers)) - 1]
                code, content = (answer, b"no") if isinstance(answer, int) else (200, json.dumps(answer).encode())
                self.send_response(code)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Silent."""

        return Handler


def unsecured_token(user: str, now_s: float) -> str:
    """A token that a broker without an own validator believes: of an hour, not signed."""
    parts: list[dict[str, object]] = [{"alg": "none"}, {"sub": user, "iat": now_s, "exp": now_s + 3600}]
    coded = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return ".".join([*coded, ""])
