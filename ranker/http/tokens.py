"""Bearer tokens: who may call what. Read from a file, again whenever it changes."""

import hashlib
import hmac
import ipaddress
import logging
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from ranker.http.problems import FORBIDDEN, UNAUTHORIZED, HttpProblem
from stream.runtime.errors import SettingsError

Scope = Literal["rank", "events", "catalogue", "admin"]
SCOPES: Final[tuple[Scope, ...]] = ("rank", "events", "catalogue", "admin")
TOKEN_CHARS_MIN: Final = 16
CHECK_EVERY_S: Final = 1.0  # how often the file is looked at
SCHEME: Final = b"bearer "

log = logging.getLogger(__name__)


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    """One table of the file."""

    token: Annotated[str, Meta(min_length=TOKEN_CHARS_MIN)]
    scopes: Annotated[list[Scope], Meta(min_length=1)]


@dataclass(frozen=True)
class Caller:
    """Who calls: the token's name in the file, and what it may do."""

    name: str
    scopes: frozenset[str]


ANYONE: Final = Caller("", frozenset(SCOPES) - {"admin"})  # where no tokens are set: loopback only

_Known = list[tuple[bytes, Caller]]  # SHA-256 of each token


class Tokens:
    """The tokens of `file` (TOML: a table each with `token` and `scopes`); None: no tokens, everyone is ANYONE.

    Raises SettingsError when the file can't be read or is invalid; a later change that is invalid is logged, and the
    tokens stay as they were. `now_s` is monotonic. For the event loop's thread.
    """

    def __init__(self, file: Path | None, now_s: Callable[[], float]) -> None:
        self._file, self._now_s = file, now_s
        self._checked_s = now_s()
        self._seen = _state_of(file)
        self._known: _Known = [] if file is None else read_tokens(file)

    @property
    def any(self) -> bool:
        """Whether there are tokens."""
        return bool(self._known)

    def caller(self, authorization: bytes | None) -> Caller:
        """Who sends this Authorization header. Raises HttpProblem (401) without a valid token where there are some.

        Every token is compared, each in constant time.
        """
        self._refresh()
        if not self._known:
            return ANYONE
        if authorization is None or authorization[: len(SCHEME)].lower() != SCHEME:
            raise HttpProblem(UNAUTHORIZED, "the request has no bearer token")
        digest = hashlib.sha256(authorization[len(SCHEME) :].strip()).digest()
        found: Caller | None = None
        for known, caller in self._known:
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            raise HttpProblem(UNAUTHORIZED, "this token isn't known here")
        return found

    def _refresh(self) -> None:
        if self._file is None or self._now_s() - self._checked_s < CHECK_EVERY_S:
            return
        self._checked_s = self._now_s()
        state = _state_of(self._file)
        if state == self._seen:
            return
        self._seen = state
        try:
            known = read_tokens(self._file)
            if not known:
                raise SettingsError(f"{self._file} names no token any more: without one everybody could call")
            self._known = known
        except SettingsError as error:
            log.error("%s; the tokens stay as they were", error)
        else:
            log.info("%s has changed: it was read again", self._file)


def require(caller: Caller, *scopes: Scope) -> None:
    """Raises HttpProblem (403) when the caller has none of the scopes."""
    if not caller.scopes.isdisjoint(scopes):
        return
    scope = " or ".join(scopes)
    if caller is ANYONE:
        raise HttpProblem(
            FORBIDDEN,
            f"calls of scope {scope} are off without tokens",
            remedy="set THALWEG_HTTP_TOKENS to a file of tokens",
        )
    raise HttpProblem(FORBIDDEN, f"the token {caller.name} hasn't the scope {scope}")


def read_tokens(file: Path) -> _Known:
    """Raises SettingsError, which never shows a token."""
    try:
        tables = tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it isn't TOML"
        raise SettingsError(f"the tokens in {file} can't be read ({why}); {_FORM}") from None
    known: _Known = []
    for name, table in tables.items():
        try:
            entry = msgspec.convert(table, _Entry)
        except msgspec.ValidationError as error:
            raise SettingsError(f"{file}: the token {name} is invalid ({error}); {_FORM}") from None
        known.append((hashlib.sha256(entry.token.encode()).digest(), Caller(name, frozenset(entry.scopes))))
    return known


def check_exposure(host: str, tokens: Tokens) -> None:
    """Raises SettingsError when others than this machine could call without a token."""
    if not tokens.any and not is_loopback(host):
        raise SettingsError(
            f"--http listens on {host}, which others can reach, and there are no tokens; set THALWEG_HTTP_TOKENS to a "
            "file of tokens, or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.com")]
    [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_FORM: Final = (
    f'write a table for each token: [NAME], token = "..." ({TOKEN_CHARS_MIN} characters at least), '
    f"scopes = [...] out of {', '.join(SCOPES)}"
)


def _state_of(file: Path | None) -> tuple[int, int, int] | None:
    """What changes when the file does."""
    if file is None:
        return None
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
