"""Tokens for Kafka's login OAUTHBEARER: of an OAuth 2 server, by client credentials, or of a file that others renew."""

import base64
import json
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from stream.runtime.errors import LogError, LogUnavailable, SettingsError
from stream.runtime.loopback import is_loopback
from stream.runtime.settings import Settings
from stream.runtime.tls import tls_context

ANSWER_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 1 << 20
RENEWED_AT: Final = 0.8  # of a token's life
LIFE_S: Final = 60.0  # of one whose life isn't said


class TokenSource:
    """The newest token, one request for all clients of a process. `url`: https://…, or file:///…; threads may share it.

    Raises SettingsError.
    """

    def __init__(
        self, url: str, login: tuple[str, str], scope: str, ca: str, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        parts = urlsplit(url)
        is_safe = parts.scheme in ("https", "file") or (
            parts.scheme == "http" and is_loopback(f"{parts.hostname}:{parts.port}")
        )
        if not is_safe or (parts.scheme == "file" and (parts.netloc or not parts.path)):
            raise SettingsError(
                f"THALWEG_KAFKA_OAUTH_URL is {url!r}: it takes https://host/path, an OAuth 2 server's token endpoint, "
                "or file:///path of a file with a token"
            )
        self._url, self._login, self._scope, self._now_s = url, login, scope, now_s
        self._file = Path(parts.path) if parts.scheme == "file" else None
        self._tls: ssl.SSLContext | None = (
            tls_context("KAFKA_OAUTH", ca, "", "", "") if parts.scheme == "https" else None
        )
        self._lock = threading.Lock()
        self._token, self._renew_s = "", 0.0

    def token(self) -> str:
        """Raises LogUnavailable, or LogError where the server refuses the login."""
        if self._file is not None:
            try:
                return self._file.read_text().strip()
            except (OSError, UnicodeDecodeError) as bad:
                raise LogUnavailable(f"no token for Kafka: {self._file} can't be read: {bad}") from None
        with self._lock:
            if self._now_s() >= self._renew_s:
                self._token, life_s = self._asked()
                self._renew_s = self._now_s() + RENEWED_AT * life_s
            return self._token

    def _asked(self) -> tuple[str, float]:
        fields = {"grant_type": "client_credentials"} | ({"scope": self._scope} if self._scope else {})
        login = base64.b64encode(":".join(quote(part, safe="") for part in self._login).encode()).decode()
        request = urllib.request.Request(
            self._url, urlencode(fields).encode(), {"Authorization": f"Basic {login}", "Accept": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S, context=self._tls) as answer:
                found = json.loads(answer.read(ANSWER_BYTES_MAX))
            return str(found["access_token"]), float(found.get("expires_in", LIFE_S))
        except urllib.error.HTTPError as bad:
            if bad.code in (400, 401, 403):
                raise LogError(
                    f"no token for Kafka: {self._url} refuses client {self._login[0]!r} ({bad}): check "
                    "THALWEG_KAFKA_USER, THALWEG_KAFKA_PASSWORD and THALWEG_KAFKA_OAUTH_SCOPE"
                ) from None
            raise LogUnavailable(f"no token for Kafka: {self._url} answers {bad}") from None
        except (OSError, ValueError, KeyError, TypeError) as bad:
            raise LogUnavailable(f"no token for Kafka from {self._url}: {bad!r}") from None


def token_source(settings: Settings) -> TokenSource:
    """The source that the settings name, one of each for all clients. Raises SettingsError."""
    login = settings.kafka_user, settings.kafka_password.get_secret_value()
    return _shared(settings.kafka_oauth_url, login, settings.kafka_oauth_scope, settings.kafka_oauth_ca)


_shared = cache(TokenSource)
