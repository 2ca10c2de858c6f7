"""An install that a person makes on the page of a demo, to watch what changes."""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from stream.runtime.settings import Settings
from stream.snapshots.redis_store import RedisStore
from thalweg.demo.caller import kafka_caller


class DemoInstalls:
    """Shows a user their page of now, installs an item of it, and waits until that is learned."""

    def __init__(self, settings: Settings, model: str) -> None:
        self._settings, self._model = settings, model

    def install(self, user: str, item: str, k: int, context: Mapping[str, str]) -> dict[str, Any]:
        """Milliseconds from the install's append to the first reply that has learned it, and that reply's version.

        An item that isn't on the user's page any more is shown on a page of its own. Raises LogError, DataError when
        nothing learns it in time, SnapshotError.
        """
        columns: dict[str, str | float] = {**context}
        with closing(RedisStore(self._settings, self._model)) as store, kafka_caller(self._settings) as caller:
            page = caller.rank(user, k=k, context=columns).reply
            if item not in page.items:
                page = caller.rank(user, k=1, candidates=[item], context=columns).reply
            appended_ms = caller.install(user, item, page)
            after, served_ms = caller.wait_learned(
                store, appended_ms, page.version, lambda: caller.rank(user, k=k, context=columns)
            )
        return {"served_ms": served_ms, "version": after.version, "items": after.items}
