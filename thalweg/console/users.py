"""A user as the page shows them: their page now with each item explained, and their history."""

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec

from stream.history.profiles import read_profiles
from stream.runtime.settings import Settings
from stream.snapshots.redis_client import connect, translated
from thalweg.client.client import url_of
from thalweg.client.errors import Unavailable
from thalweg.client.explanations import explain

HISTORY: Final = 30  # newest installs
TITLES_MAX: Final = 20_000
TITLE_S: Final = 2.0

Context = Mapping[str, str]


class UserPages:
    """Asks a ranker and Redis about users. `ranker`: where one answers over HTTP now, empty: nowhere. Thread-safe."""

    def __init__(self, settings: Settings, model: str, ranker: Callable[[], str]) -> None:
        self._settings, self._model, self._ranker = settings, model, ranker
        self._token = settings.http_token.get_secret_value()
        self._titles: dict[str, str] = {}
        headers = {"authorization": f"Bearer {self._token}"} if self._token else {}
        self._http = httpx.Client(headers=headers, timeout=TITLE_S, trust_env=False)

    def page(self, user: str, k: int, context: Context) -> dict[str, Any]:
        """The page that the user would get now, explained, and the history, newest first.

        `history` is None where it isn't known. Raises ClientError, StoreUnavailable.
        """
        found = explain(self.address(), user, k=k, model=self._model, context=context, token=self._token)
        for item in found.items:
            self._remember(item.item, item.title)
        return msgspec.to_builtins(found) | {"history": self._history(user)}  # type: ignore[no-any-return]  # a struct

    def address(self) -> str:
        """Where a ranker answers over HTTP. Raises Unavailable."""
        address = self._ranker()
        if not address:
            raise Unavailable(
                "No ranker answers over HTTP here",
                "users' pages come from one",
                "start it with --http 127.0.0.1:8080, or name another machine's: thalweg console --ranker HOST:PORT",
                type="no_ranker",
            )
        return address

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def _history(self, user: str) -> list[dict[str, str]] | None:
        if not self._settings.redis:
            return None
        with closing(connect(self._settings)) as client, translated(client):
            items = read_profiles(client, [user], self._settings.topic_prefix)[user].history
        if items is None:
            return None
        return [{"item": item, "title": self._title(item)} for item in reversed(items[-HISTORY:])]

    def _title(self, item: str) -> str:
        """The item's title; empty where the ranker has none or doesn't say."""
        if item not in self._titles:
            url = f"{url_of(self.address())}/v1/items/{quote(item, safe='')}"
            try:
                answer = self._http.get(url)
                body = answer.json() if answer.status_code == 200 else {}
            except (httpx.RequestError, ValueError):
                return ""
            if answer.status_code not in (200, 404):
                return ""  # it may say so later
            self._remember(item, str(body.get("title", "")))
        return self._titles[item]

    def _remember(self, item: str, title: str) -> None:
        if len(self._titles) >= TITLES_MAX:
            self._titles.clear()
        self._titles[item] = title
