"""Sessions of a backtest: what each user installed, oldest first, each item once.

The session peers know nothing else. They count pairs of items in the sessions when they are asked for a prediction, so
there is no model to refit, and an install that is taken back is gone.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from stream.events.types import Install
from stream.tables.dtypes import I64

FIRST_CELLS: Final = 4  # of a row
FIRST_ROWS: Final = 1_024


class RaggedRows(NamedTuple):
    """Rows of whole numbers, as kernels read them: row r is cells[spans[r, 0]:][:spans[r, 1]]."""

    cells: Any  # i64[C]
    spans: Any  # i64[R, 3]: first cell, length, room


class Sessions(NamedTuple):
    """All sessions, as kernels read them. S and I are at least the number of users and of items."""

    items: RaggedRows  # of each user, oldest first
    users: RaggedRows  # of each item
    newest_ms: Any  # i64[S], each user's newest install


class UserSessions:
    """Each user's installs. Users and items are numbered as they come."""

    def __init__(self) -> None:
        self.names: list[str] = []  # of items
        self._item_numbers: dict[str, int] = {}
        self._user_numbers: dict[str, int] = {}
        self._items, self._users, self._order = GrowingRows(), GrowingRows(), GrowingRows()
        self._newest_ms: I64 = np.zeros(FIRST_ROWS, np.int64)

    def __len__(self) -> int:
        """How many items there are."""
        return len(self.names)

    @property
    def installs(self) -> I64:
        """How many users have each item, i64[items]."""
        return self._users.lengths[: len(self)].copy()

    def newest_installs(self, last: int) -> I64:
        """How many of the `last` newest installs of all users are of each item, i64[items]."""
        return np.bincount(self._order[0][-last:], minlength=len(self))

    @property
    def sessions(self) -> Sessions:
        """As they are now; valid until the next change."""
        return Sessions(self._items.rows, self._users.rows, self._newest_ms)

    def known(self, name: str) -> int:
        """The item's number, -1 if it has none."""
        return self._item_numbers.get(name, -1)

    def item(self, name: str) -> int:
        """The item's number; a new item gets the next one."""
        number = self._item_numbers.setdefault(name, len(self.names))
        if number == len(self.names):
            self.names.append(name)
            self._users.reserve(number)
        return number

    def user(self, name: str) -> int:
        """The user's number; a new user gets the next one, and an empty session."""
        number = self._user_numbers.setdefault(name, len(self._user_numbers))
        self._items.reserve(number)
        self._newest_ms = _reserved(self._newest_ms, number)
        return number

    def session(self, user: str) -> I64:
        """The user's items, oldest first, i64[n]."""
        return self._items[self.user(user)].copy()

    def update(self, install: Install) -> bool:
        """Add an install, or take one back; whether that changed the session: one that the user has changes nothing."""
        user, item = self.user(install.user), self.item(install.item)
        has_it = bool((self._items[user] == item).any())
        if has_it != install.retracted:
            return False
        if has_it:
            self._items.remove(user, item)
            self._users.remove(item, user)
            self._order.remove(0, item)
        else:
            self._items.append(user, item)
            self._users.append(item, user)
            self._order.append(0, item)
            self._newest_ms[user] = max(self._newest_ms[user], install.time_ms)
        return True

    def erase(self, user: str) -> None:
        """Take back all that the user has."""
        for item in self.session(user).tolist():
            self.update(Install(user, self.names[item], 0, "", retracted=True))


class GrowingRows:
    """Rows of whole numbers that grow at their ends; a row that is full moves to where it has twice the room."""

    def __init__(self) -> None:
        self._cells: I64 = np.zeros(FIRST_ROWS * FIRST_CELLS, np.int64)
        self._spans: I64 = np.zeros((FIRST_ROWS, 3), np.int64)
        self._used = 0  # cells

    @property
    def rows(self) -> RaggedRows:
        """As they are now; valid until the next change."""
        return RaggedRows(self._cells, self._spans)

    @property
    def lengths(self) -> I64:
        """Of all rows, i64[R]."""
        return self._spans[:, 1]

    def reserve(self, row: int) -> None:
        """Make sure that this row is there."""
        self._spans = _reserved(self._spans, row)

    def __getitem__(self, row: int) -> I64:
        first, length, _ = self._spans[row].tolist()
        return self._cells[first : first + length]

    def append(self, row: int, value: int) -> None:
        """Add a number to the end of a row."""
        first, length, room = self._spans[row].tolist()
        if length == room:
            first, room = self._used, max(FIRST_CELLS, 2 * room)
            self._used += room
            self._cells = _reserved(self._cells, self._used)
            self._cells[first : first + length] = self[row]
        self._cells[first + length] = value
        self._spans[row] = first, length + 1, room

    def remove(self, row: int, value: int) -> None:
        """Remove a number from a row, the last one of its kind; later numbers move up."""
        cells = self[row]
        i = int(np.flatnonzero(cells == value)[-1])
        cells[i:-1] = cells[i + 1 :].copy()
        self._spans[row, 1] -= 1


def _reserved(array: I64, row: int) -> I64:
    """The array, with zeros behind it so that it has this row."""
    if row < len(array):
        return array
    return np.concatenate([array, np.zeros((max(row + 1 - len(array), len(array)), *array.shape[1:]), np.int64)])
