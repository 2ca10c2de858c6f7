"""Values that come with requests and pages, noted when this process meets them first: for the topic `feature.names`.

Features are hashed before they are logged. What items and users say can be looked up in their topics; what a request
alone says (its context, attributes that it brings, a user whom nobody described) is in none.
"""

from collections.abc import Callable, Mapping
from threading import Lock
from typing import Final

from stream.events.codec import encode
from stream.events.topics import HOUR_MS
from stream.events.types import ID_BYTES_MAX, FeatureName, Value
from stream.features.page_features import Layout, id_of, seed_of, texts_of

COLUMN_MAX: Final = 10_000  # values of one column that a process names a day: a search query may have any number
FORGET_MS: Final = 24 * HOUR_MS  # after which values that are still in use are named again: names expire
USER_ID: Final = "user.id"
CONTEXT: Final = "context."

Named = tuple[bytes, bytes]  # key and value of a record of `feature.names`


def name_key(column: str, text: str) -> bytes:
    """The key of a value in the topic."""
    return f"{id_of(seed_of(column), text):016x}".encode()


class NewValues:
    """Notes values once a day. Threads may share it.

    A value that was noted costs a look-up in a set; only one that is met first is hashed and encoded.
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms, self._lock = now_ms, Lock()
        self._forget_ms = now_ms() + FORGET_MS
        self._columns: dict[int, dict[str, str]] = {}  # by a layout's hash: short names of the context's categories
        self._seen: set[tuple[str, object]] = set()
        self._counts: dict[str, int] = {}
        self._new: list[Named] = []

    def note(
        self,
        layout: Layout,
        context: Mapping[str, Value],
        attributes: Mapping[str, Value] | None = None,
        user: str = "",
    ) -> None:
        """Note the values of a request: its context, attributes that it brings, and the user, if described nowhere."""
        for short, column in self._context_of(layout).items():
            value = context.get(short)
            if value is not None and (column, value) not in self._seen:
                self._add(column, value, value)
        for short, value in (attributes or {}).items():
            column, known = f"user.{short}", tuple(value) if isinstance(value, list) else value
            if column in layout.user_lists and (column, known) not in self._seen:
                self._add(column, value, known)
        if user and (USER_ID, user) not in self._seen:
            self._add(USER_ID, user, user)

    def forget(self, user: str) -> None:
        """Forget an erased user, also where the name wasn't taken yet."""
        key = name_key(USER_ID, user)
        with self._lock:
            self._seen.discard((USER_ID, user))
            self._new = [named for named in self._new if named[0] != key]

    def take(self) -> list[Named]:
        """What was noted since the last call."""
        with self._lock:
            new, self._new = self._new, []
            if self._now_ms() >= self._forget_ms:
                self._forget_ms = self._now_ms() + FORGET_MS
                self._seen, self._counts = set(), {}
        return new

    def put_back(self, named: list[Named]) -> None:
        """What was taken, and couldn't be written."""
        with self._lock:
            self._new = named + self._new

    def _context_of(self, layout: Layout) -> dict[str, str]:
        found = self._columns.get(layout.hash)
        if found is None:
            names = [name for name in layout.user_lists if name.startswith(CONTEXT)]
            found = self._columns[layout.hash] = {name.removeprefix(CONTEXT): name for name in names}
        return found

    def _add(self, column: str, value: Value, known: object) -> None:
        if self._counts.get(column, 0) >= COLUMN_MAX:
            return
        texts = [text for text in texts_of(value) if text and len(text.encode()) <= ID_BYTES_MAX]
        with self._lock:
            self._seen.add((column, known))
            self._counts[column] = self._counts.get(column, 0) + max(1, len(texts))
            self._new += [(name_key(column, text), encode(FeatureName(column, text))) for text in texts]
