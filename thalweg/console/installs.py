"""An install that a person makes on the page of a demo, to watch what changes."""

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from typing import Any, Final

from stream.runtime.errors import DataError
from stream.runtime.settings import Settings
from stream.snapshots.redis_store import RedisStore
from thalweg.demo.caller import Answer, kafka_caller

TRIES: Final = 10
PAUSE_S: Final = 0.2


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
            ask = partial(caller.rank, user, k=k, context=columns)
            page = patiently(ask).reply
            if item not in page.items:
                page = patiently(partial(ask, k=1, candidates=[item])).reply
            appended_ms = caller.install(user, item, page)
            after, served_ms = caller.wait_learned(store, appended_ms, page.version, lambda: patiently(ask))
        return {"served_ms": served_ms, "version": after.version, "items": after.items}


def patiently(ask: Callable[[], Answer], sleep: Callable[[float], None] = time.sleep) -> Answer:
    """An answer, after several tries while a ranker is overloaded. Raises DataError when it stays so."""
    for _ in range(TRIES - 1):
        try:
            return ask()
        except DataError:
            sleep(PAUSE_S)
    return ask()
